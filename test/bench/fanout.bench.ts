/**
 * One room of 500 sockets: an event to all of them, on our framework, in a bare Durable Object that
 * loops `send`, with PartyServer's `broadcast` and with socket.io's `emit`.
 */
import type { Dialect, Round, Task } from "./fanout.clients.ts";
import { OURS, pick, type Quantity, type Result, takeTurns } from "./report.ts";
import { type BenchServer, Clients, cpuMs, startNode, startWorker } from "./server.ts";

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

/** Rooms whose clients speak to all: of ours, and of each peer. */
export async function startRooms(): Promise<Record<Dialect, BenchServer>> {
  return {
    [OURS]: await startWorker("test/bench/fanout.worker.ts", { ROOM: "Room" }),
    "bare Durable Object": await startWorker("test/bench/peers/bare.worker.ts", { ROOM: "Room" }),
    PartyServer: await startWorker("test/bench/peers/partyserver.worker.ts", { ROOM: "Room" }),
    "socket.io": await startNode(new URL("peers/socketio.ts", import.meta.url)),
  };
}

export default async function fanout(rounds: number): Promise<Result> {
  const servers = await startRooms();
  const dialects = Object.keys(servers) as Dialect[];
  const clients = new Clients(new URL("fanout.clients.ts", import.meta.url));

  async function measure(dialect: Dialect, inFlight: number, durationMs: number): Promise<Figures> {
    const { pid } = servers[dialect];
    const before = cpuMs(pid);
    const task: Task = { do: "round", dialect, inFlight, durationMs };
    const round = await clients.ask<Round>(task);
    const cpu = cpuMs(pid) - before;
    const rate = (round.deliveries / round.elapsedMs) * 1000;
    return { ...round, rate, cpuUs: (cpu * 1000) / round.deliveries };
  }

  async function quantities(inFlight: number, atLeast: AtLeast): Promise<Quantity[]> {
    for (const dialect of dialects) await measure(dialect, inFlight, WARM_UP_MS);
    const figures = await takeTurns(dialects, rounds * TURNS_PER_ROUND, (dialect) =>
      measure(dialect as Dialect, inFlight, DURATION_MS),
    );
    const of = (
      name: string,
      unit: string,
      key: "rate" | "cpuUs" | "p50Ms" | "p99Ms",
    ): Quantity => ({
      name: `${inFlight} in flight: ${name}`,
      unit,
      better: key === "rate" ? "more" : "less",
      digits: key === "rate" ? 0 : key === "cpuUs" ? 2 : 1,
      rounds: pick(figures, (figure) => figure[key]),
      ...(atLeast[key] && { atLeast: atLeast[key] }),
    });
    return [
      of("deliveries", "a second", "rate"),
      of("server CPU a delivery", "µs", "cpuUs"),
      of("latency, median", "ms", "p50Ms"),
      of("latency, 99 %", "ms", "p99Ms"),
    ];
  }

  try {
    for (const dialect of dialects) {
      const { url } = servers[dialect];
      await clients.ask({ do: "connect", dialect, url, sockets: SOCKETS } satisfies Task);
    }
    return {
      title: "Fan-out",
      setup: `One room of ${SOCKETS} sockets: what one says, all get, in the server's order; ${TURNS_PER_ROUND} turns of ${DURATION_MS} ms a round. “In flight” are events that not everybody has got yet.`,
      quantities: [
        ...(await quantities(100, {
          rate: { "bare Durable Object": 25, "socket.io": 6 },
          p99Ms: { "bare Durable Object": 1, "socket.io": 1 },
        })),
        ...(await quantities(1, { rate: { "bare Durable Object": 0.9 } })),
      ],
    };
  } finally {
    await clients.stop();
    await Promise.all(Object.values(servers).map((server) => server.stop()));
  }
}

/** How many times as good as a peer, at least. */
type AtLeast = Partial<Record<"rate" | "cpuUs" | "p50Ms" | "p99Ms", Record<string, number>>>;
