/**
 * `npm run daemon -- --user UUID --device UUID`: reports that a device is there, for as long
 * as this process runs.
 */
import { randomUUID } from "node:crypto";
import { DeviceClient } from "../../client/devices.ts";
import { UUID } from "../../rooms/devices/device.ts";
import { readDevVars } from "../../scripts/dev-vars.ts";
import { UsageError, withOptions } from "../../scripts/options.ts";

const USAGE = `usage: npm run daemon -- --user UUID [--device UUID] [--url URL] [--ttl MS] [--http]

  --user UUID     whose device this is (required)
  --device UUID   which; default a new one
  --url URL       default http://127.0.0.1:8787
  --ttl MS        how long one sign of life vouches for the device, default 12000
  --http          never by a socket

Its token is DAEMON_TOKEN of the environment (\`npm run -s token -- --kind daemon …\`), else the ingest
token, PRESENCE_DO_INGEST_TOKEN of the environment or of .dev.vars.
`;

/** Stands for a network that lets no socket through. */
class NoWebSocket extends EventTarget {
  readonly readyState = 3;
  constructor() {
    super();
    throw new Error("no sockets");
  }
  send(): void {}
  close(): void {}
}

const OPTIONS = {
  user: { type: "string" },
  device: { type: "string", default: randomUUID() },
  url: { type: "string", default: "http://127.0.0.1:8787" },
  ttl: { type: "string", default: "12000" },
  http: { type: "boolean", default: false },
} as const;

await withOptions(USAGE, OPTIONS, ({ user: userId, device: deviceId, url, ttl, http }) => {
  const ttlMs = Number(ttl);
  const { DAEMON_TOKEN, PRESENCE_DO_INGEST_TOKEN } = { ...readDevVars(), ...process.env };
  const token = DAEMON_TOKEN ?? PRESENCE_DO_INGEST_TOKEN;
  if (userId === undefined) throw new UsageError("--user is missing");
  for (const [flag, id] of Object.entries({ user: userId, device: deviceId })) {
    if (!UUID.test(id)) throw new UsageError(`--${flag} takes a lowercase UUID, not "${id}"`);
  }
  if (!(ttlMs >= 1)) throw new UsageError(`--ttl takes milliseconds, not "${ttl}"`);
  if (!token) throw new UsageError("There is no token");
  const device = new DeviceClient({
    ...{ url, userId, deviceId, token, ttlMs, source: "example-daemon" },
    ...(http && { WebSocket: NoWebSocket }),
    onState(state) {
      const via = state === "online" ? ` by ${device.via}` : "";
      process.stdout.write(`${deviceId} of ${userId}: ${state}${via}\n`);
      if (state === "refused") process.exitCode = 1;
    },
    onError: ({ message }) => process.stderr.write(`${message}\n`),
  });
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => device.close());
});
