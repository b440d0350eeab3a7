/**
 * `npm run chaos:continuity [-- --seed N --rounds 25]`: cuts clients of rooms with and without a
 * durable log, lets the rooms sleep, and kills the runtime, a round each time. Checks what each client
 * receives, and counts how often its session was resumed, or why not.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { type OpenInfo, VeraniClient } from "../../client/client.ts";
import { type BenchServer, startWorker } from "../bench/server.ts";
import { FaultProxy, type Link } from "../kit/proxy.ts";
import { Random, seedOf } from "../kit/random.ts";
import { IMPATIENT } from "../kit/sockets.ts";
import { print, printRow } from "../kit/stage.ts";

const LISTENERS = 5;
/** The runtime puts an actor to sleep 10 s after its last event. */
const SLEEP_MS = 13_000;
const SLEEP_EVERY = 5;
const HEAL_MS = 15_000;

const { values } = parseArgs({
  options: { seed: { type: "string" }, rounds: { type: "string", default: "25" } },
});
const seed = seedOf(values.seed);
const rounds = Number(values.rounds);
const state = mkdtempSync(join(tmpdir(), "rollcall-chaos-"));
const start = (): Promise<BenchServer> =>
  startWorker(
    "test/chaos/continuity.worker.ts",
    { ROOM: "Room", DURABLE_ROOM: "DurableRoom" },
    {},
    { persistTo: state },
  );
let server = await start();
const portOf = ({ url }: BenchServer): number => Number(new URL(url).port);
/** What happens to connections now: how their sessions' ends are counted. */
type Fault = "cut" | "cut asleep" | "killed";
let fault = "cut" as Fault;
const violations: string[] = [];
/** Counts by room, fault and outcome. */
const outcomes = new Map<string, Map<string, number>>();

class Listener {
  readonly client: VeraniClient;
  readonly #proxy: FaultProxy;
  readonly #room: Room;
  #link: Link | undefined;
  #last = 0;
  #received = 0;
  #lostBy: Fault | undefined;

  private constructor(room: Room, proxy: FaultProxy) {
    this.#room = room;
    this.#proxy = proxy;
    this.client = new VeraniClient(`${proxy.wsUrl}/ws?${room.query}`, IMPATIENT);
    this.client.on("said", ({ n }) => this.#heard(n));
    this.client.onClose(() => {
      this.#lostBy ??= fault;
    });
    this.client.onOpen((info) => this.#opened(info));
  }

  static async join(room: Room): Promise<Listener> {
    let listener: Listener | undefined;
    const proxy = new FaultProxy(() => portOf(server), {
      onConnect: (link) => {
        if (listener) listener.#link = link;
      },
    });
    await proxy.listen();
    listener = new Listener(room, proxy);
    await listener.client.waitForConnection();
    return listener;
  }

  #heard(n: number): void {
    const expected = this.#last === 0 ? n : this.#last + 1;
    if (n !== expected) violations.push(`${this.#room.name}: ${n} came after ${this.#last}`);
    this.#last = n;
    this.#received += 1;
  }

  #opened({ resumed, reason }: OpenInfo): void {
    if (this.#lostBy === undefined) return;
    const outcome = resumed ? "resumed" : (reason ?? "no reason");
    if (outcome === "no reason") violations.push(`${this.#room.name}: no resume, without a reason`);
    const key = `${this.#room.name}, ${this.#lostBy}`;
    const counts = outcomes.get(key) ?? new Map<string, number>();
    counts.set(outcome, (counts.get(outcome) ?? 0) + 1);
    outcomes.set(key, counts);
    this.#lostBy = undefined;
    // It knows that something may be missing: what comes next is where it goes on.
    if (!resumed) this.#last = 0;
  }

  cut(): void {
    this.#link?.reset();
  }

  get state() {
    return { isConnected: this.client.isConnected(), last: this.#last, received: this.#received };
  }

  async stop(): Promise<void> {
    this.client.close();
    await this.#proxy.stop();
  }
}

class Room {
  readonly name: string;
  readonly query: string;
  readonly perSecond: number;
  readonly listeners: Listener[] = [];
  #talker: VeraniClient | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(kind: string, isDurable: boolean, perSecond: number) {
    this.name = `${kind}, ${isDurable ? "durable" : "in memory"}`;
    this.query = new URLSearchParams({ room: kind, ...(isDurable && { durable: "1" }) }).toString();
    this.perSecond = perSecond;
  }

  async start(): Promise<void> {
    for (let i = 0; i < LISTENERS; i++) this.listeners.push(await Listener.join(this));
    await this.#reconnect();
  }

  /** The one who talks comes by a line that is never cut, and so not through the proxy. */
  async #reconnect(): Promise<void> {
    this.#talker?.close();
    this.#talker = new VeraniClient(`${server.url}/ws?${this.query}`);
    await this.#talker.waitForConnection();
    this.talk();
  }

  talk(): void {
    clearInterval(this.#timer);
    if (this.perSecond === 0) return;
    this.#timer = setInterval(() => this.#talker?.emit("say"), 1_000 / this.perSecond);
  }

  hush(): void {
    clearInterval(this.#timer);
  }

  /** Until all are connected, and have received what is said now. */
  async settle(what: string): Promise<void> {
    if (!this.#talker?.isConnected()) await this.#reconnect();
    const untilMs = Date.now() + HEAL_MS;
    let isSaid = false;
    for (;;) {
      const states = this.listeners.map((listener) => listener.state);
      if (states.every(({ isConnected }) => isConnected)) {
        // What is said from now on reaches all: nobody may lack the end of it.
        if (!isSaid) this.#talker?.emit("say");
        isSaid = true;
        const [first] = states;
        if (first && first.last > 0 && states.every(({ last }) => last === first.last)) return;
      }
      if (Date.now() > untilMs) {
        violations.push(`${what}: ${this.name} is ${JSON.stringify(states)}`);
        return;
      }
      await sleep(50);
    }
  }

  async stop(): Promise<void> {
    this.hush();
    this.#talker?.close();
    await Promise.all(this.listeners.map((listener) => listener.stop()));
  }
}

const rooms = [false, true].flatMap((isDurable) => [
  new Room("quiet", isDurable, 0),
  new Room("busy", isDurable, 20),
]);
print(`chaos of continuity: seed ${seed}, ${rounds} rounds`);
for (const room of rooms) await room.start();
for (let round = 1; round <= rounds; round++) {
  const random = new Random(seed, round);
  const cutSome = async (forMs: number) => {
    const untilMs = Date.now() + forMs;
    while (Date.now() < untilMs) {
      for (const { listeners } of rooms)
        for (const listener of listeners) if (random.chance(0.25)) listener.cut();
      await sleep(random.int(100, 900));
    }
  };
  fault = "cut";
  await cutSome(random.int(2_000, 4_000));
  for (const room of rooms) room.hush();
  await Promise.all(rooms.map((room) => room.settle(`round ${round}`)));
  if (round % SLEEP_EVERY === 0) {
    await sleep(SLEEP_MS);
    fault = "cut asleep";
    for (const { listeners } of rooms) random.pick(listeners).cut();
    await sleep(2_000);
    await Promise.all(rooms.map((room) => room.settle(`round ${round}, asleep`)));
  }
  for (const room of rooms) room.talk();
  await sleep(random.int(300, 1_500));
  fault = "killed";
  process.kill(server.pid, "SIGKILL");
  await server.stop();
  server = await start();
  await sleep(2_500);
  for (const room of rooms) room.hush();
  await Promise.all(rooms.map((room) => room.settle(`round ${round}, killed`)));
  for (const room of rooms) room.talk();
  print(`round ${round}: ${violations.length} violations`);
}
for (const room of rooms) await room.stop();
await server.stop();
rmSync(state, { recursive: true, force: true });

const columns = [32, 12];
print();
printRow(columns, ["room, and how lines were lost", "losses", "resumed, or why not"]);
for (const [key, counts] of [...outcomes].sort(([a], [b]) => a.localeCompare(b))) {
  const total = [...counts.values()].reduce((sum, n) => sum + n, 0);
  const shares = [...counts].map(([outcome, n]) => `${outcome} ${n}`);
  printRow(columns, [key, String(total), shares.join(", ")]);
}
print(`${violations.length} violations`);
for (const violation of violations.slice(0, 20)) print(`  ${violation}`);
process.exit(violations.length === 0 ? 0 : 1);
