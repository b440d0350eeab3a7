/**
 * A thousand members of one presence room, all cut at one moment, while its actor lives on: what it
 * takes until all are in sync again, with sessions that are resumed, and without, as before.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Clients, cpuMs, stopAll } from "../kit/processes.ts";
import type { Storm, Task } from "./cut.clients.ts";
import { PRESENCE } from "./join.bench.ts";
import { type Bound, less, median, OURS, pick, type Result, takeTurns } from "./report.ts";

const USERS = 1_000;
/** The last joins have been told by then. */
const QUIET_MS = 3_000;
const ANEW = "a new session each (protocol 2)";

interface Figures extends Storm {
  cpuMs: number;
}

async function cut(protocol: 2 | 3): Promise<Figures> {
  const server = await (PRESENCE[OURS] as (typeof PRESENCE)[string]).start();
  const clients = new Clients(new URL("cut.clients.ts", import.meta.url));
  const ask = (task: Task) => clients.ask<Storm>(task);
  await ask({ do: "connect", url: server.url, protocol, users: USERS });
  await sleep(QUIET_MS);
  const before = cpuMs(server.pid);
  const storm = await ask({ do: "cut" });
  const figures = { ...storm, cpuMs: cpuMs(server.pid) - before };
  await stopAll();
  return figures;
}

export default async function measure(rounds: number): Promise<Result> {
  const figures = await takeTurns([OURS, ANEW], rounds, (name) => cut(name === OURS ? 3 : 2));
  const departures: Bound = {
    what: "departures that anybody was told of",
    value: median((figures[OURS] ?? []).map((one) => one.departures)),
    unit: "",
    atMost: 0,
  };
  return {
    title: "A thousand connections cut",
    setup: `${USERS} members of one presence room lose their connections at one moment and come back, 100 upgrades at a time, until each has resumed, or knows all ${USERS} from a new list.`,
    quantities: [
      less("time until all are in sync", "s", 2, pick(figures, "elapsedMs", 1e-3), { [ANEW]: 1 }),
      less("payload to clients", "MB", 2, pick(figures, "bytes", 1e-6), { [ANEW]: 20 }),
      less("messages to clients", "in all", 0, pick(figures, "messages")),
      less("server CPU", "s", 2, pick(figures, "cpuMs", 1e-3)),
    ],
    bounds: [departures],
  };
}
