/**
 * Clients of some systems, in a process of their own: it answers each task with one message.
 */
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { Cast, Census, Stage } from "./cast.ts";
import { DeviceCast } from "./devices.ts";
import { FanoutCast } from "./fanout.ts";
import type { Counts } from "./latency.ts";
import { MoodCast } from "./moods.ts";
import { PresenceCast } from "./presence.ts";

const CASTS = {
  presence: PresenceCast,
  fanout: FanoutCast,
  devices: DeviceCast,
  moods: MoodCast,
} satisfies Record<string, new (stage: Stage, clients: number) => Cast>;
export type System = keyof typeof CASTS;

export type Task =
  | { do: "start"; stage: Stage; clients: Partial<Record<System, number>> }
  | { do: "report" | "census" | "hold" | "look" | "leave" };

/** What happened since the last report. */
export interface Report {
  /** By kind. */
  latencies: Record<string, Counts>;
  /** The longest time that this process could not run, in ms. */
  lagMaxMs: number;
  /** Since the start: by system. */
  figures: Record<string, Record<string, number>>;
  faults: { count: number; first: string[] };
}

export type Censuses = Record<string, Census>;

const SWEEP_MS = 1_000;
const LOOK_MS = 10_000;

const casts: Cast[] = [];
const delay = monitorEventLoopDelay({ resolution: 10 });
let looking: Promise<unknown> = Promise.resolve();
let timers: NodeJS.Timeout[] = [];

async function look(): Promise<void> {
  for (const cast of casts) {
    await cast.look().catch((error) => cast.faults.add(`could not look: ${error}`));
  }
}

async function start({ stage, clients }: Extract<Task, { do: "start" }>): Promise<void> {
  for (const [system, count] of Object.entries(clients)) {
    casts.push(new CASTS[system as System](stage, count));
  }
  delay.enable();
  for (const cast of casts) await cast.start();
  let isLooking = false;
  timers = [
    setInterval(() => {
      for (const cast of casts) cast.sweep();
    }, SWEEP_MS),
    setInterval(() => {
      if (isLooking) return;
      isLooking = true;
      looking = look().finally(() => {
        isLooking = false;
      });
    }, LOOK_MS),
  ];
}

function report(): Report {
  const latencies = casts.flatMap((cast) => Object.entries(cast.latencies));
  const lagMaxMs = delay.max / 1e6;
  delay.reset();
  return {
    latencies: Object.fromEntries(latencies.map(([kind, all]) => [kind, all.take()])),
    lagMaxMs,
    figures: Object.fromEntries(casts.map((cast) => [cast.name, cast.figures()])),
    faults: {
      count: casts.reduce((sum, { faults }) => sum + faults.count, 0),
      first: casts.flatMap(({ name, faults }) => faults.first.map((fault) => `${name}: ${fault}`)),
    },
  };
}

async function census(): Promise<Censuses> {
  const counted: [string, Census][] = [];
  for (const cast of casts) {
    try {
      counted.push([cast.name, await cast.census()]);
    } catch (error) {
      cast.faults.add(`could not count: ${error}`);
      counted.push([cast.name, { live: cast.figures().live ?? 0, told: -1 }]);
    }
  }
  return Object.fromEntries(counted);
}

// Whoever started us is gone: killed, maybe.
process.once("disconnect", () => process.exit());

process.on("message", async (task: Task) => {
  switch (task.do) {
    case "start":
      await start(task);
      process.send?.({});
      break;
    case "report":
      process.send?.(report());
      break;
    case "census":
      process.send?.(await census());
      break;
    case "hold":
      clearInterval(timers[1]);
      for (const cast of casts) cast.hold();
      await looking;
      process.send?.({});
      break;
    case "look":
      await look();
      process.send?.({});
      break;
    case "leave":
      for (const timer of timers) clearInterval(timer);
      for (const cast of casts) cast.leave();
      process.send?.({});
      break;
  }
});
