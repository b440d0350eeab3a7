/**
 * What the door before LiveStore's relay costs: `npm start` beside sync-cf as it comes, both by
 * `wrangler dev` with D1. And how many runs converge where both clients commit at once.
 */
import { converge, NoteClient, signMember } from "../e2e/livestore.ts";
import { type Server, startServer } from "../e2e/server.ts";
import { untilEnd } from "../kit/processes.ts";
import { less, more, OURS, type Result, takeTurns } from "./report.ts";

/** Ours may take a fifth longer. */
const RATIO = 0.83;
const EVENTS = 1000;
const BURST = 50;
const TIMEOUT_MS = 60_000;
const CONFLICTS = 20;
const STUCK_MS = 15_000;
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

/** How often in a row two clients that commit at the same moment come to the same; at most {@link CONFLICTS}. */
async function survivedConflicts(server: Server): Promise<number> {
  const pair = await openPair(server);
  let survived = 0;
  for (; survived < CONFLICTS; survived++) {
    for (const [index, client] of pair.entries()) client.commit(`${index}-${survived}`);
    if (!(await converge(pair, 2 * (survived + 1), STUCK_MS))) break;
  }
  await Promise.all(pair.map((client) => client.close().catch(() => {})));
  return survived;
}

export default async function relay(rounds: number): Promise<Result> {
  const servers: Record<string, Server> = {
    [OURS]: untilEnd(await startServer({ vars: { REQUIRE_AUTH: "true", JWT_SECRET } })),
    "sync-cf": untilEnd(await startServer({ args: ["-c", "test/bench/relay.toml"] })),
  };
  const names = Object.keys(servers);
  const serverOf = (name: string) => servers[name] as Server;
  for (const name of names) await timeToConverge(serverOf(name));
  const times = await takeTurns(names, rounds, (name) => timeToConverge(serverOf(name)));
  const survived = await takeTurns(names, rounds, (name) => survivedConflicts(serverOf(name)));
  const stuck = (name: string) => survived[name]?.filter((times) => times < CONFLICTS).length ?? 0;
  return {
    title: "LiveStore's relay",
    setup: `Two clients of LiveStore commit ${EVENTS} events in bursts of ${BURST} in turn, through \`npm start\` with its door and through sync-cf as it comes, both in wrangler dev with D1. Then both commit one event at the same moment, and again once they agree, ${CONFLICTS} times or until they do not for ${STUCK_MS / 1000} s.`,
    quantities: [
      less(`${EVENTS} events, until both have all in one order`, "ms", 0, times, {
        "sync-cf": RATIO,
      }),
      more("conflicts in a row that both came out of", `of ${CONFLICTS}`, 0, survived),
    ],
    bounds: [
      {
        what: `of ${rounds} such rows, those that got stuck; of sync-cf's as many`,
        value: stuck(OURS),
        unit: "",
        atMost: stuck("sync-cf"),
      },
    ],
  };
}
