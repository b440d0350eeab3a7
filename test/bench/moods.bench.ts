/**
 * What a head-count costs that is large, in a real actor: memory of 50 000 sessions in one shard, and
 * a heartbeat's CPU among them against one among 1 000, with the call to the actor and the storing.
 */
import { readFileSync } from "node:fs";
import type { MoodState } from "../../src/moods.ts";
import { cpuMs, median, startWorker } from "./server.ts";

const SMALL = 1_000;
const LARGE = 50_000;
const BEATS = 10_000;
const ROUNDS = 5;
const MEMORY_MB = 64;
const RATIO = 1.5;

function memoryMb(pid: number): number {
  const [, kilobytes] = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8")) ?? [];
  return Number(kilobytes) / 1024;
}

export default async function bench(): Promise<string[]> {
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

  try {
    const startedMb = memoryMb(pid);
    // Calls leave garbage that the process keeps: idle is a server that has had as many of them.
    await beat(LARGE, SMALL);
    const small: number[] = [];
    for (let round = 0; round < ROUNDS; round++) small.push(await cost(SMALL));
    const idleMb = memoryMb(pid);
    const { count } = await beat(LARGE, LARGE);
    if (count < LARGE) throw new Error(`only ${count} of ${LARGE} are here`);
    const large: number[] = [];
    for (let round = 0; round < ROUNDS; round++) large.push(await cost(LARGE));
    const aboveMb = memoryMb(pid) - idleMb;

    const ratio = median(large) / median(small);
    console.log(
      `CPU of a heartbeat, ${LARGE} sessions against ${SMALL}: ${ratio.toFixed(2)} times`,
    );
    console.log(`  ${median(large).toFixed(0)} µs against ${median(small).toFixed(0)} µs`);
    console.log(
      `memory, ${LARGE} sessions: ${aboveMb.toFixed(1)} MB above idle (${idleMb.toFixed(0)} MB)`,
    );
    console.log(`  the process at its start: ${startedMb.toFixed(0)} MB`);
    return [
      ...(ratio > RATIO ? [`a heartbeat costs ${ratio.toFixed(2)} > ${RATIO} times as much`] : []),
      ...(aboveMb > MEMORY_MB ? [`${aboveMb.toFixed(1)} > ${MEMORY_MB} MB`] : []),
    ];
  } finally {
    await server.stop();
  }
}
