/**
 * What an idle connection takes of the server's memory: 5000 sockets in one room, just connected, and
 * after the runtime has put the actors to sleep. The proportional set size of the whole process.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Clients, memoryOf, stopAll } from "../kit/processes.ts";
import type { Dialect } from "./dialects.ts";
import { startRooms } from "./fanout.bench.ts";
import type { Task } from "./fanout.clients.ts";
import { less, pick, type Result } from "./report.ts";

const SOCKETS = 5_000;
/** First a few, so that code and machinery are there before the base line is drawn. */
const FIRST_SOCKETS = 50;
/** The runtime puts an actor to sleep 10 s after its last event. */
const ASLEEP_AFTER_MS = 13_000;

interface Figures {
  awakeKb: number;
  asleepKb: number;
}

/** One round: all servers stand side by side, since most of it is waiting for sleep. */
async function measure(): Promise<Record<string, Figures>> {
  const servers = await startRooms();
  const dialects = Object.keys(servers) as Dialect[];
  const clients = dialects.map(() => new Clients(new URL("fanout.clients.ts", import.meta.url)));
  const each = <T>(task: (dialect: Dialect, i: number) => Promise<T>) =>
    Promise.all(dialects.map(task));
  const connect = (sockets: number) =>
    each(async (dialect, i) => {
      const { url, pid } = servers[dialect];
      await clients[i]?.ask({
        do: "connect",
        room: dialect,
        dialect,
        url,
        sockets,
      } satisfies Task);
      return memoryOf(pid).pss;
    });
  const before = await connect(FIRST_SOCKETS);
  const awake = await connect(SOCKETS);
  await sleep(ASLEEP_AFTER_MS);
  const figures = await each(async (dialect, i) => {
    const perSocketKb = (mb: number) => ((mb - (before[i] as number)) * 1024) / SOCKETS;
    const asleepMb = memoryOf(servers[dialect].pid).pss;
    return [
      dialect,
      { awakeKb: perSocketKb(awake[i] as number), asleepKb: perSocketKb(asleepMb) },
    ] as const;
  });
  await stopAll();
  return Object.fromEntries(figures);
}

export default async function memory(rounds: number): Promise<Result> {
  const figures: Record<string, Figures[]> = {};
  for (let round = 0; round < rounds; round++) {
    for (const [name, one] of Object.entries(await measure())) {
      figures[name] ??= [];
      figures[name].push(one);
    }
  }
  const quantities = [
    less("a connection, just made", "KB", 1, pick(figures, "awakeKb")),
    less(`a connection, idle for ${ASLEEP_AFTER_MS / 1000} s`, "KB", 1, pick(figures, "asleepKb")),
  ];
  return {
    title: "Memory of an idle connection",
    setup: `${SOCKETS} sockets in one room, beyond a server with ${FIRST_SOCKETS}: the process's proportional set size by the number of sockets. After ${ASLEEP_AFTER_MS / 1000} s the actors sleep; socket.io has no such state. A process gives memory back late, if at all: what sleeping frees is there for others of the same process.`,
    quantities,
  };
}
