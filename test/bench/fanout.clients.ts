/**
 * The clients of the fan-out benchmark. They check that every socket gets every event, in the one
 * order that the server gave them by `n`.
 */
import { once } from "node:events";
import WebSocket from "ws";

/** Ours is protocol 2; the two others on Durable Objects send single frames; engine.io is spoken by hand. */
export type Dialect = "Rollcall" | "bare Durable Object" | "PartyServer" | "socket.io";

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

/** What a listener gets of a message; a line of chat. */
const TEXT = "The quick brown fox jumps over the lazy dog, twice.";
const BUCKETS_PER_MS = 10;
/** A round in which nothing arrives for so long has lost an event. */
const LOST_AFTER_MS = 20_000;

interface Speech {
  path: string;
  /** Called with each message until it says that the socket may be used. Default: it may at once. */
  greet?(ws: WebSocket, text: string): boolean;
  encode(event: string, data: object): string;
  /** The events in a message. */
  decode(text: string): Said[];
}

const plain: Omit<Speech, "path"> = {
  encode: (type, data) => JSON.stringify({ type, data }),
  decode: (text) => [JSON.parse(text).data],
};

const DIALECTS: Record<Dialect, Speech> = {
  Rollcall: {
    path: "/ws?v=2",
    greet: (_, text) => text.includes('"hello"'),
    encode: (type, data) => JSON.stringify({ type, data }),
    decode: (text) => {
      const frames = JSON.parse(text);
      return (Array.isArray(frames) ? frames : [frames]).map(({ data }) => data);
    },
  },
  "bare Durable Object": { path: "/ws", ...plain },
  PartyServer: { path: "/parties/room/bench", ...plain },
  "socket.io": {
    path: "/socket.io/?EIO=4&transport=websocket",
    greet(ws, text) {
      if (text.startsWith("0")) ws.send("40");
      return text.startsWith("40");
    },
    encode: (event, data) => `42${JSON.stringify([event, data])}`,
    decode: (text) => [JSON.parse(text.slice(2))[1]],
  },
};

/** Its clients by the name of a room, which a task chooses. */
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
  const { path, greet } = DIALECTS[dialect];
  const ws = new WebSocket(url + path, { perMessageDeflate: false, skipUTF8Validation: true });
  const client: Client = { ws, next: -1 };
  const greeted = new Promise<void>((resolve) => {
    let isGreeted = greet === undefined;
    if (isGreeted) resolve();
    ws.on("message", (data: Buffer) => {
      if (!isGreeted) {
        isGreeted = greet?.(ws, data.toString()) ?? true;
        if (isGreeted) resolve();
      }
      // engine.io asks whether we live.
      else if (data.length === 1 && data[0] === 0x32) ws.send("3");
      else onData(client, data);
    });
  });
  await once(ws, "open");
  await greeted;
  return client;
}

/** Keeps `inFlight` events on their way for `durationMs`, then waits for the last one. */
function round(room: string, inFlight: number, durationMs: number): Promise<Round> {
  const { dialect, clients } = rooms.get(room) as { dialect: Dialect; clients: Client[] };
  const { encode, decode } = DIALECTS[dialect];
  const sentAtMs: number[] = [];
  const missing: number[] = [];
  const buckets = new Uint32Array(LOST_AFTER_MS * BUCKETS_PER_MS);
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
        said = decode(bytes.toString());
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
        const bucket = ((lastAtMs - (sentAtMs[id] as number)) * BUCKETS_PER_MS) | 0;
        buckets[bucket] = (buckets[bucket] as number) + 1;
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
            p50Ms: percentile(buckets, deliveries * 0.5),
            p99Ms: percentile(buckets, deliveries * 0.99),
          });
        }
      }
    };
    for (let i = 0; i < inFlight; i++) send();
  });
}

function percentile(buckets: Uint32Array, rank: number): number {
  let sum = 0;
  for (const [bucket, count] of buckets.entries()) {
    sum += count;
    if (sum >= rank) return (bucket + 1) / BUCKETS_PER_MS;
  }
  return Number.NaN;
}

process.on("message", async (task: Task) => {
  if (task.do === "connect") {
    await connect(task.room, task.dialect, task.url, task.sockets);
    process.send?.({});
  } else process.send?.(await round(task.room, task.inFlight, task.durationMs));
});
