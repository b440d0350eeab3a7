/**
 * `npm run daemon -- --user UUID --device UUID`: reports that a device is there, for as long
 * as this process runs.
 */
import { randomUUID } from "node:crypto";
import { parseArgs } from "node:util";
import { DeviceClient } from "../../client/devices.ts";
import { readDevVars } from "../../scripts/dev-vars.ts";

const USAGE = `usage: npm run daemon -- --user UUID [--device UUID] [--url URL] [--ttl MS] [--http]

  --user UUID     whose device this is
  --device UUID   which; default a new one
  --url URL       default http://127.0.0.1:8787
  --ttl MS        how long one sign of life vouches for the device, default 12000
  --http          never by a socket

Its token is DAEMON_TOKEN of the environment (\`npm run -s token -- --kind daemon …\`), else the ingest
token, PRESENCE_DO_INGEST_TOKEN of the environment or of .dev.vars.
`;

const { values: flags } = parseArgs({
  options: {
    user: { type: "string" },
    device: { type: "string", default: randomUUID() },
    url: { type: "string", default: "http://127.0.0.1:8787" },
    ttl: { type: "string", default: "12000" },
    http: { type: "boolean", default: false },
  },
});
const ttlMs = Number(flags.ttl);
const { DAEMON_TOKEN, PRESENCE_DO_INGEST_TOKEN } = { ...readDevVars(), ...process.env };
const token = DAEMON_TOKEN ?? PRESENCE_DO_INGEST_TOKEN;
if (flags.user === undefined || !(ttlMs >= 1) || !token) {
  process.stderr.write(token ? USAGE : "There is no token: see --help\n");
  process.exit(2);
}

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

const { user: userId, device: deviceId, url } = flags;
const device = new DeviceClient({
  ...{ url, userId, deviceId, token, ttlMs, source: "example-daemon" },
  ...(flags.http && { WebSocket: NoWebSocket }),
  onState(state) {
    const via = state === "online" ? ` by ${device.via}` : "";
    process.stdout.write(`${deviceId} of ${userId}: ${state}${via}\n`);
    if (state === "refused") process.exitCode = 1;
  },
  onError: ({ message }) => process.stderr.write(`${message}\n`),
});
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => device.close());
