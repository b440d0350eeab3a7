/**
 * How often the pings of idle clients run an actor's code, which is billed and keeps it from
 * sleeping: our client and room, whose pings the runtime answers; a bare Durable Object and PartyServer,
 * which answer ping messages by themselves.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Clients } from "../kit/processes.ts";
import { less, type Result } from "./report.ts";
import { startWorker } from "./server.ts";
import type { Task } from "./wakeups.clients.ts";
import type { Count, Counts } from "./wakeups.ts";

const CLIENTS = 20;
/** Our rooms sweep every 45 s: two sweeps. */
const OBSERVED_MS = 90_000;
/** Our rooms check new sockets once after 7 s, which is not the steady state. */
const SETTLE_MS = 10_000;
const HOUR_MS = 3_600_000;

/** @param rounds as many rooms of each kind, watched at the same time */
export default async function wakeUps(rounds: number): Promise<Result> {
  const server = await startWorker(
    "test/bench/wakeups.worker.ts",
    { PRESENCE: "PresenceRoom", ROOM: "Room", PARTY: "Presence" },
    { ENVIRONMENT: "development" },
  );
  const clients = new Clients(new URL("wakeups.clients.ts", import.meta.url));
  const read = async (): Promise<Counts> =>
    (await fetch(`${server.url.replace("ws:", "http:")}/counts`)).json() as Promise<Counts>;
  await clients.ask({ url: server.url, clients: CLIENTS, rooms: rounds } satisfies Task);
  await sleep(SETTLE_MS);
  const before = await read();
  const startedAtMs = performance.now();
  await sleep(OBSERVED_MS);
  const after = await read();
  const observedMs = performance.now() - startedAtMs;

  const since = (of: (count: Count) => number, factor: number): Record<string, number[]> =>
    Object.fromEntries(
      Object.entries(after).map(([name, rooms]) => {
        const earlier = (room: string) => before[name]?.[room] as Count;
        const counted = Object.entries(rooms).map(([room, now]) => of(now) - of(earlier(room)));
        return [name, counted.map((n) => n * factor)];
      }),
    );
  const events = since(({ events }) => events, HOUR_MS / observedMs / CLIENTS);
  const awake = since(({ awakeMs }) => awakeMs, 100 / observedMs);
  const quantities = [
    less("events that run the actor's code", "per client-hour", 1, events),
    less("time awake", "% of the time", 1, awake),
  ];
  return {
    title: "Wake-ups of idle clients",
    setup: `${CLIENTS} clients in a presence room, which send nothing else; all ping every 5 s, as our client does. ${rounds} rooms of each kind, watched for ${OBSERVED_MS / 1000} s and carried forward to an hour. An actor counts as awake for 10 s after an event: then it sleeps.`,
    quantities,
  };
}
