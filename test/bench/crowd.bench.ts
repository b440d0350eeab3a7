/**
 * A large room: thousands of users join one presence room, which sends pages and counts above 1 000. The
 * bytes of each further thousand are to be the same: they do not grow with the room.
 */
import { Clients, cpuMs, stopAll } from "../kit/processes.ts";
import type { Joined, Task } from "./crowd.clients.ts";
import { less, median, OURS, type Result } from "./report.ts";
import { startWorker } from "./server.ts";

const SIZES = [1_000, 2_000, 3_000, 4_000, 5_000] as const;
const WATCHED = 100;

interface Step extends Joined {
  cpuMs: number;
}

async function grow(): Promise<{ steps: Step[]; wrong: number }> {
  const server = await startWorker("test/bench/states.worker.ts", { ROOM: "Room" });
  const clients = new Clients(new URL("crowd.clients.ts", import.meta.url));
  const steps: Step[] = [];
  for (const users of SIZES) {
    const before = cpuMs(server.pid);
    const task: Task = { do: "join", url: server.url, users };
    const joined = await clients.ask<Joined>(task);
    steps.push({ ...joined, cpuMs: cpuMs(server.pid) - before });
  }
  const known = await clients.ask<string[]>({ do: "leave", watched: WATCHED } satisfies Task);
  await stopAll();
  return { steps, wrong: WATCHED / 2 - known.length };
}

export default async function crowd(rounds: number): Promise<Result> {
  const plays: Awaited<ReturnType<typeof grow>>[] = [];
  for (let round = 0; round < rounds; round++) plays.push(await grow());
  const of = (step: number, value: (step: Step) => number) => ({
    [OURS]: plays.map(({ steps }) => value(steps[step] as Step)),
  });
  const middle = (values: Record<string, number[]>) => median(values[OURS] ?? []);
  const [second, last] = [of(1, ({ bytes }) => bytes), of(4, ({ bytes }) => bytes)];
  return {
    title: "A large room",
    setup: `${SIZES.at(-1)} users join one presence room with rosterLimit 1000, 100 at a time; one of them watches ${WATCHED} others. Each thousand ends when every client knows the room's number of users.`,
    quantities: SIZES.flatMap((users, step) => [
      less(
        `up to ${users} users: bytes to all`,
        "MB",
        1,
        of(step, ({ bytes }) => bytes / 1e6),
      ),
      less(
        `up to ${users} users: time`,
        "s",
        1,
        of(step, ({ elapsedMs }) => elapsedMs / 1_000),
      ),
      less(
        `up to ${users} users: server CPU`,
        "s",
        1,
        of(step, ({ cpuMs }) => cpuMs / 1_000),
      ),
    ]),
    bounds: [
      {
        what: "most bytes to a client that joins, above 2000 users",
        value: Math.max(...plays.flatMap(({ steps }) => steps.slice(2).map((s) => s.mostPerJoin))),
        unit: "bytes",
        atMost: 8_192,
      },
      {
        what: "bytes of the fifth thousand, in those of the second",
        value: middle(last) / middle(second),
        unit: "",
        atMost: 1.5,
      },
      {
        what: "watched users that the watcher does not know, or knows wrongly, after half of them left",
        value: Math.max(...plays.map(({ wrong }) => wrong)),
        unit: "",
        atMost: 0,
      },
    ],
  };
}
