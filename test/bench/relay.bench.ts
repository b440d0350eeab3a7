/**
 * What the door before LiveStore's relay costs: `npm start` beside sync-cf as it comes, both by
 * `wrangler dev` with D1. And how many runs converge where both clients commit at once.
 *
 *   ROUNDS=5 CONTESTED=5 npm run bench -- relay
 */
import { setTimeout as sleep } from "node:timers/promises";
import { converge, NoteClient, signMember } from "../e2e/livestore.ts";
import { type Server, startServer } from "../e2e/server.ts";

const ROUNDS = Number(process.env.ROUNDS ?? 5);
const CONTESTED = Number(process.env.CONTESTED ?? 5);
const MAX_RATIO = 1.2;
const EVENTS = 1000;
const BURST = 50;
const TIMEOUT_MS = 60_000;
const CONTESTED_TIMEOUT_MS = 15_000;
const JWT_SECRET = "bench-jwt-secret-0123456789-0123456789";

let rooms = 0;

async function openPair(server: Server): Promise<[NoteClient, NoteClient]> {
  const storeId = `bench-${rooms++}`;
  const open = async (userId: string) => {
    const authToken = await signMember(userId, storeId, JWT_SECRET);
    return NoteClient.open({
      url: server.url,
      storeId,
      payload: { instanceId: storeId, authToken },
    });
  };
  const pair = await Promise.all([open("ann"), open("bob")]);
  if (!(await converge(pair, 0, TIMEOUT_MS))) throw new Error("the clients do not start");
  return pair;
}

/** ms from the first of 1000 events, in bursts in turn, until both clients have all in one order. */
async function timeToConverge(server: Server): Promise<number> {
  const pair = await openPair(server);
  const startedAt = performance.now();
  for (let count = 0; count < EVENTS; ) {
    for (const client of pair) {
      client.commit(...Array.from({ length: BURST }, () => `${count++}`));
      if (!(await converge(pair, count, TIMEOUT_MS))) throw new Error("the clients are stuck");
    }
  }
  const elapsedMs = performance.now() - startedAt;
  await Promise.all(pair.map((client) => client.close()));
  return elapsedMs;
}

/** Whether two clients that commit all the time, over each other's rebases, come to the same. */
async function convergesContested(server: Server): Promise<boolean> {
  const pair = await openPair(server);
  for (let step = 0; step < 20; step++) {
    for (const [index, client] of pair.entries()) client.commit(`${index}-${step}`);
    await sleep(20);
  }
  const isSame = await converge(pair, 40, CONTESTED_TIMEOUT_MS);
  await Promise.all(pair.map((client) => client.close().catch(() => {})));
  return isSame;
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

export default async function bench(): Promise<string[]> {
  const ours = await startServer({ vars: { REQUIRE_AUTH: "true", JWT_SECRET } });
  const bare = await startServer({ args: ["-c", "test/bench/relay.toml"] });
  try {
    const servers = { ours, bare };
    const times = { ours: [] as number[], bare: [] as number[] };
    const converged = { ours: 0, bare: 0 };
    const names = ["ours", "bare"] as const;
    // In turn, so that what else the machine does meets both; the first round warms up.
    for (let round = 0; round <= ROUNDS; round++) {
      for (const name of round % 2 === 0 ? names : names.toReversed()) {
        const elapsedMs = await timeToConverge(servers[name]);
        if (round > 0) times[name].push(elapsedMs);
      }
    }
    for (let run = 0; run < CONTESTED; run++) {
      for (const name of names) if (await convergesContested(servers[name])) converged[name]++;
    }
    const ratio = median(times.ours) / median(times.bare);
    console.log(`ratio ${ratio.toFixed(2)} of at most ${MAX_RATIO}: ${EVENTS} events to converge`);
    for (const name of names) {
      const list = times[name].map((ms) => ms.toFixed(0)).join(", ");
      console.log(`${name}: median ${median(times[name]).toFixed(0)} ms of ${list}`);
      console.log(`${name}: ${converged[name]} of ${CONTESTED} contested runs converge`);
    }
    return [
      ...(ratio <= MAX_RATIO ? [] : [`relay: ratio ${ratio.toFixed(2)} > ${MAX_RATIO}`]),
      ...(converged.ours >= converged.bare
        ? []
        : ["relay: fewer contested runs converge than bare"]),
    ];
  } finally {
    await Promise.all([ours.stop(), bare.stop()]);
  }
}
