/**
 * `npm run watch -- --user UUID`: prints what happens to a user's devices, one line each. It mints
 * its own token, with PRESENCE_DO_TOKEN_SIGNING_KEY of the environment, else of .dev.vars.
 */
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { type Heartbeat, UUID } from "../../rooms/devices/device.ts";
import { mintPresenceToken } from "../../rooms/devices/token.ts";
import { readDevVars } from "../../scripts/dev-vars.ts";
import { UsageError, withOptions } from "../../scripts/options.ts";

const USAGE = `usage: npm run watch -- --user UUID [--url URL]

  --user UUID     whose devices (required)
  --url URL       default http://127.0.0.1:8787
`;
const RETRY_MS = 1_000;
const RETRY_MOST_MS = 30_000;
/** Keep-alives come every few seconds: a longer silence means that nobody is there any more. */
const SILENCE_MS = 30_000;

/** The `data:` of each event, until the stream ends. */
async function* eventsOf(body: ReadableStream<Uint8Array>, heard: () => void) {
  let text = "";
  const decoder = new TextDecoder();
  for await (const chunk of body) {
    heard();
    const blocks = (text + decoder.decode(chunk, { stream: true })).split("\n\n");
    text = blocks.pop() ?? "";
    for (const block of blocks) {
      if (block.startsWith("data: ")) yield block.slice("data: ".length);
    }
  }
}

async function watch(url: string, userId: string, token: string): Promise<void> {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENCE_MS);
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(new Error("silence")), SILENCE_MS);
  };
  try {
    const response = await fetch(`${url}/api/v1/mobile/presence/stream?user_id=${userId}`, {
      headers: { Authorization: `Bearer ${token}` },
      signal: silence.signal,
    });
    if (!response.ok || !response.body) {
      throw new Error(`${response.status} ${await response.text()}`);
    }
    process.stdout.write(`watching ${userId}\n`);
    for await (const data of eventsOf(response.body, heard)) {
      const { device_id, status, sent_at_ms, source, seq } = JSON.parse(data) as Heartbeat;
      const at = new Date(sent_at_ms).toISOString();
      process.stdout.write(`${at} ${device_id} ${status} (${source}, ${seq})\n`);
    }
  } finally {
    clearTimeout(timer);
  }
}

const OPTIONS = {
  user: { type: "string", default: "" },
  url: { type: "string", default: "http://127.0.0.1:8787" },
} as const;

const { url, user_id, key } = await withOptions(USAGE, OPTIONS, ({ url, user }) => {
  const key =
    process.env.PRESENCE_DO_TOKEN_SIGNING_KEY ?? readDevVars().PRESENCE_DO_TOKEN_SIGNING_KEY;
  if (!UUID.test(user)) throw new UsageError(`--user takes a lowercase UUID, not "${user}"`);
  if (!key) throw new UsageError("PRESENCE_DO_TOKEN_SIGNING_KEY is empty");
  return { url, user_id: user, key };
});
for (let failures = 0; ; ) {
  // A stream ends with its token: each gets a fresh one, and begins with all devices anew.
  const grant = { user_id, device_id: randomUUID() };
  const { token } = await mintPresenceToken(grant, key);
  try {
    await watch(url, user_id, token);
    failures = 0;
  } catch (error) {
    failures += 1;
    process.stderr.write(`${error instanceof Error ? error.message : error}\n`);
  }
  const pauseMs = Math.min(RETRY_MOST_MS, RETRY_MS * 2 ** failures);
  await sleep(pauseMs * (0.5 + Math.random() / 2));
}
