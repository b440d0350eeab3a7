/** Clients of some systems, in a process of their own. It answers each task with one message. */
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { Counts } from "../kit/latency.ts";
import { answerParent } from "../kit/processes.ts";
import type { Cast, Census, SoakStage } from "./cast.ts";
import { DeviceCast } from "./devices.ts";
import { FanoutCast } from "./fanout.ts";
import { MoodCast } from "./moods.ts";
import { PresenceCast } from "./presence.ts";

const CASTS = {
  presence: PresenceCast,
  fanout: FanoutCast,
  devices: DeviceCast,
  moods: MoodCast,
} satisfies Record<string, new (stage: SoakStage, clients: number) => Cast>;
export type System = keyof typeof CASTS;

export type Task =
  | { do: "start"; stage: SoakStage; clients: Partial<Record<System, number>> }
  | { do: "report" | "census" | "hold" | "check" | "leave" };

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
const CHECK_MS = 10_000;

const casts: Cast[] = [];
const delay = monitorEventLoopDelay({ resolution: 10 });
let checking: Promise<unknown> = Promise.resolve();
let timers: NodeJS.Timeout[] = [];

async function check(): Promise<void> {
  for (const cast of casts) {
    await cast.check().catch((error) => cast.faults.add(`the check failed: ${error}`));
  }
}

async function start({ stage, clients }: Extract<Task, { do: "start" }>): Promise<void> {
  for (const [system, count] of Object.entries(clients)) {
    casts.push(new CASTS[system as System](stage, count));
  }
  delay.enable();
  for (const cast of casts) await cast.start();
  let isChecking = false;
  timers = [
    setInterval(() => {
      for (const cast of casts) cast.sweep();
    }, SWEEP_MS),
    setInterval(() => {
      if (isChecking) return;
      isChecking = true;
      checking = check().finally(() => {
        isChecking = false;
      });
    }, CHECK_MS),
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
  const censuses: [string, Census][] = [];
  for (const cast of casts) {
    try {
      censuses.push([cast.name, await cast.census()]);
    } catch (error) {
      cast.faults.add(`the census failed: ${error}`);
      censuses.push([cast.name, { live: cast.figures().live ?? 0, counted: -1 }]);
    }
  }
  return Object.fromEntries(censuses);
}

answerParent(async (task: Task) => {
  switch (task.do) {
    case "start":
      return await start(task);
    case "report":
      return report();
    case "census":
      return await census();
    case "check":
      return await check();
    case "hold":
      clearInterval(timers[1]);
      for (const cast of casts) cast.hold();
      await checking;
      return;
    case "leave":
      for (const timer of timers) clearInterval(timer);
      for (const cast of casts) cast.leave();
  }
});
