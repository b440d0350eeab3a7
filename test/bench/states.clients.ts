/**
 * The clients of the benchmark of states: some of a room's sockets move so many times a second, and all
 * note what they are shown of whom, and how old it is.
 */
import type WebSocket from "ws";
import { PING } from "../../src/wire/frames.ts";
import { Latencies, summarize } from "../kit/latency.ts";
import { answerParent } from "../kit/processes.ts";
import { openSocket } from "../kit/sockets.ts";
import { DIALECTS, type Dialect, eventsOf } from "./dialects.ts";

export type Task =
  | { do: "connect"; dialect: Dialect; url: string; sockets: number }
  | { do: "move"; movers: number; durationMs: number };

export interface Moves {
  /** States that were set. */
  changes: number;
  /** How often one client was shown a new state of another. */
  shown: number;
  messages: number;
  bytes: number;
  /** Until all were shown the last state of each. */
  elapsedMs: number;
  /** From a client's `send` until another one shows it. */
  p50Ms: number;
  p99Ms: number;
  /** New states of one mover in a second at the client that was shown the fewest. */
  leastPerSecond: number;
}

const PER_SECOND = 60;
const CONCURRENCY = 50;
const PING_MS = 4_000;
const GIVE_UP_MS = 300_000;

interface Client {
  ws: WebSocket;
  /** The last state of each mover that it was shown, and how many. */
  last: number[];
  count: number[];
}

let dialect: Dialect = "Rollcall";
const clients: Client[] = [];
let onData: (client: Client, bytes: Buffer) => void = () => {};

async function connect(task: Extract<Task, { do: "connect" }>): Promise<void> {
  dialect = task.dialect;
  const { path, greeting } = DIALECTS[dialect];
  const isOurs = dialect === "Rollcall";
  let started = 0;
  const connectOn = async () => {
    while (started < task.sockets) {
      const n = started++;
      const client: Client = { ws: undefined as never, last: [], count: [] };
      clients[n] = client;
      const query = isOurs ? `/ws?v=3&user=user-${n}` : path;
      client.ws = await openSocket(task.url + query, greeting, (bytes) => onData(client, bytes));
      if (isOurs) client.ws.send(PING);
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, connectOn));
  if (isOurs) setInterval(ping, PING_MS).unref();
}

function ping(): void {
  for (const { ws } of clients) ws.send(PING);
}

interface State {
  mover: number;
  n: number;
}

/** The states that a message shows. */
function statesOf(bytes: Buffer): State[] {
  const events = eventsOf(bytes);
  if (dialect !== "Rollcall") return events.map(({ data }) => JSON.parse(data.text));
  return events.flatMap(({ data }) => data?.states ?? []).map(({ state }) => state);
}

/** A state as an app has it: where the cursor is, and two numbers to know it by. */
function encode(mover: number, n: number): string {
  const cursor = [(n * 13) % 1_920, (n * 7 + mover) % 1_080];
  const state = { mover, n, cursor };
  return dialect === "Rollcall"
    ? JSON.stringify({ type: "presence.state", data: { state } })
    : DIALECTS[dialect].encode("say", { id: 0, text: JSON.stringify(state) });
}

function move({ movers, durationMs }: Extract<Task, { do: "move" }>): Promise<Moves> {
  const total = Math.round((durationMs / 1_000) * PER_SECOND);
  const sentAtMs = Array.from({ length: movers }, () => [] as number[]);
  const latencies = new Latencies();
  const result = { changes: total * movers, shown: 0, messages: 0, bytes: 0 };
  let missing = clients.length * movers - movers;
  for (const client of clients) {
    client.last = new Array<number>(movers).fill(-1);
    client.count = new Array<number>(movers).fill(0);
  }
  /** Most sockets get the very same bytes. */
  let known: { bytes: Buffer; states: State[] } | undefined;
  const startedAtMs = performance.now();

  return new Promise((resolve, reject) => {
    const watchdog = setTimeout(() => reject(new Error(`${missing} are missing`)), GIVE_UP_MS);
    onData = (client, bytes) => {
      result.messages += 1;
      result.bytes += bytes.byteLength;
      if (!known?.bytes.equals(bytes)) known = { bytes, states: statesOf(bytes) };
      const now = performance.now();
      for (const { mover, n } of known.states) {
        if (clients[mover] === client || n <= (client.last[mover] as number)) continue;
        client.last[mover] = n;
        (client.count[mover] as number) += 1;
        result.shown += 1;
        latencies.add(now - (sentAtMs[mover]?.[n] as number));
        if (n === total - 1) missing -= 1;
      }
      if (missing > 0) return;
      clearTimeout(watchdog);
      onData = () => {};
      const counts = clients.flatMap(({ count }, i) => count.filter((_, mover) => mover !== i));
      const least = counts.reduce(
        (least, count) => Math.min(least, count),
        Number.POSITIVE_INFINITY,
      );
      resolve({
        ...result,
        elapsedMs: now - startedAtMs,
        ...summarize(latencies.take()),
        leastPerSecond: least / (durationMs / 1_000),
      });
    };
    for (let mover = 0; mover < movers; mover++) {
      let n = 0;
      const firstMs = (mover / movers) * (1_000 / PER_SECOND);
      const next = () => {
        sentAtMs[mover]?.push(performance.now());
        clients[mover]?.ws.send(encode(mover, n));
        n += 1;
        const dueMs = startedAtMs + firstMs + (n * 1_000) / PER_SECOND;
        if (n < total) setTimeout(next, Math.max(0, dueMs - performance.now()));
      };
      setTimeout(next, firstMs);
    }
  });
}

answerParent(async (task: Task) => (task.do === "connect" ? connect(task) : move(task)));
