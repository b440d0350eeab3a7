/**
 * Heartbeats per second of the whole Worker, single and in batches, over 200 users and 32
 * connections, against a Worker that only parses the JSON and calls an empty method of an actor.
 *
 * A batch costs one call per user in it, some 120 µs of the runtime's: it gains what a user's
 * devices share. The bound is for a fleet of ten devices per user, in the fleet's order; the row
 * "scattered" is the worst case: a batch with all 200 users.
 */
import autocannon from "autocannon";
import { beatOf } from "../kit/devices.ts";
import { cpuMs } from "../kit/processes.ts";
import { signUser } from "../kit/stage.ts";
import { less, more, OURS, pick, type Quantity, type Result, takeTurns } from "./report.ts";
import { type BenchServer, startWorker } from "./server.ts";

const USERS = 200;
const CONNECTIONS = 32;
const BATCH = 500;
const ROUND_SECONDS = 3;
const TOKEN = "bench-ingest-token-0123456789-0123456789";
const SECRET = "bench-secret-bench-secret-bench-secret";
/** The peer: a Worker that calls an actor and does nothing else. */
const BARE = "bare Worker";

const DEVICES_PER_USER = 10;
const users = Array.from({ length: USERS }, () => crypto.randomUUID());
const fleet = users.flatMap((user_id) =>
  Array.from({ length: DEVICES_PER_USER }, () => ({ user_id, device_id: crypto.randomUUID() })),
);
/** Neighbours are of different users. */
const scattered = fleet.map((_, i) => {
  const device = Math.floor(i / USERS);
  return fleet[(i % USERS) * DEVICES_PER_USER + device] as (typeof fleet)[number];
});
let seq = 0;

function beat(devices: typeof fleet) {
  seq += 1;
  return beatOf({ ...(devices[seq % devices.length] as (typeof fleet)[number]), seq });
}

const HEADERS = { Authorization: `Bearer ${TOKEN}`, "Content-Type": "application/json" };

function bodyOf(devices: typeof fleet, size: number): string {
  const heartbeats = Array.from({ length: size }, () => beat(devices));
  return JSON.stringify(size === 1 ? heartbeats[0] : { heartbeats });
}

interface Figures {
  /** Heartbeats per second. */
  rate: number;
  /** CPU time of the server for one heartbeat, in µs. */
  cpuUs: number;
}

async function load(
  server: BenchServer,
  path: string,
  devices: typeof fleet,
  size = 1,
): Promise<Figures> {
  const before = cpuMs(server.pid);
  const result = await autocannon({
    url: `${server.url.replace("ws:", "http:")}${path}`,
    connections: CONNECTIONS,
    duration: ROUND_SECONDS,
    requests: [
      {
        method: "POST",
        headers: HEADERS,
        setupRequest: (request) => ({ ...request, body: bodyOf(devices, size) }),
      },
    ],
  });
  const used = cpuMs(server.pid) - before;
  if (result.non2xx + result.errors > 0) {
    throw new Error(`${path}: ${result.non2xx} refused, ${result.errors} failed`);
  }
  const done = result["2xx"] * size;
  return { rate: done / result.duration, cpuUs: (used * 1000) / done };
}

const [ONE, MANY] = ["/api/v1/daemon/presence/heartbeat", "/api/v1/daemon/presence/heartbeats"];

/** The whole Worker. `entry`: from the checkout's root; `root`: of the checkout. */
export function startService(entry = "src/server/worker.ts", root?: string): Promise<BenchServer> {
  return startWorker(
    entry,
    {
      DEVICES: "DeviceRoom",
      FANOUT: "FanoutRoom",
      MOODS: "MoodRoom",
      PRESENCE: "PresenceRoom",
    },
    { ENVIRONMENT: "development", PRESENCE_DO_INGEST_TOKEN: TOKEN, JWT_SECRET: SECRET },
    { root },
  );
}

/** Sends `requests` of `size` messages each, {@link CONNECTIONS} at a time, and waits for all answers. */
async function sendPortion(
  { url, pid }: BenchServer,
  path: string,
  requests: number,
  size: number,
  bodyOf: () => string,
  headers: Record<string, string> = HEADERS,
): Promise<Figures> {
  const before = cpuMs(pid);
  const startedAtMs = performance.now();
  let left = requests;
  await Promise.all(
    Array.from({ length: CONNECTIONS }, async () => {
      while (left-- > 0) {
        const response = await fetch(url.replace("ws:", "http:") + path, {
          method: "POST",
          headers,
          body: bodyOf(),
        });
        await response.arrayBuffer();
        if (!response.ok) throw new Error(`${path} answered ${response.status}`);
      }
    }),
  );
  const [done, elapsedMs] = [requests * size, performance.now() - startedAtMs];
  return { rate: (done / elapsedMs) * 1000, cpuUs: ((cpuMs(pid) - before) * 1000) / done };
}

/** A fixed number of heartbeats to the whole Worker, which takes it some 200 ms. */
export const PORTIONS: Record<string, (server: BenchServer) => Promise<Figures>> = {
  single: (server) => sendPortion(server, ONE, 500, 1, () => bodyOf(scattered, 1)),
  [`batch of ${BATCH}`]: (server) =>
    sendPortion(server, MANY, CONNECTIONS, BATCH, () => bodyOf(fleet, BATCH)),
};

/** A fixed number of publishes to users without subscribers. */
export async function publishPortion(server: BenchServer): Promise<Figures> {
  const headers = { ...HEADERS, Authorization: `Bearer ${await signUser(SECRET, "backend")}` };
  let n = 0;
  const publication = () => {
    n += 1;
    const userId = users[n % users.length];
    return JSON.stringify({ userId, type: "order", payload: { n }, ackTimeoutMs: 0 });
  };
  return sendPortion(server, "/publish", 500, 1, publication, headers);
}

export default async function heartbeat(rounds: number): Promise<Result> {
  const ours = await startService();
  const peer = await startWorker("test/bench/heartbeat.worker.ts", { PEER: "Peer" });
  const loads = {
    [BARE]: () => load(peer, "/", scattered),
    [OURS]: () => load(ours, ONE, scattered),
    batch: () => load(ours, MANY, fleet, BATCH),
    scattered: () => load(ours, MANY, scattered, BATCH),
  };
  type Name = keyof typeof loads;
  const names = Object.keys(loads) as Name[];
  // The first of each warms up.
  for (const name of names) await loads[name]();
  const figures = await takeTurns(names, rounds, (name) => loads[name as Name]());
  const quantities = (
    what: string,
    mine: Name,
    [peerName, theirs]: [string, Name],
    least?: number,
  ): Quantity[] => {
    const both = { [OURS]: figures[mine] ?? [], [peerName]: figures[theirs] ?? [] };
    const atLeast = least === undefined ? undefined : { [peerName]: least };
    return [
      more(`${what}: heartbeats`, "a second", 0, pick(both, "rate"), atLeast),
      less(`${what}: server CPU each`, "µs", 0, pick(both, "cpuUs")),
    ];
  };
  const inBatch = `batch of ${BATCH}`;
  return {
    title: "Heartbeat ingest",
    setup: `Heartbeats of ${USERS} users with ${DEVICES_PER_USER} devices each, over ${CONNECTIONS} connections, ${ROUND_SECONDS} s a round, through the whole Worker. The ${BARE} parses the JSON and calls an empty method of an actor. A batch is in the fleet's order, a user's devices together; scattered, it holds all users.`,
    quantities: [
      ...quantities("single", OURS, [BARE, BARE], 0.8),
      ...quantities(inBatch, "batch", ["single heartbeats", OURS], 8),
      ...quantities(`${inBatch}, scattered`, "scattered", ["single heartbeats", OURS]),
    ],
  };
}
