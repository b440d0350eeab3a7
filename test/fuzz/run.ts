/**
 * `npm run fuzz [-- --seconds 30 --seed N --case I]`: hostile input to every route and socket of the
 * real server, and hostile members, while honest users go on as usual. See README.md.
 */
import { randomBytes } from "node:crypto";
import { parseArgs } from "node:util";
import { Random, seedOf } from "../kit/random.ts";
import {
  print,
  printRow,
  runtimesOf,
  saveLog,
  signUser,
  signWatcher,
  startStage,
  wasReloaded,
} from "../kit/stage.ts";
import { Bystander } from "./bystander.ts";
import { Consumer } from "./consumer.ts";
import { judgeGhosts, judgeLog, MemoryGauge } from "./judge.ts";
import { fuzzMember } from "./members.ts";
import { fuzzBytes, fuzzRequest, SWEEP_CASES, sweepMethods } from "./requests.ts";
import { USER } from "./routes.ts";
import { fuzzSocket } from "./sockets.ts";
import { type Case, SHARED_ROOM, SHOWN, seen, type Target } from "./target.ts";

/** Cases at a time. */
const WORKERS = 6;
const SHOWN_FAULTS = 40;

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "30" },
    seed: { type: "string" },
    case: { type: "string" },
  },
});
const seed = seedOf(values.seed);
const seconds = Number(values.seconds);
const only = values.case === undefined ? undefined : Number(values.case);

print(
  `fuzz: seed ${seed}, ${seconds} s; repeat with: npm run fuzz -- --seed ${seed} --seconds ${seconds}`,
);
const consumer = new Consumer();
const hook = await consumer.start();
const { server, stage } = await startStage({
  vars: {
    DIRECTORY: "on",
    WEBHOOKS: JSON.stringify(["fuzz*", SHARED_ROOM].map((rooms) => ({ url: hook, rooms }))),
    WEBHOOK_SECRET: consumer.secret,
  },
});
const target: Target = {
  stage,
  consumer,
  marker: `zq${randomBytes(6).toString("hex")}`,
  passes: {
    jwt: await signUser(stage.jwtSecret, "fuzz", { workspaces: [{ id: "fuzz", role: "owner" }] }),
    presence: await signWatcher(stage, USER),
    ingest: stage.ingestToken,
  },
  visited: { rooms: new Set(), users: new Set(), owners: new Set() },
};
const bystander = new Bystander(stage);
await bystander.start();
const runtimes = runtimesOf(server);
/** The command line stands before it, with the secrets of this run. */
const logFrom = server.logs.length;
const faults: string[] = [];
const counts: Record<string, number> = {};

/** Every case is a function of the seed and its number. */
async function play(number: number): Promise<Case> {
  const random = new Random(seed, number);
  const share = random.unit();
  const [kind, act]: [string, (target: Target, random: Random) => Promise<Case>] =
    number < SWEEP_CASES
      ? ["methods", (_, random) => sweepMethods(target, number, random)]
      : share < 0.55
        ? ["requests", fuzzRequest]
        : share < 0.6
          ? ["raw bytes", fuzzBytes]
          : share < 0.8
            ? ["sockets", fuzzSocket]
            : ["members", fuzzMember];
  counts[kind] = (counts[kind] ?? 0) + 1;
  return act(target, random);
}

let next = 0;
let endAtMs = performance.now() + seconds * 1000;
const isOver = (): boolean => performance.now() >= endAtMs;
async function work(): Promise<void> {
  while (!isOver()) {
    const number = only ?? next++;
    if (only !== undefined) endAtMs = 0;
    const { what, fault } = await play(number);
    if (only !== undefined) print(what);
    if (fault) faults.push(`case ${number}: ${fault}\n    ${what.slice(0, 4 * SHOWN)}`);
  }
}
const gauge = new MemoryGauge(runtimes.workerd);
await Promise.all([
  bystander.run(isOver),
  gauge.run(isOver),
  ...Array.from({ length: only === undefined ? WORKERS : 1 }, work),
]);

await bystander.finish();
faults.push(...(await judgeGhosts(target, bystander)));
faults.push(...bystander.faults.first, ...consumer.faults.first);
faults.push(...judgeLog(server.logs.slice(logFrom), target));
bystander.stop();
try {
  const now = JSON.stringify(runtimesOf(server));
  if (now !== JSON.stringify(runtimes)) throw new Error(`the processes became ${now}`);
} catch (error) {
  faults.push(`the runtime did not survive: ${error}`);
}
const memory = gauge.judge(next);
if (memory.fault) faults.push(memory.fault);
await server.stop();
consumer.stop();

const codes = [...seen].sort(([a], [b]) => a - b).map(([code, times]) => `${code} × ${times}`);
print();
for (const line of [
  ...Object.entries(counts),
  ["bystander", `${bystander.rounds} rounds, the slowest ${Math.round(bystander.slowestMs)} ms`],
  ["webhooks", `${consumer.requests} requests for ${consumer.rooms.length} rooms`],
  ["answered", codes.join(", ")],
  ["memory", memory.summary],
  ["faults", faults.length],
]) {
  printRow([16], line);
}
for (const fault of faults.slice(0, SHOWN_FAULTS)) print(`  ${fault}`);
if (wasReloaded(server)) print("A source file changed meanwhile: this run proves nothing.");
if (faults.length > 0) {
  print(`\nThe server's log: ${saveLog("fuzz", seed, server)}`);
  print(`Repeat one case with: npm run fuzz -- --seed ${seed} --case N`);
}
process.exit(faults.length === 0 ? 0 : 1);
