/**
 * The clients of the fan-out benchmark. They check that every socket gets every event, in the one
 * order that the server gave them by `n`.
 */
import type WebSocket from "ws";
import { Latencies, summarize } from "../kit/latency.ts";
import { answerParent } from "../kit/processes.ts";
import { openSocket } from "../kit/sockets.ts";
import { DIALECTS, type Dialect, eventsOf } from "./dialects.ts";

export type Task =
  | { do: "connect"; room: string; dialect: Dialect; url: string; sockets: number }
  | { do: "round"; room: string; inFlight: number; durationMs: number };

export interface Round {
  events: number;
  deliveries: number;
  elapsedMs: number;
  /** From a client's `send` to a client's handler, in ms. */
  p50Ms: number;
  p99Ms: number;
}

interface Said {
  n: number;
  id: number;
}

interface Client {
  ws: WebSocket;
  /** `n` of the event that must come next. */
  next: number;
}

/** A line of chat. */
const TEXT = "The quick brown fox jumps over the lazy dog, twice.";
/** A round in which nothing arrives for so long has lost an event. */
const LOST_AFTER_MS = 20_000;

/** Clients by the name of a room, which a task chooses. */
const rooms = new Map<string, { dialect: Dialect; clients: Client[] }>();
let onData: (client: Client, bytes: Buffer) => void = () => {};

/** Upgrades on their way at once. */
const CONCURRENCY = 50;

async function connect(
  room: string,
  dialect: Dialect,
  url: string,
  sockets: number,
): Promise<void> {
  const clients: Client[] = [];
  rooms.set(room, { dialect, clients });
  let started = 0;
  const connectOn = async () => {
    while (started++ < sockets) clients.push(await connectOne(dialect, url));
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, connectOn));
}

async function connectOne(dialect: Dialect, url: string): Promise<Client> {
  const { path, greeting } = DIALECTS[dialect];
  const client: Partial<Client> = { next: -1 };
  client.ws = await openSocket(url + path, greeting, (bytes) => onData(client as Client, bytes));
  return client as Client;
}

/** Keeps `inFlight` events on their way for `durationMs`, then waits for the last one. */
function round(room: string, inFlight: number, durationMs: number): Promise<Round> {
  const { dialect, clients } = rooms.get(room) as { dialect: Dialect; clients: Client[] };
  const { encode } = DIALECTS[dialect];
  const sentAtMs: number[] = [];
  const missing: number[] = [];
  const latencies = new Latencies();
  /** Messages seen, by the `n` they begin with: most sockets get the very same bytes. */
  const seen = new Map<number, { bytes: Buffer; said: Said[] }>();
  let done = 0;
  const startedAtMs = performance.now();
  for (const client of clients) client.next = -1;

  return new Promise((resolve) => {
    const watchdog = setInterval(() => {
      if (performance.now() - lastAtMs > LOST_AFTER_MS) throw new Error("an event was lost");
    }, 1_000);
    let lastAtMs = startedAtMs;
    let base = -1;

    const send = () => {
      const id = sentAtMs.length;
      missing.push(clients.length);
      sentAtMs.push(performance.now());
      const { ws } = clients[(id * 7) % clients.length] as Client;
      ws.send(encode("say", { id, text: TEXT }));
    };

    onData = (client, bytes) => {
      const known = seen.get(client.next);
      let said: Said[];
      if (known?.bytes.equals(bytes)) said = known.said;
      else {
        said = eventsOf(bytes).map(({ data }) => data);
        if (base < 0) base = (said[0] as Said).n;
        if (client.next < 0) client.next = base;
        said.forEach(({ n }, i) => {
          if (n !== client.next + i) throw new Error(`event ${client.next + i} came as ${n}`);
        });
        seen.set(client.next, { bytes, said });
      }
      client.next += said.length;
      lastAtMs = performance.now();
      for (const { id } of said) {
        latencies.add(lastAtMs - (sentAtMs[id] as number));
        const left = (missing[id] as number) - 1;
        missing[id] = left;
        if (left < 0) throw new Error(`event ${id} came twice`);
        if (left > 0) continue;
        done += 1;
        if (lastAtMs - startedAtMs < durationMs) send();
        else if (done === sentAtMs.length) {
          clearInterval(watchdog);
          onData = () => {
            throw new Error("an event came after the last one");
          };
          const deliveries = done * clients.length;
          resolve({
            events: done,
            deliveries,
            elapsedMs: lastAtMs - startedAtMs,
            ...summarize(latencies.take()),
          });
        }
      }
    };
    for (let i = 0; i < inFlight; i++) send();
  });
}

answerParent(async (task: Task) =>
  task.do === "connect"
    ? connect(task.room, task.dialect, task.url, task.sockets)
    : round(task.room, task.inFlight, task.durationMs),
);
