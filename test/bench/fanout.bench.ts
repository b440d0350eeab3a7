/**
 * One room of 500 sockets: an event to all of them, on our framework, in a bare Durable Object that
 * loops `send`, with PartyServer's `broadcast` and with socket.io's `emit`.
 */
import { Clients, cpuMs, stopAll } from "../kit/processes.ts";
import type { Dialect } from "./dialects.ts";
import type { Round, Task } from "./fanout.clients.ts";
import { less, more, OURS, pick, type Quantity, type Result, takeTurns } from "./report.ts";
import { type BenchServer, startNode, startWorker } from "./server.ts";

const SOCKETS = 500;
/** Many short turns: a stall of the machine spoils one of them, not the median. */
const TURNS_PER_ROUND = 3;
const DURATION_MS = 800;
const WARM_UP_MS = 500;

interface Figures extends Round {
  /** Deliveries per second. */
  rate: number;
  /** CPU of the server per delivery, in µs. */
  cpuUs: number;
}

/** Our room, whose clients send to all. `root`: of the checkout; default: this one. */
export const startRoom = (root?: string): Promise<BenchServer> =>
  startWorker("test/bench/fanout.worker.ts", { ROOM: "Room" }, {}, { root });

/** Rooms whose clients send to all: ours, and each peer's. */
export async function startRooms(): Promise<Record<Dialect, BenchServer>> {
  return {
    [OURS]: await startRoom(),
    "bare Durable Object": await startWorker("test/bench/peers/bare.worker.ts", { ROOM: "Room" }),
    PartyServer: await startWorker("test/bench/peers/partyserver.worker.ts", { ROOM: "Room" }),
    "socket.io": await startNode(new URL("peers/socketio.ts", import.meta.url)),
  };
}

/**
 * Connects {@link SOCKETS} clients to each server and measures them in turns. Stops all afterwards.
 *
 * @param dialectOf what the clients of a server speak
 * @param inFlight how many events are on their way at any time
 */
export async function measureFanout(
  servers: Record<string, BenchServer>,
  dialectOf: (name: string) => Dialect,
  inFlight: number,
  turns: number,
): Promise<Record<string, Figures[]>> {
  const clients = new Clients(new URL("fanout.clients.ts", import.meta.url));
  const names = Object.keys(servers);

  async function measure(room: string, durationMs: number): Promise<Figures> {
    const { pid } = servers[room] as BenchServer;
    const before = cpuMs(pid);
    const task: Task = { do: "round", room, inFlight, durationMs };
    const round = await clients.ask<Round>(task);
    const cpu = cpuMs(pid) - before;
    const rate = (round.deliveries / round.elapsedMs) * 1000;
    return { ...round, rate, cpuUs: (cpu * 1000) / round.deliveries };
  }

  for (const room of names) {
    const { url } = servers[room] as BenchServer;
    const dialect = dialectOf(room);
    await clients.ask({ do: "connect", room, dialect, url, sockets: SOCKETS } satisfies Task);
  }
  for (const room of names) await measure(room, WARM_UP_MS);
  const figures = await takeTurns(names, turns, (room) => measure(room, DURATION_MS));
  await stopAll();
  return figures;
}

/** How many times as good as a peer, at least. */
type AtLeast = Partial<Record<"rate" | "p99Ms", Record<string, number>>>;

async function quantities(inFlight: number, rounds: number, atLeast: AtLeast): Promise<Quantity[]> {
  const figures = await measureFanout(
    await startRooms(),
    (name) => name as Dialect,
    inFlight,
    rounds * TURNS_PER_ROUND,
  );
  const what = `${inFlight} in flight:`;
  return [
    more(`${what} deliveries`, "a second", 0, pick(figures, "rate"), atLeast.rate),
    less(`${what} server CPU a delivery`, "µs", 2, pick(figures, "cpuUs")),
    less(`${what} latency, median`, "ms", 1, pick(figures, "p50Ms")),
    less(`${what} latency, 99 %`, "ms", 1, pick(figures, "p99Ms"), atLeast.p99Ms),
  ];
}

export default async function fanout(rounds: number): Promise<Result> {
  return {
    title: "Fan-out",
    setup: `One room of ${SOCKETS} sockets: what one sends, all receive, in the server's order; ${TURNS_PER_ROUND} turns of ${DURATION_MS} ms a round. “In flight” are events that have not reached all sockets yet.`,
    quantities: [
      ...(await quantities(100, rounds, {
        rate: { "bare Durable Object": 25, "socket.io": 6 },
        p99Ms: { "bare Durable Object": 1, "socket.io": 1 },
      })),
      ...(await quantities(1, rounds, { rate: { "bare Durable Object": 0.9 } })),
    ],
  };
}
