/**
 * A presence room of 16 shards with as many sockets as this machine allows, beside a room of one actor and
 * native servers with 5 000 each; and one actor with 500 sockets beside NATS.
 *
 * A connection takes workerd two of the files that a process may open, with no proxy in front of it. So
 * where the limit is 20 000, the shards are distributed over two runtimes, as on Cloudflare they are over
 * machines, and each client connects to the one that has its shard. Clients are in as many processes, with
 * source addresses of their own, since an address has some 28 000 ports.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { shardOf } from "../../src/shards/layout.ts";
import { getJson } from "../kit/http.ts";
import { addUp, summarize } from "../kit/latency.ts";
import { Clients, cpuMs, memoryOf, stopAll, untilEnd } from "../kit/processes.ts";
import { startRoom } from "./fanout.bench.ts";
import type { Dialect, Joined, Known, Place, Published, Received, Task } from "./large.clients.ts";
import { startNative } from "./natives.ts";
import { less, more, OURS, pick, type Quantity, type Result, takeTurns } from "./report.ts";
import { type BenchServer, type Neighbour, startWorker } from "./server.ts";

const SHARDS = 16;
/** Of the rooms' actors. */
const CLASS = "PresenceRoom";
const MOST_SOCKETS = 50_000;
/** Files of a process that are not sockets of clients. */
const OTHER_FILES = 2_000;
const FILES_EACH = 2;
const ONE_ACTOR_SOCKETS = 5_000;
const FEW_SOCKETS = 500;
/** First a few, so that code and machinery are there before memory is measured. */
const FIRST_SOCKETS = 50;
const STEP_SOCKETS = 1_000;
/** A client of a smaller room receives all users when it joins. */
const LISTED_SOCKETS = 2_000;
const IN_FLIGHT = 100;
const STREAM_MS = 3_000;
const QUIET_MS = 1_000;
/** Turns of the trial with few sockets: short ones, since a stall of the machine spoils one of them. */
const FEW_TURNS_PER_ROUND = 3;
const EVENTS_PER_ROUND = 3;
const FEW_STREAM_MS = 800;
/** The contract: a count is exact after this time. */
const EXACT_MS = 2_000;
const COUNT_POLL_MS = 50;
const ONE = "one actor";

const PUBLISHED = [
  "Published, not measured here:",
  "Centrifugo (<https://centrifugal.dev/blog/2020/02/10/million-connections-with-centrifugo>): 1 000 000 WebSockets in groups of 10 on 20 servers with 40 cores, 500 000 deliveries a second, 200 ms at 99 %, 30 KB a connection.",
  "Socket.IO (<https://github.com/ezioda004/benchmark-socketio-uwebsockets>): 30 000 sockets and as many deliveries of 1 KB a second, which is all that one core does; its own page on memory (<https://socket.io/docs/v4/memory-usage/>) has a chart for 10 000 sockets, without figures.",
].join(" ");

/** Files that a process may open. Node has raised its limit as far as it may. */
function openFiles(): number {
  const limits = readFileSync("/proc/self/limits", "utf8");
  const files = /^Max open files +(\S+)/m.exec(limits)?.[1];
  return files === "unlimited" ? Number.POSITIVE_INFINITY : Number(files);
}

/** How many connections a runtime takes, in thousands. */
function fitting(): number {
  return Math.floor((openFiles() - OTHER_FILES) / FILES_EACH / STEP_SOCKETS) * STEP_SOCKETS;
}

interface Figures {
  /** Time until an event reached so many sockets, in ms. */
  p50Ms: number;
  p99Ms: number;
  maxMs: number;
  /** Deliveries per second. */
  rate: number;
  /** CPU of the server per delivery, in µs. */
  cpuUs: number;
  /** Events in a message, on average. */
  perMessage: number;
}

/** Processes of clients so far: each has addresses of its own. */
let processes = 0;

/** The clients of one room: a process of them for each of its servers. */
class Crowd {
  readonly #servers: readonly BenchServer[];
  readonly #places: Place[];
  readonly #processes: Clients[];
  sockets = 0;

  constructor(dialect: Dialect, servers: readonly BenchServer[], sockets: number, room = "") {
    this.#servers = servers;
    this.#places = servers.map(({ url }, i) => ({
      ...{ dialect, url, room },
      network: `127.1.${processes++}`,
      users: usersOf(i, servers.length, sockets / servers.length),
    }));
    this.#processes = servers.map(() => new Clients(new URL("large.clients.ts", import.meta.url)));
  }

  #askAll<T>(task: (i: number) => Task): Promise<T[]> {
    return Promise.all(this.#processes.map((clients, i) => clients.ask<T>(task(i))));
  }

  /** Until there are `upTo` sockets, evenly distributed over the servers. */
  async join(upTo: number): Promise<Joined> {
    const share = upTo / this.#servers.length;
    const all = await this.#askAll<Joined>((i) => ({
      do: "join",
      place: this.#places[i] as Place,
      upTo: share,
    }));
    this.sockets = upTo;
    return {
      elapsedMs: Math.max(...all.map(({ elapsedMs }) => elapsedMs)),
      mostBytes: Math.max(...all.map(({ mostBytes }) => mostBytes)),
    };
  }

  /** CPU time of the servers, in ms, and their resident memory, in MB. */
  cpuMs(): number {
    return this.#servers.reduce((sum, { pid }) => sum + cpuMs(pid), 0);
  }

  rss(): number {
    return this.#servers.reduce((sum, { pid }) => sum + memoryOf(pid).rss, 0);
  }

  async leave(clients: number): Promise<void> {
    await this.#askAll(() => ({ do: "leave", clients: clients / this.#servers.length }));
    this.sockets -= clients;
  }

  /** Until all clients know the number of connections. */
  async untilKnown(): Promise<Known> {
    const known = await this.#askAll<Known>(() => ({ do: "know", connections: this.sockets }));
    return {
      elapsedMs: Math.max(...known.map(({ elapsedMs }) => elapsedMs)),
      wrongBy: Math.max(...known.map(({ wrongBy }) => wrongBy)),
    };
  }

  async #publish(by: number, inFlight: number, durationMs: number): Promise<Figures> {
    const before = this.cpuMs();
    const [first] = this.#processes as [Clients];
    const published = await first.ask<Published>({ do: "publish", by, inFlight, durationMs });
    const received = await this.#askAll<Received>(() => ({
      do: "receive",
      events: published.events,
    }));
    const deliveries = published.events * this.sockets;
    const endedAtMs = Math.max(...received.map(({ lastAtMs }) => lastAtMs));
    return {
      ...summarize(addUp(received.map(({ latencies }) => latencies))),
      rate: (deliveries / (endedAtMs - published.startedAtMs)) * 1_000,
      cpuUs: ((this.cpuMs() - before) * 1_000) / deliveries,
      perMessage: deliveries / received.reduce((sum, { messages }) => sum + messages, 0),
    };
  }

  /** One event alone. */
  async event(): Promise<Figures> {
    await sleep(QUIET_MS);
    return this.#publish(1, 1, 0);
  }

  /** A stream of events of `by` members, or over HTTP. */
  async stream(by: number, durationMs: number): Promise<Figures> {
    await sleep(QUIET_MS);
    return this.#publish(by, IN_FLIGHT, durationMs);
  }
}

interface Room {
  dialect: Dialect;
  servers: readonly BenchServer[];
  sockets: number;
  /** Of presence. */
  room?: string;
}

interface Growth {
  joinsPerSecond: number[];
  /** Resident memory of the server for each connection, in KB. */
  memoryKb: number[];
  /** What a client had been sent was wrong by so many connections, at the end of each thousand joins. */
  wrongBy: number[];
  /** From then until the count was right over HTTP, and until all clients knew it. */
  exactMs: number[];
  knownMs: number[];
  /** The most bytes that a client received when it joined, in a room that does not list all users. */
  mostBytes: number;
}

/** Fills a room, a thousand at a time. `room`: a presence room, whose count is checked. */
async function grow(crowd: Crowd, { servers, sockets, room }: Room): Promise<Growth> {
  const growth: Growth = {
    ...{ joinsPerSecond: [], memoryKb: [], wrongBy: [], exactMs: [], knownMs: [] },
    mostBytes: 0,
  };
  const count = async (): Promise<number> => {
    const path = `${servers[0]?.url.replace("ws:", "http:")}/api/v1/rooms/${room}`;
    const { totalConnections } = await getJson<{ totalConnections: number }>(path, "user:bench");
    return totalConnections;
  };
  const settle = async () => {
    const startedAtMs = performance.now();
    const known = crowd.untilKnown();
    while ((await count()) !== crowd.sockets) await sleep(COUNT_POLL_MS);
    growth.exactMs.push(performance.now() - startedAtMs);
    const { elapsedMs, wrongBy } = await known;
    growth.knownMs.push(elapsedMs);
    growth.wrongBy.push(wrongBy);
  };
  await crowd.join(FIRST_SOCKETS);
  await sleep(QUIET_MS);
  const before = crowd.rss();
  while (crowd.sockets < sockets) {
    const now = crowd.sockets;
    const { elapsedMs, mostBytes } = await crowd.join(Math.min(now + STEP_SOCKETS, sockets));
    growth.joinsPerSecond.push(((crowd.sockets - now) * 1_000) / elapsedMs);
    if (now < LISTED_SOCKETS || room === undefined) continue;
    growth.mostBytes = Math.max(growth.mostBytes, mostBytes);
    await settle();
  }
  await sleep(QUIET_MS);
  growth.memoryKb.push(((crowd.rss() - before) * 1_024) / (sockets - FIRST_SOCKETS));
  if (room === undefined) return growth;
  await crowd.leave(STEP_SOCKETS);
  await settle();
  await crowd.join(sockets);
  await settle();
  return growth;
}

function runtimesFor(sockets: number): string {
  return sockets > fitting() ? "two runtimes" : "one runtime";
}

/** Presence rooms in as many runtimes as `sockets` connections require: one or two. */
async function startPresence(sockets: number): Promise<BenchServer[]> {
  const start = (bindings: Record<string, string>, neighbour?: Neighbour) =>
    startWorker(
      "test/bench/large.worker.ts",
      { HERE: CLASS },
      { ENVIRONMENT: "development", LARGE_ROOMS: `stadium:${SHARDS}`, ...bindings },
      neighbour && { neighbour },
    );
  if (sockets <= fitting()) return [await start({})];
  const folder = mkdtempSync(join(tmpdir(), "bench-"));
  untilEnd({ stop: async () => rmSync(folder, { recursive: true, force: true }) });
  const half = (name: string, other: string): Neighbour => ({
    ...{ folder, name },
    objects: { THERE: { className: CLASS, scriptName: other } },
  });
  return [
    await start({}, half("even", "odd")),
    await start({ IS_ODD: "yes" }, half("odd", "even")),
  ];
}

/** Users whose shard has the number `server`, modulo `servers`. */
function usersOf(server: number, servers: number, count: number): string[] {
  const users: string[] = [];
  for (let n = 0; users.length < count; n++) {
    if (shardOf(`user-${n}`, SHARDS) % servers === server) users.push(`user-${n}`);
  }
  return users;
}

interface Measured {
  growths: Record<string, Growth>;
  events: Record<string, Figures[]>;
  streams: Record<string, Figures[]>;
}

/** Fills rooms, measures them in turns, and stops all. */
async function measureRooms(rooms: Record<string, Room>, rounds: number): Promise<Measured> {
  const crowds: Record<string, Crowd> = {};
  const growths: Record<string, Growth> = {};
  for (const [name, room] of Object.entries(rooms)) {
    const { dialect, servers, sockets } = room;
    const crowd = new Crowd(dialect, servers, sockets, room.room);
    growths[name] = await grow(crowd, room);
    crowds[name] = crowd;
    console.log(`${name}: ${sockets} sockets are in.`);
  }
  const stream = (name: string) => (crowds[name] as Crowd).stream(1, STREAM_MS);
  const names = Object.keys(crowds);
  await takeTurns(names, 1, stream);
  const streams = await takeTurns(names, rounds, stream);
  const events = await takeTurns(names, rounds * EVENTS_PER_ROUND, (name) =>
    (crowds[name] as Crowd).event(),
  );
  await stopAll();
  return { growths, streams, events };
}

async function measureLarge(sockets: number, rounds: number): Promise<Measured> {
  const presence = async (sockets: number, room: string): Promise<Room> => ({
    ...{ dialect: "presence", servers: await startPresence(sockets), sockets, room },
  });
  const rooms: Record<string, Room> = {
    [OURS]: await presence(sockets, "stadium"),
    [ONE]: await presence(ONE_ACTOR_SOCKETS, "arena"),
  };
  for (const dialect of ["NATS", "nchan"] as const) {
    const server = await startNative(dialect);
    if (server) rooms[dialect] = { dialect, servers: [server], sockets: ONE_ACTOR_SOCKETS };
  }
  return measureRooms(rooms, rounds);
}

/** One actor with few sockets beside NATS. All events come from one member, or each from another one. */
async function measureFew(
  rounds: number,
): Promise<Record<"one" | "all", Record<string, Figures[]>>> {
  const nats = await startNative("NATS");
  const crowds: Record<string, Crowd> = {
    [OURS]: new Crowd("room", [await startRoom()], FEW_SOCKETS),
    ...(nats && { NATS: new Crowd("NATS", [nats], FEW_SOCKETS) }),
  };
  for (const crowd of Object.values(crowds)) await crowd.join(FEW_SOCKETS);
  const measure = async (by: number) => {
    const stream = (name: string) => (crowds[name] as Crowd).stream(by, FEW_STREAM_MS);
    await takeTurns(Object.keys(crowds), 1, stream);
    return takeTurns(Object.keys(crowds), rounds * FEW_TURNS_PER_ROUND, stream);
  };
  const streams = { one: await measure(1), all: await measure(FEW_SOCKETS) };
  await stopAll();
  return streams;
}

const fewQuantities = (
  who: string,
  figures: Record<string, Figures[]>,
  rates?: Quantity["atLeast"],
  cpus?: Quantity["atLeast"],
): Quantity[] => [
  more(`${FEW_SOCKETS} sockets, ${who}: deliveries`, "a second", 0, pick(figures, "rate"), rates),
  less(`${FEW_SOCKETS} sockets, ${who}: server CPU`, "µs each", 2, pick(figures, "cpuUs"), cpus),
];

export default async function large(rounds: number): Promise<Result> {
  const files = openFiles();
  const most = Number(process.env.SOCKETS ?? MOST_SOCKETS);
  const sockets = Math.min(most, fitting() * 2);
  console.log(`A process may open ${files} files: ${sockets} sockets.`);
  console.log(PUBLISHED);
  const { growths, streams, events } = await measureLarge(sockets, rounds);
  const few = await measureFew(rounds);
  const grown = (key: "joinsPerSecond" | "memoryKb" | "wrongBy" | "exactMs" | "knownMs", by = 1) =>
    Object.fromEntries(
      Object.entries(growths)
        .filter(([, growth]) => growth[key].length > 0)
        .map(([name, growth]) => [name, growth[key].map((value) => value * by)]),
    );
  const { exactMs, knownMs, mostBytes } = growths[OURS] as Growth;
  return {
    title: "A large room of 16 shards",
    setup: `Rollcall: one presence room of ${SHARDS} shards with ${sockets} sockets in ${runtimesFor(sockets)}; a process may open ${files} files. One actor: a presence room with ${ONE_ACTOR_SOCKETS} sockets. NATS over WebSocket, and one process of nginx with nchan, as Debian has them: ${ONE_ACTOR_SOCKETS} subscribers. All stand side by side. Events of 100 bytes are published over HTTP, to NATS by a member; ${IN_FLIGHT} in flight for ${STREAM_MS / 1_000} s a turn. Joins come in thousands, 100 upgrades at a time in each process of clients, and the count is read at the end of each; then a thousand leave and come back. ${FEW_SOCKETS} sockets: a room of one actor, whose members publish. Clients ping, and the CPU for it is included.\n\n${PUBLISHED}`,
    quantities: [
      more("joins", "a second", 0, grown("joinsPerSecond")),
      less("memory of a connection (resident)", "KB", 1, grown("memoryKb"), { [ONE]: 1 }),
      less("count at a client after 1 000 joins: wrong by", "", 0, grown("wrongBy")),
      less("… exact over HTTP after", "s", 2, grown("exactMs", 1e-3)),
      less("… exact at every client after", "s", 2, grown("knownMs", 1e-3)),
      less("one event: reached 50 % after", "ms", 0, pick(events, "p50Ms")),
      less("one event: reached 99 % after", "ms", 0, pick(events, "p99Ms")),
      less("one event: reached all after", "ms", 0, pick(events, "maxMs")),
      more(`${IN_FLIGHT} in flight: events in a message`, "", 1, pick(streams, "perMessage")),
      more(`${IN_FLIGHT} in flight: deliveries`, "a second", 0, pick(streams, "rate"), {
        [ONE]: 0.9,
      }),
      less(`${IN_FLIGHT} in flight: server CPU a delivery`, "µs", 2, pick(streams, "cpuUs")),
      ...fewQuantities("one member publishes", few.one, { NATS: 1.1 }, { NATS: 1.3 }),
      ...fewQuantities("all members publish", few.all),
    ],
    bounds: [
      {
        what: "most bytes to a client that joins, above 2000 users",
        value: mostBytes,
        unit: "bytes",
        atMost: 8_192,
      },
      {
        what: "longest time until the count was exact over HTTP",
        value: Math.max(...exactMs),
        unit: "ms",
        atMost: EXACT_MS,
      },
      {
        what: "longest time until the count was exact at every client",
        value: Math.max(...knownMs),
        unit: "ms",
        atMost: EXACT_MS,
      },
    ],
  };
}
