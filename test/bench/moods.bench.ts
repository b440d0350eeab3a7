/**
 * What a head-count costs that is large, in a real actor: memory of 50 000 sessions in one shard, and
 * a heartbeat's CPU among them against one among 1 000, with the call to the actor and the storing.
 */
import type { MoodState } from "../../rooms/moods/tally.ts";
import { cpuMs, memoryOf } from "../kit/processes.ts";
import { less, median, OURS, type Result } from "./report.ts";
import { startWorker } from "./server.ts";

const SMALL = 1_000;
const LARGE = 50_000;
const BEATS = 10_000;
const MEMORY_MB = 64;
const RATIO = 1.5;

export default async function moods(rounds: number): Promise<Result> {
  const server = await startWorker(
    "test/bench/moods.worker.ts",
    { MOODS: "MoodRoom" },
    { MOOD_SHARDS: "1" },
  );
  const { pid } = server;
  const url = server.url.replace("ws:", "http:");
  const beat = async (beats: number, sessions: number): Promise<MoodState> =>
    (await fetch(`${url}/?beats=${beats}&sessions=${sessions}`)).json() as Promise<MoodState>;
  /** Microseconds of the server's CPU for a heartbeat of someone who is here. */
  const cost = async (sessions: number): Promise<number> => {
    const before = cpuMs(pid);
    await beat(BEATS, sessions);
    return ((cpuMs(pid) - before) * 1000) / BEATS;
  };

  // Calls leave garbage that the process keeps: idle is a server that has had as many of them.
  await beat(LARGE, SMALL);
  const small: number[] = [];
  for (let round = 0; round < rounds; round++) small.push(await cost(SMALL));
  const idleMb = memoryOf(pid).pss;
  const { count } = await beat(LARGE, LARGE);
  if (count < LARGE) throw new Error(`only ${count} of ${LARGE} are here`);
  const large: number[] = [];
  for (let round = 0; round < rounds; round++) large.push(await cost(LARGE));
  const aboveMb = memoryOf(pid).pss - idleMb;

  return {
    title: "A large head-count",
    setup: `One shard of the mood rooms in a real actor, with ${LARGE} sessions and with ${SMALL}: ${BEATS} heartbeats of people who are here, with the call to the actor and the storing. Memory is what the process holds beyond one that had as many calls for ${SMALL}.`,
    quantities: [less("a heartbeat", "CPU µs", 1, { [OURS]: large, [`${SMALL} sessions`]: small })],
    bounds: [
      {
        what: `a heartbeat among ${LARGE} sessions, beside one among ${SMALL}`,
        value: median(large) / median(small),
        unit: "times the CPU",
        atMost: RATIO,
      },
      { what: `memory of ${LARGE} sessions`, value: aboveMb, unit: "MB", atMost: MEMORY_MB },
    ],
  };
}
