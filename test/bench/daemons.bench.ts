/**
 * What daemons cost that have nothing to report: 10 000 of them, one actor per user, each with a sign of
 * life every 10 s for ten minutes. By a socket it is a ping, which the runtime answers; over HTTP a
 * heartbeat. One round of each, whatever `--rounds` says: it takes 25 minutes.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Clients, cpuMs, memoryOf, stopAll } from "../kit/processes.ts";
import type { Outcome, Task } from "./daemons.clients.ts";
import { startService } from "./heartbeat.bench.ts";
import { less, OURS, type Result } from "./report.ts";

const DAEMONS = Number(process.env.DAEMONS ?? 10_000);
const MINUTES = Number(process.env.MINUTES ?? 10);
/** A connection takes the runtime two files, of which a process has 20 000 at most. */
const SERVERS = 3;
const TOKEN = "bench-ingest-token-0123456789-0123456789";
/** An idle actor hibernates after 10 s. */
const ASLEEP_AFTER_MS = 15_000;
/** Actors that are asked how often they have started. */
const SAMPLE = 200;

interface Figures extends Outcome {
  /** CPU time of the server in a minute, in ms. */
  cpuMsPerMinute: number;
  cpuUsPerAnswer: number;
  memoryMb: number;
  /** Starts of an actor meanwhile, on average. */
  starts: number;
}

async function startsOf(url: string, users: readonly string[]): Promise<number> {
  let starts = 0;
  for (const user of users) {
    const answer = await fetch(`${url.replace("ws:", "http:")}/debug/actors/devices/${user}`);
    starts += ((await answer.json()) as { starts: number }).starts;
  }
  return starts / users.length;
}

async function measure(by: "socket" | "HTTP"): Promise<Figures> {
  const parts = await Promise.all(
    Array.from({ length: SERVERS }, async () => ({
      server: await startService(),
      clients: new Clients(new URL("daemons.clients.ts", import.meta.url)),
    })),
  );
  const sum = (of: (part: (typeof parts)[number]) => number) =>
    parts.reduce((total, part) => total + of(part), 0);
  const ask = (task: (url: string) => Task) =>
    Promise.all(parts.map(({ clients, server }) => clients.ask<Outcome>(task(server.url))));
  const daemons = Math.round(DAEMONS / SERVERS);
  await ask((url) => ({ do: "start", by, url, token: TOKEN, daemons }));
  await sleep(ASLEEP_AFTER_MS);
  const before = sum(({ server }) => cpuMs(server.pid));
  const outcomes = await ask(() => ({ do: "run", ms: MINUTES * 60_000 }));
  const cpuMsPerMinute = (sum(({ server }) => cpuMs(server.pid)) - before) / MINUTES;
  const memoryMb = sum(({ server }) => memoryOf(server.pid).pss);
  const starts = await Promise.all(
    parts.map(({ server }, i) => startsOf(server.url, outcomes[i]?.users.slice(0, SAMPLE) ?? [])),
  );
  await stopAll();
  const answered = outcomes.reduce((total, one) => total + one.answered, 0);
  return {
    answered,
    cpuUsPerAnswer: (cpuMsPerMinute * MINUTES * 1_000) / answered,
    failed: outcomes.reduce((total, one) => total + one.failed, 0),
    users: outcomes.flatMap(({ users }) => users),
    ...{ cpuMsPerMinute, memoryMb },
    // By a socket: one start for the connection, and one for this question.
    starts: Math.max(...starts) - 2,
  };
}

export default async function daemons(): Promise<Result> {
  const [socket, http] = [await measure("socket"), await measure("HTTP")];
  const both = (of: (figures: Figures) => number) => ({ [OURS]: [of(socket)], HTTP: [of(http)] });
  const total = socket.users.length * MINUTES * 6;
  return {
    title: "Daemons with nothing to report",
    setup: `${DAEMONS} daemons of as many users for ${MINUTES} minutes, on ${SERVERS} servers, a sign of life each 10 s: ours by a socket, and the same over HTTP. Answered: ${socket.answered} and ${http.answered} of ${total}.`,
    quantities: [
      less(
        "CPU time of the server in a minute",
        "ms",
        0,
        both((one) => one.cpuMsPerMinute),
      ),
      less(
        "CPU time for one answer",
        "µs",
        0,
        both((one) => one.cpuUsPerAnswer),
      ),
      less(
        "memory of the server",
        "MB",
        0,
        both((one) => one.memoryMb),
      ),
    ],
    bounds: [
      { what: "wake-ups of an actor by socket", value: socket.starts, unit: "starts", atMost: 0 },
      {
        what: "signs of life by socket that failed",
        value: total - socket.answered + socket.failed,
        unit: "",
        atMost: 0,
      },
      { what: "signs of life over HTTP that failed", value: http.failed, unit: "", atMost: 0 },
    ],
  };
}
