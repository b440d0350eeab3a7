/**
 * A thousand clients whose connections are all cut at one moment, while the server is well: how fast
 * each library's own way of waiting brings them back, and how hard it knocks meanwhile.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Clients } from "../kit/processes.ts";
import { FaultProxy } from "../kit/proxy.ts";
import { PRESENCE } from "./join.bench.ts";
import type { Back, Library, Task } from "./reconnect.clients.ts";
import { less, OURS, pick, type Result, takeTurns } from "./report.ts";

const ROOMS = 20;
const USERS_PER_ROOM = 50;
/** Both our client and partysocket count a connection as good after 5 s. */
const STABLE_MS = 5_500;
const WINDOW_MS = 100;

interface Figures {
  backMs: number;
  inSyncMs: number;
  attempts: number;
  /** Most connection attempts within 100 ms. */
  peak: number;
}

/** Each library, against a presence server of its own kind. */
const SERVERS: Record<Library, string> = {
  [OURS]: OURS,
  partysocket: "PartyServer",
  "socket.io-client": "socket.io",
};

function peakOf(timesMs: readonly number[]): number {
  let most = 0;
  let first = 0;
  for (const [last, timeMs] of timesMs.entries()) {
    while (timeMs - (timesMs[first] as number) >= WINDOW_MS) first += 1;
    most = Math.max(most, last - first + 1);
  }
  return most;
}

/** Connects all clients of a library; the function it returns cuts them. */
async function startLibrary(library: Library): Promise<() => Promise<Figures>> {
  const presence = PRESENCE[SERVERS[library]] as (typeof PRESENCE)[string];
  const server = await presence.start();
  let attemptsAtMs: number[] = [];
  const proxy = new FaultProxy(() => Number(new URL(server.url).port), {
    onConnect: () => attemptsAtMs.push(Date.now()),
  });
  await proxy.listen();
  const clients = new Clients(new URL("reconnect.clients.ts", import.meta.url));
  const size = { rooms: ROOMS, usersPerRoom: USERS_PER_ROOM };
  await clients.ask({ do: "connect", library, url: proxy.wsUrl, ...size } satisfies Task);
  return async () => {
    const back = clients.ask<Back>({ do: "watch" } satisfies Task);
    attemptsAtMs = [];
    const cutAtMs = Date.now();
    proxy.resetAll();
    const { allBackAtMs, allInSyncAtMs } = await back;
    return {
      backMs: allBackAtMs - cutAtMs,
      inSyncMs: allInSyncAtMs - cutAtMs,
      attempts: attemptsAtMs.length,
      peak: peakOf(attemptsAtMs),
    };
  };
}

export default async function reconnect(rounds: number): Promise<Result> {
  const libraries = Object.keys(SERVERS) as Library[];
  const cuts = new Map<string, () => Promise<Figures>>();
  for (const library of libraries) cuts.set(library, await startLibrary(library));
  const figures = await takeTurns(libraries, rounds, async (library, round) => {
    // Between two cuts of the same there is at least one other: half each.
    await sleep(round === 0 ? STABLE_MS : STABLE_MS / 2);
    return (cuts.get(library) as () => Promise<Figures>)();
  });
  const quantities = [
    less("until all are back", "s", 2, pick(figures, "backMs", 1e-3)),
    less("until all are in sync", "s", 2, pick(figures, "inSyncMs", 1e-3)),
    less("most attempts to connect", `in ${WINDOW_MS} ms`, 0, pick(figures, "peak")),
    less("attempts to connect", "in all", 0, pick(figures, "attempts")),
  ];
  return {
    title: "Reconnect storm",
    setup: `${ROOMS * USERS_PER_ROOM} clients in ${ROOMS} presence rooms, all cut at once by a proxy while the server is well; each library with its own defaults, against its own kind of server. In sync: it knows, from a new list or by resuming, that all ${USERS_PER_ROOM} of its room are there.`,
    quantities,
  };
}
