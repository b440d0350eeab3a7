/**
 * `npm run chaos [-- --seed N --rounds 25]`: kills, cuts and stalls the real server under real
 * clients, and compares after each round what the clients know with what it reports. See README.md.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { starvedMs } from "../kit/pressure.ts";
import { FaultProxy } from "../kit/proxy.ts";
import { Random, seedOf } from "../kit/random.ts";
import {
  inspectActor,
  print,
  printRow,
  type Stage,
  saveLog,
  startStage,
  wasReloaded,
} from "../kit/stage.ts";
import type { Cast } from "./cast.ts";
import { DeviceCast, FLUSH_MS } from "./devices.ts";
import { FanoutCast } from "./fanout.ts";
import { MoodCast } from "./moods.ts";
import { PRESENCE_PATH, PresenceCast } from "./presence.ts";

/** All must be right again within this time. */
const HEAL_MS = 10_000;
/** At most this much of the time in which processes waited for a CPU is left out. */
const STARVED_MS = 20_000;
const CHECK_EVERY_MS = 400;
/** For one start, on a machine that may have other work. */
const START_MS = 180_000;
/** An actor of `wrangler dev` falls asleep after 10 s, 7 s after the last join at the earliest. */
const SLEEP_MS = 19_000;
const SLEEP_EVERY = 8;

const { values } = parseArgs({
  options: { seed: { type: "string" }, rounds: { type: "string", default: "25" } },
});
const seed = seedOf(values.seed);
const rounds = Number(values.rounds);
const startedAtMs = Date.now();

const shards = seed % 2 === 0 ? 1 : 4;
print(`chaos: seed ${seed}, ${rounds} rounds, ${shards} mood shards`);
print(`repeat with: npm run chaos -- --seed ${seed} --rounds ${rounds}\n`);
const { server, stage: direct } = await startStage({
  startDeadlineMs: START_MS,
  vars: { PRESENCE_DO_KEEPALIVE_FLUSH_MS: String(FLUSH_MS), MOOD_SHARDS: String(shards) },
});
/** When a socket or stream last ended before its answer: the server may notice such a fault late. */
let lastLossAtMs = 0;
const proxy = new FaultProxy(() => server.port, {
  onUnanswered(request) {
    if (request.startsWith("GET")) lastLossAtMs = Date.now();
    for (const cast of casts) cast.abandoned?.(request);
  },
});
await proxy.listen();
const stage: Stage = { ...direct, url: proxy.url, wsUrl: proxy.wsUrl };
const presence = new PresenceCast(stage);
const casts: Cast[] = [presence, new DeviceCast(stage), new FanoutCast(stage), new MoodCast(stage)];
const violations: string[] = [];
/** The time until all was right again, by system. */
const healed = new Map<string, number[]>(casts.map(({ name }) => [name, []]));
let evictions = 0;

function report(what: string, { name }: Cast, wrong: readonly string[]): void {
  for (const line of wrong.slice(0, 5)) {
    violations.push(`${what}: ${name}: ${line}`);
    print(`    VIOLATION ${name}: ${line}`);
  }
}

/** Checks until all is right, at most for {@link HEAL_MS} after the last fault on an idle machine. */
async function settle(what: string): Promise<string> {
  const fromMs = Date.now();
  const fromStarvedMs = starvedMs();
  const times = await Promise.all(
    casts.map(async (cast) => {
      for (;;) {
        const wrong = await cast.check();
        const tookMs = Date.now() - fromMs;
        if (wrong.length === 0) {
          healed.get(cast.name)?.push(tookMs);
          return `${cast.name} ${(tookMs / 1000).toFixed(1)} s`;
        }
        const starved = Math.min(starvedMs() - fromStarvedMs, STARVED_MS);
        const late = Math.min(Math.max(0, lastLossAtMs - fromMs), HEAL_MS);
        if (tookMs > HEAL_MS + late + starved) {
          report(what, cast, wrong);
          return `${cast.name} not at all`;
        }
        await sleep(CHECK_EVERY_MS);
      }
    }),
  );
  for (const cast of casts) report(what, cast, cast.faults.splice(0));
  return times.join(", ");
}

/** How often each actor that reports it has started; the request wakes it. */
function starts(): Promise<number[]> {
  const actors = casts.flatMap(({ actors }) => actors);
  return Promise.all(actors.map(async (actor) => (await inspectActor(stage, actor)).starts));
}

/** Nobody sends anything until actors fall asleep; then nothing may be missing. */
async function pause(what: string): Promise<void> {
  for (const cast of casts) cast.pause();
  const before = await starts();
  await sleep(SLEEP_MS);
  const after = await starts();
  const slept = after.filter((times, i) => times > (before[i] ?? 0)).length;
  evictions += slept;
  for (const cast of casts) report(what, cast, await cast.checkKept());
  const healing = await settle(what);
  for (const cast of casts) cast.resume();
  print(`${" ".repeat(18)}${slept} of ${after.length} actors were evicted; ${healing}`);
}

/** What happens in a round besides the kill. */
async function trouble(random: Random, forMs: number, canHole: boolean): Promise<string[]> {
  const done: string[] = [];
  const steps = Array.from({ length: random.int(4, 9) }, () => random.int(0, forMs)).sort(
    (a, b) => a - b,
  );
  let nowMs = 0;
  for (const atMs of steps) {
    await sleep(atMs - nowMs);
    nowMs = atMs;
    const kind = random.unit();
    if (kind < 0.2 && proxy.size > 0)
      done.push(`${proxy.cut(random, random.pick([0.1, 0.4, 1]))} connections cut`);
    else if (kind < 0.3 && proxy.size > 0) {
      const ms = random.int(500, 4_000);
      done.push(`${proxy.stall(random, 0.3, ms)} readers stall for ${ms} ms`);
    } else if (kind < 0.35 && canHole) {
      if (proxy.hole(random, PRESENCE_PATH) > 0) presence.holed();
      done.push("a connection falls into a hole");
    } else done.push(random.pick(casts).act(random));
  }
  return done;
}

for (const cast of casts) await cast.start();
print(`start             all connected after: ${await settle("start")}`);

for (let round = 1; round <= rounds; round++) {
  const random = new Random(seed, round);
  const killAfterMs = random.int(200, 3_000);
  const troubleMs = killAfterMs + random.int(0, 3_000);
  const canHole = round <= rounds / 2;
  const happening = trouble(random, troubleMs, canHole);
  await sleep(killAfterMs);
  await server.kill();
  for (const cast of casts) cast.crashed();
  const downAtMs = Date.now();
  const what = `round ${round}`;
  await server.start();
  for (const cast of casts) report(what, cast, await cast.checkKept());
  for (const cast of casts) cast.resume();
  const backMs = Date.now() - downAtMs;
  const done = await happening;
  print(`${what.padEnd(18)}${done.join("; ")}; SIGKILL after ${killAfterMs} ms`);
  print(`${" ".repeat(18)}back in ${(backMs / 1000).toFixed(1)} s; ${await settle(what)}`);
  if (round % SLEEP_EVERY === 0) await pause(`${what}, asleep`);
}
const ghostMs = presence.ghostsUntilMs - Date.now();
if (ghostMs > 0) {
  await sleep(ghostMs);
  print(`after a minute    ${await settle("after a minute")}`);
}

for (const cast of casts) cast.stop();
await proxy.stop();
await server.stop();

const columns = [12, 22, 12];
print();
printRow(columns, ["system", "healed in: median", "longest", "figures"]);
for (const cast of casts) {
  const times = (healed.get(cast.name) ?? []).toSorted((a, b) => a - b);
  const figures = Object.entries(cast.figures()).map(([key, value]) => `${key} ${value}`);
  const [median, longest] = [times[Math.floor(times.length / 2)], times.at(-1)].map(
    (ms = 0) => `${(ms / 1000).toFixed(1)} s`,
  );
  printRow(columns, [cast.name, median, longest, figures.join(", ")]);
}
const { connections, cuts, stalls, holes, unanswered } = proxy.figures;
print(
  `${rounds} SIGKILLs, ${connections} connections, ${cuts} cut in the middle, ${stalls} stalled, ${holes} black holes, ${unanswered} gone before an answer, ${evictions} evictions; ${Math.round((Date.now() - startedAtMs) / 1000)} s`,
);
if (wasReloaded(server)) {
  print("A source file changed meanwhile: wrangler restarted the runtime more often than we did.");
}
print(`${violations.length} violations`);
for (const violation of violations) print(`  ${violation}`);
if (violations.length > 0) {
  print(`The server's log: ${saveLog("chaos", seed, server)}`);
  print(`Repeat with: npm run chaos -- --seed ${seed} --rounds ${rounds}`);
}
process.exit(violations.length === 0 ? 0 : 1);
