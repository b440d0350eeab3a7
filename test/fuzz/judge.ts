/** What an attack must not leave: ghosts, input in the log, memory. */
import { setTimeout as sleep } from "node:timers/promises";
import { PeopleClient } from "../../client/people.ts";
import type { Inspection } from "../../src/actor/call.ts";
import { inspectDevices, readDevices } from "../kit/devices.ts";
import { post } from "../kit/http.ts";
import { readMoods } from "../kit/moods.ts";
import { memoryOf } from "../kit/processes.ts";
import { failuresIn, inspectActor, signUser, signWatcher } from "../kit/stage.ts";
import type { Bystander } from "./bystander.ts";
import { USER } from "./routes.ts";
import { SHARED_ROOM, SHOWN, type Target } from "./target.ts";

/** After this time the server has noticed that a connection is gone, in ms: streams take 20 s, moods 30 s. */
const GHOST_MS = 75_000;
/**
 * The same for a fan-out. The runtime does not report each close, and its clients name no ping interval:
 * a socket is dead after 100 s of silence, and a publish sweeps at most each 10 s.
 */
const FANOUT_GHOST_MS = 125_000;
/** As the contract of devices has it. */
const DEVICES = 100;
/**
 * Its memory may grow by this much after the first third of the run, or by this much for
 * each case. `wrangler dev` itself grows by about 70 KiB with each request, also with one that no
 * route takes, and gives little back.
 */
const GROWTH_MIB = 384;
const GROWTH_KIB_PER_CASE = 300;

interface Ghost {
  what: string;
  /** It is a fault after this time, in ms. */
  patienceMs: number;
}

/** Connections of hostile clients that the server still counts, although all have left. */
async function findGhosts(target: Target, bystander: Bystander): Promise<Ghost[]> {
  const { stage, visited, consumer } = target;
  const ghosts: Ghost[] = [];
  const note = (what: string, patienceMs = GHOST_MS) => ghosts.push({ what, patienceMs });
  const expect = async (
    what: string,
    expected: number,
    actual: () => Promise<number>,
    patienceMs = GHOST_MS,
  ) => {
    const counted = await actual().catch((error: unknown) => String(error));
    if (counted !== expected) note(`${counted} instead of ${expected} in ${what}`, patienceMs);
  };
  const inspect = (system: string, name: string) =>
    inspectActor(stage, `${system}/${encodeURIComponent(name.toWellFormed())}`);
  const sessions = async (system: string, name: string) => (await inspect(system, name)).sessions;
  for (const room of new Set(["fuzz", SHARED_ROOM, ...visited.rooms])) {
    // Two users, and a stream.
    const expected = room === SHARED_ROOM ? 3 : 0;
    await expect(`room ${room}`, expected, () => sessions("presence", room));
  }
  const token = await signUser(stage.jwtSecret, "backend");
  for (const user of ["fuzz", ...visited.users]) {
    const body = { userId: user, type: "own", ackTimeoutMs: 0 };
    const { status, text } = await post(`${stage.url}/publish`, body, { token });
    if (status !== 200) continue; // No id of a user.
    const what = `the fan-out of ${JSON.stringify(user).slice(0, 60)}`;
    await expect(what, 0, async () => JSON.parse(text).clientCount, FANOUT_GHOST_MS);
    const { sessions: counted, silent } = await inspect("fanout", user);
    if (counted === 0) continue;
    const shown = silent.map(describeSilent).join("; ");
    note(`${counted} instead of 0 in the actor of ${what}: ${shown}`, FANOUT_GHOST_MS);
  }
  await expect("the bystander's fan-out", 2, () => sessions("fanout", bystander.userId));
  for (const owner of [USER, ...visited.owners]) {
    const streams = async () => (await inspectDevices(stage, owner)).active_streams;
    await expect(`the streams of ${owner}`, 0, streams);
    const devices = await readDevices(stage, owner, await signWatcher(stage, owner));
    if (devices.length > DEVICES) note(`${devices.length} devices of ${owner}`);
  }
  for (const room of consumer.rooms) {
    const shown = consumer.rosterOf(room);
    if (shown === (room === SHARED_ROOM ? "ann,bob" : "")) continue;
    note(`the consumer knows in ${room}: ${shown.slice(0, SHOWN)}`);
  }
  for (const online of await findOnline(target)) note(online);
  await expect("moods", 1, async () => (await readMoods(stage)).count);
  for (const roster of bystander.rosters) {
    if (roster !== "ann,bob") note(`an honest user's roster shows ${roster.slice(0, SHOWN)}`);
  }
  return ghosts;
}

/** What identifies a session that remains: its protocol, its last sign, and when it counts as dead. */
function describeSilent({ protocol, seenAtMs, deadAtMs }: Inspection["silent"][number]): string {
  const inS = (ms: number) => Math.round((ms - Date.now()) / 1_000);
  const dead = deadAtMs === null ? "never dead" : `dead in ${inS(deadAtMs)} s`;
  return `protocol ${protocol}, silent for ${-inS(seenAtMs)} s, ${dead}`;
}

/** Hostile users whom the directory still shows as online. */
async function findOnline({ stage, visited }: Target): Promise<string[]> {
  const token = await signUser(stage.jwtSecret, "judge");
  const ids = [...visited.users].filter((id) => id.trim() !== "" && id.isWellFormed());
  const watched = ids.filter((id) => id.length <= 256).slice(-500);
  const people = new PeopleClient(stage.wsUrl, { token });
  try {
    people.watch(watched, () => {});
    const giveUpAtMs = performance.now() + 20_000;
    while (people.online.size < watched.length) {
      if (performance.now() > giveUpAtMs) return ["people.sync does not come"];
      await sleep(20);
    }
    return [...people.online].flatMap(([id, online]) =>
      online ? [`${JSON.stringify(id).slice(0, 60)} is online`] : [],
    );
  } finally {
    people.disconnect();
  }
}

/** Waits until nothing of the hostile clients is left. @returns what remains for too long */
export async function judgeGhosts(target: Target, bystander: Bystander): Promise<string[]> {
  const startMs = performance.now();
  for (;;) {
    const ghosts = await findGhosts(target, bystander).catch((error): Ghost[] => [
      { what: `no check: ${error}`, patienceMs: GHOST_MS },
    ]);
    const waitedMs = performance.now() - startMs;
    const faults = ghosts.filter(({ patienceMs }) => waitedMs > patienceMs);
    if (ghosts.length === 0 || faults.length > 0) return faults.map(({ what }) => what);
    await sleep(3_000);
  }
}

/** What must not be in a log: an input, a secret, a token, an unexpected failure. */
export function judgeLog(text: string, { stage, passes, marker, consumer }: Target): string[] {
  const faults = new Set<string>();
  const { jwtSecret, ingestToken, signingKey } = stage;
  const hidden = [jwtSecret, ingestToken, signingKey, passes.jwt, passes.presence];
  hidden.push(consumer.path, consumer.secret.slice("whsec_".length));
  for (const line of text.split("\n")) {
    const shown = line.slice(0, SHOWN);
    // workerd's own line on an aborted upgrade: names its URL, only on a developer's screen.
    if (line.includes("NOSENTRY")) continue;
    if (line.includes('{"event":"')) {
      if (line.includes(marker)) faults.add(`input in a line of ours: ${shown}`);
    }
    // wrangler's own lines name the path of a request: only tokens must not be in them.
    if (hidden.some((secret) => line.includes(secret))) faults.add(`a secret in the log: ${shown}`);
    // Not `Uncaught exception: kj/…`, by which workerd notes that a client broke the protocol.
    if (/unhandled|panicked|Uncaught \(in|FATAL|SIGSEGV|SIGABRT/.test(line)) {
      faults.add(`the runtime reports: ${shown}`);
    }
  }
  for (const [event, lines] of failuresIn(text)) {
    faults.add(`${lines.length} × ${event}: ${lines[0]?.slice(0, SHOWN)}`);
  }
  return [...faults];
}

/** Samples the memory of the runtime that runs Rollcall. */
export class MemoryGauge {
  readonly #pid: number;
  readonly samplesMib: number[] = [];

  constructor(pid: number) {
    this.#pid = pid;
  }

  async run(until: () => boolean): Promise<void> {
    while (!until()) {
      try {
        this.samplesMib.push(memoryOf(this.#pid).rss);
      } catch {
        // A runtime is gone: the run reports it.
      }
      await sleep(500);
    }
  }

  /** @param cases in the whole run */
  judge(cases: number): { summary: string; fault?: string } {
    const settled = this.samplesMib.slice(Math.floor(this.samplesMib.length / 3));
    const [from = 0, to = 0] = [settled[0], settled.at(-1)];
    const counted = Math.max(1, (cases * settled.length) / this.samplesMib.length);
    const [mib, kibPerCase] = [to - from, ((to - from) * 1024) / counted].map(Math.round);
    const summary = `${Math.round(from)} MiB after a third, ${Math.round(to)} at the end; ${kibPerCase} KiB a case`;
    const isBounded = (mib ?? 0) <= GROWTH_MIB || (kibPerCase ?? 0) <= GROWTH_KIB_PER_CASE;
    return isBounded ? { summary } : { summary, fault: `memory grew: ${summary}` };
  }
}
