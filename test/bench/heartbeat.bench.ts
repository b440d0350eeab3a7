/**
 * Heartbeats per second of the whole Worker, single and in batches, over 200 users and 32
 * connections, against a Worker that only parses the JSON and calls an empty method of an actor.
 *
 * A batch costs one call per user in it, some 120 µs of the runtime's: it gains what a user's
 * devices share. The bound is for a fleet of ten devices per user, in the fleet's order; the row
 * "scattered" is the worst case, a batch in which all 200 users are met.
 */
import autocannon from "autocannon";
import { type BenchServer, cpuMs, median, startWorker } from "./server.ts";

const USERS = 200;
const CONNECTIONS = 32;
const BATCH = 500;
const ROUNDS = 3;
const ROUND_SECONDS = 3;
const BOUNDS = { single: 0.8, batch: 8 };
const TOKEN = "bench-ingest-token";

const DEVICES_PER_USER = 10;
const users = Array.from({ length: USERS }, () => crypto.randomUUID());
const fleet = users.flatMap((user_id) =>
  Array.from({ length: DEVICES_PER_USER }, () => ({ user_id, device_id: crypto.randomUUID() })),
);
/** Neighbours are of different users. */
const scattered = fleet.map((_, i) => {
  const device = Math.floor(i / USERS);
  return fleet[(i % USERS) * DEVICES_PER_USER + device];
});
let seq = 0;

function beat(devices: typeof scattered) {
  seq += 1;
  return {
    ...devices[seq % devices.length],
    schema_version: 1,
    status: "online",
    source: "bench",
    sent_at_ms: Date.now(),
    seq,
    ttl_ms: 60_000,
  };
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
  devices: typeof scattered,
  size = 1,
): Promise<Figures> {
  const beats = () => Array.from({ length: size }, () => beat(devices));
  const makeBody = () => JSON.stringify(size === 1 ? beat(devices) : { heartbeats: beats() });
  const before = cpuMs(server.pid);
  const result = await autocannon({
    url: `${server.url.replace("ws:", "http:")}${path}`,
    connections: CONNECTIONS,
    duration: ROUND_SECONDS,
    requests: [
      {
        method: "POST",
        headers: { Authorization: `Bearer ${TOKEN}`, "Content-Type": "application/json" },
        setupRequest: (request) => ({ ...request, body: makeBody() }),
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

export default async function heartbeat(): Promise<string[]> {
  const ours = await startWorker(
    "src/worker.ts",
    {
      DEVICES: "DeviceRoom",
      FANOUT: "FanoutRoom",
      MOODS: "MoodRoom",
      PRESENCE: "PresenceRoom",
    },
    { ENVIRONMENT: "development", PRESENCE_DO_INGEST_TOKEN: TOKEN },
  );
  const peer = await startWorker("test/bench/heartbeat.worker.ts", { PEER: "Peer" });
  const one = "/api/v1/daemon/presence/heartbeat";
  const many = "/api/v1/daemon/presence/heartbeats";
  try {
    const rounds: Record<"peer" | "single" | "batch" | "scattered", Figures>[] = [];
    for (let i = 0; i <= ROUNDS; i++) {
      // In turns, so that a stall of the machine hits all alike.
      const round = {
        peer: await load(peer, "/", scattered),
        single: await load(ours, one, scattered),
        batch: await load(ours, many, fleet, BATCH),
        scattered: await load(ours, many, scattered, BATCH),
      };
      if (i > 0) rounds.push(round);
    }
    const single = median(rounds.map((round) => round.single.rate / round.peer.rate));
    const batch = median(rounds.map((round) => round.batch.rate / round.single.rate));
    console.log(
      `single, of a bare Worker's rate   ${single.toFixed(2)} (at least ${BOUNDS.single})`,
    );
    console.log(`batch, of single's rate           ${batch.toFixed(1)} (at least ${BOUNDS.batch})`);
    const row = (pick: (round: (typeof rounds)[number]) => Figures) => ({
      "heartbeats/s": Math.round(median(rounds.map((round) => pick(round).rate))),
      "server CPU µs each": Math.round(median(rounds.map((round) => pick(round).cpuUs))),
    });
    console.table({
      "bare Worker": row((round) => round.peer),
      single: row((round) => round.single),
      [`batch of ${BATCH}`]: row((round) => round.batch),
      [`batch of ${BATCH}, scattered`]: row((round) => round.scattered),
    });
    return [
      ...(single >= BOUNDS.single ? [] : [`single: ${single.toFixed(2)} of ${BOUNDS.single}`]),
      ...(batch >= BOUNDS.batch ? [] : [`batch: ${batch.toFixed(1)} of ${BOUNDS.batch}`]),
    ];
  } finally {
    await peer.stop();
    await ours.stop();
  }
}
