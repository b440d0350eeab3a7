/**
 * Some of a large room's clients, of ours or of a native server, in one process. The first
 * process of a room also publishes. Each event has a number and the time at which it was published.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type WebSocket from "ws";
import { CONFIRM, CONFIRMED, PING } from "../../src/wire/frames.ts";
import { type Counts, Latencies } from "../kit/latency.ts";
import { answerParent } from "../kit/processes.ts";
import { PlainWebSocket } from "../kit/sockets.ts";

export type Task =
  /** Until there are `upTo` clients, each with its first message. */
  | { do: "join"; place: Place; upTo: number }
  | { do: "leave"; clients: number }
  /** Waits until all clients of the room know its number of connections. */
  | { do: "know"; connections: number }
  /**
   * Keeps `inFlight` events of `by` members on their way to this process's clients for `durationMs`, and
   * waits until these have the last one.
   */
  | { do: "publish"; by: number; inFlight: number; durationMs: number }
  /** Waits until each client has `events` more events than at the last time. */
  | { do: "receive"; events: number };

type Publish = Extract<Task, { do: "publish" }>;

export interface Place {
  dialect: Dialect;
  url: string;
  room: string;
  /** The first three numbers of the clients' source addresses, which no other process uses. */
  network: string;
  /** Of each client. */
  users: readonly string[];
}

export interface Joined {
  elapsedMs: number;
  /** The most bytes that a client received with its first list. */
  mostBytes: number;
}

export interface Published {
  events: number;
  /** By {@link now}. */
  startedAtMs: number;
}

export interface Known {
  elapsedMs: number;
  /** What the client that was the furthest off had been sent at first was wrong by so much. */
  wrongBy: number;
}

export interface Received {
  /** From the publish to a client's handler. */
  latencies: Counts;
  /** Messages that brought the events. */
  messages: number;
  /** When the last one came, by {@link now}. */
  lastAtMs: number;
}

interface Speech {
  /** Path of a user's upgrade. */
  path(user: string, room: string): string;
  /** What a client sends when it is open. */
  greeting?: string;
  /** What the server has sent when a client is in the room. Default: nothing. */
  isIn?: string;
  pings?: boolean;
  /** Publishes an event, given as JSON. */
  publish(place: Place, event: string, member: WebSocket): unknown;
}

const post = async (url: string, body: string, headers: Record<string, string>): Promise<void> => {
  const answer = await fetch(url.replace("ws:", "http:"), { method: "POST", body, headers });
  await answer.arrayBuffer();
  if (!answer.ok) throw new Error(`${url} answered ${answer.status}`);
};

const SPEECH = {
  presence: {
    path: (user, room) => `/ws/presence?v=3&room=${room}&token=user:${user}`,
    isIn: '"presence.sync"',
    pings: true,
    publish: ({ url, room }, event) =>
      post(`${url}/api/v1/rooms/${room}/events`, `{"event":"said","data":${event}}`, {
        Authorization: "Bearer user:backend",
        "Content-Type": "application/json",
      }),
  },
  /** The room of the fan-out benchmark, whose members publish, as those of NATS do. */
  room: {
    path: () => "/ws?v=2",
    isIn: '"hello"',
    publish: (_, event, member) => member.send(`{"type":"say","data":${event}}`),
  },
  NATS: {
    path: () => "/",
    greeting: 'CONNECT {"verbose":false}\r\nSUB room 1\r\nPING\r\n',
    isIn: "PONG",
    publish: (_, event, member) => member.send(`PUB room ${event.length}\r\n${event}\r\n`),
  },
  nchan: {
    path: () => "/sub",
    publish: ({ url }, event) => post(`${url}/pub`, event, { Accept: "text/plain" }),
  },
} satisfies Record<string, Speech>;
export type Dialect = keyof typeof SPEECH;

/** A line of chat. */
const TEXT = "The quick brown fox jumps over the lazy dog, twice.";
const EVENT = /"id":(\d+),"text":"([\d.]+) /g;
const TOTAL = /"totalConnections":(\d+)/g;
const NATS_PING = "PING\r\n";
/** Clients of one source address: finding a free port of 28 000 takes long when many are in use. */
const PER_ADDRESS = 1_000;
/** Upgrades on their way at once. */
const CONCURRENCY = 100;
/** As they joined one after another, so they ping. The server closes those that it got no ping from for 15 s. */
const PING_MS = 7_000;
const TICK_MS = 50;
/** Messages that are remembered: most clients, or most of a shard, get the very same. */
const RECENT = 64;
/** Anything that takes longer never ends. */
const GIVE_UP_MS = 60_000;

/** The same in all processes of this machine, in ms. */
const now = (): number => Number(process.hrtime.bigint()) / 1e6;

interface Content {
  events: readonly { id: number; atMs: number }[];
  total: number | undefined;
  /** What the server wants to have back. */
  reply: string | undefined;
}

const recent: { bytes: Buffer; content: Content }[] = [];

function contentOf(bytes: Buffer): Content {
  const known = recent.find((one) => one.bytes.equals(bytes));
  if (known) return known.content;
  const content = parse(bytes.toString());
  recent.unshift({ bytes: Buffer.from(bytes), content });
  recent.splice(RECENT);
  return content;
}

function parse(text: string): Content {
  const total = [...text.matchAll(TOTAL)].at(-1)?.[1];
  const events = [...text.matchAll(EVENT)];
  return {
    events: events.map(([, id, atMs]) => ({ id: Number(id), atMs: Number(atMs) })),
    total: total === undefined ? undefined : Number(total),
    reply: text.includes(CONFIRM) ? CONFIRMED : text.includes(NATS_PING) ? "PONG\r\n" : undefined,
  };
}

class Client {
  readonly ws: WebSocket;
  readonly isIn: Promise<void>;
  bytes = 0;
  /** Connections of the room, as the server says. */
  total: number | undefined;
  /** Events since the last time. */
  events = 0;
  #pingedAtMs = now();
  /** NATS sends a stream: the beginning of a message whose end is still to come. */
  #rest = Buffer.alloc(0);

  constructor({ dialect, url, room, network, users }: Place, index: number) {
    const user = users[index] as string;
    const speech: Speech = SPEECH[dialect];
    const address = `${network}.${1 + Math.floor(index / PER_ADDRESS)}`;
    this.ws = new PlainWebSocket(url + speech.path(user, room), [], address);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.isIn = promise;
    this.ws.on("error", reject);
    this.ws.on("close", (code, reason) => {
      if (code !== LEFT) throw new Error(`${user} was closed with ${code} ${reason}`);
    });
    this.ws.on("open", () => {
      if (speech.greeting !== undefined) this.ws.send(speech.greeting);
      if (speech.pings) this.ws.send(PING);
      if (speech.isIn === undefined) resolve();
    });
    let hasJoined = speech.isIn === undefined;
    this.ws.on("message", (bytes: Buffer) => {
      if (!hasJoined) {
        this.bytes += bytes.byteLength;
        hasJoined = bytes.includes(speech.isIn as string);
        if (hasJoined) resolve();
      }
      this.#take(contentOf(dialect === "NATS" ? this.#whole(bytes) : bytes));
    });
  }

  pingIfDue(atMs: number): void {
    if (atMs < this.#pingedAtMs + PING_MS) return;
    this.#pingedAtMs = atMs;
    this.ws.send(PING);
  }

  #whole(bytes: Buffer): Buffer {
    const all = this.#rest.byteLength > 0 ? Buffer.concat([this.#rest, bytes]) : bytes;
    const end = all.lastIndexOf("\r\n") + 2;
    // A message is two lines, of which the second is JSON.
    const isWhole = end === all.byteLength && all.at(-3) === 0x7d;
    if (isWhole || all[0] !== 0x4d) {
      this.#rest = Buffer.alloc(0);
      return all;
    }
    const cut = all.lastIndexOf("}\r\n") + 3;
    this.#rest = Buffer.from(all.subarray(cut === 2 ? 0 : cut));
    return all.subarray(0, all.byteLength - this.#rest.byteLength);
  }

  #take({ events, total, reply }: Content): void {
    if (reply !== undefined) this.ws.send(reply);
    if (total !== undefined) this.total = total;
    if (events.length === 0) return;
    this.events += events.length;
    messages += 1;
    lastAtMs = now();
    // One of a message suffices: only lone events are asked for their latency.
    latencies.add(lastAtMs - (events[0]?.atMs ?? lastAtMs));
    for (const { id } of events) onDelivery(id);
  }
}

/** Code of a client that leaves by itself. */
const LEFT = 1_000;
const clients: Client[] = [];
const latencies = new Latencies();
let messages = 0;
let lastAtMs = 0;
let place: Place;
let onDelivery: (id: number) => void = () => {};
let nextId = 0;

async function join(to: Place, upTo: number): Promise<Joined> {
  place = to;
  const startedAtMs = now();
  const joined: Client[] = [];
  let next = clients.length;
  const joinOn = async () => {
    while (next < upTo) {
      const client = new Client(place, next++);
      await client.isIn;
      clients.push(client);
      joined.push(client);
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, joinOn));
  return {
    elapsedMs: now() - startedAtMs,
    mostBytes: Math.max(...joined.map(({ bytes }) => bytes)),
  };
}

function publish({ by, inFlight, durationMs }: Publish): Promise<Published> {
  const startedAtMs = now();
  const firstId = nextId;
  /** Clients that do not have the event yet, by its number behind `firstId`; and such events. */
  const left: number[] = [];
  let pending = 0;
  const { publish }: Speech = SPEECH[place.dialect];
  const send = () => {
    const id = nextId++;
    left.push(clients.length);
    pending += 1;
    const { ws } = clients[id % by] as Client;
    void publish(place, `{"id":${id},"text":"${now().toFixed(2)} ${TEXT}"}`, ws);
  };
  return new Promise((resolve) => {
    onDelivery = (id) => {
      const others = (left[id - firstId] ?? 0) - 1;
      if (others < 0) throw new Error(`event ${id} came too often`);
      left[id - firstId] = others;
      if (others > 0) return;
      pending -= 1;
      if (now() - startedAtMs < durationMs) send();
      else if (pending === 0) resolve({ events: nextId - firstId, startedAtMs });
    };
    for (let i = 0; i < inFlight; i++) send();
  });
}

/** @throws Error when it takes too long */
async function until(what: string, isDone: (client: Client) => boolean): Promise<number> {
  const startedAtMs = now();
  for (;;) {
    const missing = clients.filter((client) => !isDone(client)).length;
    const elapsedMs = now() - startedAtMs;
    if (missing === 0) return elapsedMs;
    if (elapsedMs > GIVE_UP_MS) throw new Error(`${missing} of ${clients.length}: not ${what}`);
    await sleep(TICK_MS);
  }
}

async function know(connections: number): Promise<Known> {
  const wrongBy = Math.max(...clients.map(({ total = 0 }) => Math.abs(total - connections)));
  const elapsedMs = await until("knowing", ({ total }) => total === connections);
  return { elapsedMs, wrongBy };
}

async function receive(events: number): Promise<Received> {
  await until(`${events} events`, (client) => client.events === events);
  for (const client of clients) client.events = 0;
  const received = { latencies: latencies.take(), messages, lastAtMs };
  messages = 0;
  return received;
}

setInterval(() => {
  if (!place || !(SPEECH[place.dialect] as Speech).pings) return;
  const atMs = now();
  for (const client of clients) client.pingIfDue(atMs);
}, TICK_MS);

answerParent(async (task: Task) => {
  switch (task.do) {
    case "join":
      return join(task.place, task.upTo);
    case "leave":
      for (const { ws } of clients.splice(-task.clients)) ws.close(LEFT);
      return {};
    case "know":
      return know(task.connections);
    case "publish":
      return publish(task);
    case "receive":
      return receive(task.events);
  }
});
