/**
 * Cursors: the connections of one room set their state 60 times a second, in our presence room and where
 * a server sends each change to all: a bare Durable Object, PartyServer and socket.io.
 */
import { Clients, cpuMs, stopAll } from "../kit/processes.ts";
import type { Dialect } from "./dialects.ts";
import { less, median, OURS, pick, type Quantity, type Result, takeTurns } from "./report.ts";
import { type BenchServer, startNode, startWorker } from "./server.ts";
import type { Moves, Task } from "./states.clients.ts";

/** A peer that sends each change to all falls behind: it gets fewer, and the time to send them all. */
const OURS_MS = 4_000;
const PEERS_MS = { 100: 1_000, 1000: 150 } as const;
const MOVERS = 100;

interface Figures extends Moves {
  /** Server CPU for each state that was set, in µs. */
  cpuUs: number;
  /** Server CPU in a second of moving, in s. */
  cores: number;
  messagesPerChange: number;
  bytesPerChange: number;
}

const START: Record<Dialect, () => Promise<BenchServer>> = {
  [OURS]: () => startWorker("test/bench/states.worker.ts", { ROOM: "Room" }),
  "bare Durable Object": () => startWorker("test/bench/peers/bare.worker.ts", { ROOM: "Room" }),
  PartyServer: () => startWorker("test/bench/peers/partyserver.worker.ts", { ROOM: "Room" }),
  "socket.io": () => startNode(new URL("peers/socketio.ts", import.meta.url)),
};

async function measure(name: string, sockets: 100 | 1_000): Promise<Figures> {
  const server = await START[name as Dialect]();
  const clients = new Clients(new URL("states.clients.ts", import.meta.url));
  const connect: Task = { do: "connect", dialect: name as Dialect, url: server.url, sockets };
  await clients.ask(connect);
  await clients.ask<Moves>({ do: "move", movers: 10, durationMs: 200 } satisfies Task);
  const durationMs = name === OURS ? OURS_MS : PEERS_MS[sockets];
  const before = cpuMs(server.pid);
  const task: Task = { do: "move", movers: MOVERS, durationMs };
  const moves = await clients.ask<Moves>(task);
  const cpu = cpuMs(server.pid) - before;
  await stopAll();
  return {
    ...moves,
    cpuUs: (cpu * 1_000) / moves.changes,
    cores: cpu / durationMs,
    messagesPerChange: moves.messages / moves.changes,
    bytesPerChange: moves.bytes / moves.changes,
  };
}

async function figuresOf(sockets: 100 | 1_000, rounds: number) {
  const names = Object.keys(START);
  const figures = await takeTurns(names, rounds, (name) => measure(name, sockets));
  const what = `${sockets} connections, ${MOVERS} move:`;
  const quantities: Quantity[] = [
    less(`${what} server CPU a change`, "µs", 1, pick(figures, "cpuUs"), {
      "bare Durable Object": 20,
    }),
    less(`${what} messages a change`, "", 2, pick(figures, "messagesPerChange")),
    less(`${what} bytes a change`, "", 0, pick(figures, "bytesPerChange")),
    less(`${what} age of what is shown, 99 %`, "ms", 0, pick(figures, "p99Ms")),
    less(`${what} age of what is shown, median`, "ms", 0, pick(figures, "p50Ms")),
  ];
  return { quantities, ours: figures[OURS] ?? [] };
}

export default async function states(rounds: number): Promise<Result> {
  const [small, large] = [await figuresOf(100, rounds), await figuresOf(1_000, rounds)];
  const least = median(small.ours.map(({ leastPerSecond }) => leastPerSecond));
  return {
    title: "States that change 60 times a second",
    setup: `One room of 100 and of 1000 connections, of which ${MOVERS} set a new state (a cursor, some 50 bytes) 60 times a second: in our room for ${OURS_MS / 1_000} s. The peers send each change to all and fall behind at once, so they get ${PEERS_MS[100]} and ${PEERS_MS[1_000]} ms of the same moves, and the time to send them all. The age is the time from a client's send until another shows it.`,
    quantities: [...small.quantities, ...large.quantities],
    bounds: [
      {
        what: "ms between two new states of one mover, at the client that is shown the fewest of 100",
        value: 1_000 / least,
        unit: "ms",
        atMost: 100,
      },
      {
        what: "cores that our room of 1000 needs",
        value: median(large.ours.map(({ cores }) => cores)),
        unit: "",
        atMost: 1,
      },
    ],
  };
}
