/**
 * `npm run daemon -- --user UUID --device UUID`: reports that a device is there, for as long
 * as this process runs.
 */
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import type { Heartbeat } from "../../rooms/devices/device.ts";
import { readDevVars } from "../../scripts/dev-vars.ts";

const USAGE = `usage: npm run daemon -- --user UUID [--device UUID] [--url URL] [--ttl MS]

  --user UUID     whose device this is
  --device UUID   which; default a new one
  --url URL       default http://127.0.0.1:8787
  --ttl MS        how long one heartbeat vouches for the device, default 12000

Its token is DAEMON_TOKEN of the environment (\`npm run -s token -- --kind daemon …\`), else the ingest
token, PRESENCE_DO_INGEST_TOKEN of the environment or of .dev.vars.
`;

/** Two beats may get lost before the device counts as offline. */
const BEATS_PER_TTL = 3;
const RETRY_MOST_MS = 30_000;
const ANSWER_MS = 5_000;
const GOODBYE_MS = 2_000;

/** Between half and all of `ms`: a fleet that started together does not beat together. */
function jitter(ms: number): number {
  return ms * (0.5 + Math.random() / 2);
}

async function main(): Promise<void> {
  const { values: flags } = parseArgs({
    options: {
      user: { type: "string" },
      device: { type: "string", default: randomUUID() },
      url: { type: "string", default: "http://127.0.0.1:8787" },
      ttl: { type: "string", default: "12000" },
    },
  });
  const ttlMs = Number(flags.ttl);
  if (flags.user === undefined || !(ttlMs >= 1)) {
    process.stderr.write(USAGE);
    process.exitCode = 2;
    return;
  }
  const { DAEMON_TOKEN, PRESENCE_DO_INGEST_TOKEN } = { ...readDevVars(), ...process.env };
  const token = DAEMON_TOKEN ?? PRESENCE_DO_INGEST_TOKEN;
  const target = new URL("/api/v1/daemon/presence/heartbeat", flags.url);
  const { user: user_id, device: device_id } = flags;
  let seq = 0;

  async function beat(status: Heartbeat["status"], signal: AbortSignal): Promise<Response> {
    seq += 1;
    const body: Heartbeat = {
      schema_version: 1,
      user_id,
      device_id,
      status,
      source: "example-daemon",
      sent_at_ms: Date.now(),
      seq,
      ttl_ms: ttlMs,
    };
    return fetch(target, {
      method: "POST",
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal,
    });
  }

  const stopping = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.once(signal, () => stopping.abort());
  }

  process.stdout.write(`${device_id} of ${user_id} beats at ${target.origin}\n`);
  let failures = 0;
  while (!stopping.signal.aborted) {
    const limit = AbortSignal.any([stopping.signal, AbortSignal.timeout(ANSWER_MS)]);
    try {
      const response = await beat("online", limit);
      // 409 says only that a later heartbeat came first.
      if (!response.ok && response.status !== 409) {
        const why = `${response.status} ${await response.text()}`;
        // What we send will not get better by sending it again.
        if (response.status < 500 && response.status !== 429) throw new Refused(why);
        throw new Error(why);
      }
      if (failures > 0) process.stdout.write("back\n");
      failures = 0;
    } catch (error) {
      if (error instanceof Refused) throw error;
      if (stopping.signal.aborted) break;
      failures += 1;
      process.stderr.write(`not heard: ${error instanceof Error ? error.message : error}\n`);
    }
    const pauseMs =
      failures === 0 ? ttlMs / BEATS_PER_TTL : Math.min(RETRY_MOST_MS, 500 * 2 ** failures);
    await sleep(jitter(pauseMs), undefined, { signal: stopping.signal }).catch(() => {});
  }
  await beat("offline", AbortSignal.timeout(GOODBYE_MS));
  process.stdout.write("offline\n");
}

class Refused extends Error {}

try {
  await main();
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
}
