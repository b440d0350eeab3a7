/**
 * The clients of the join storm: they fold what they hear into a roster, with the code that our own
 * client uses, until each of them knows everyone.
 */
import WebSocket from "ws";
import {
  applyDiff,
  applyEvent,
  type PresenceEvent,
  type Roster,
  rosterOf,
} from "../../rooms/presence/roster.ts";
import { PING, PONG, parseFrames, unwrapEvent } from "../../src/wire/frames.ts";

/** `query` ends before the user's name. */
export interface Task {
  url: string;
  query: string;
  users: number;
  /** Whether the server closes who does not ping, as ours does. Pongs are not counted. */
  pings: boolean;
}

export interface Storm {
  /** From the first connect until every client knows everyone. */
  elapsedMs: number;
  /** WebSocket messages that arrived at the clients, and their payload. */
  messages: number;
  bytes: number;
}

/** Upgrades on their way at once; a storm, but the kernel's backlog holds it. */
const CONCURRENCY = 100;

/** As often as our client pings. */
const PING_MS = 5_000;
/** A storm that takes longer never ends. */
const GIVE_UP_MS = 300_000;

function storm({ url, query, users, pings }: Task): Promise<Storm> {
  const startedAtMs = performance.now();
  let messages = 0;
  let bytes = 0;
  let knowing = 0;
  let started = 0;
  let last: { data: Buffer; apply: (roster: Roster) => Roster } | undefined;

  const watchdog = setTimeout(() => {
    throw new Error(`only ${knowing} of ${users} know all after ${GIVE_UP_MS} ms`);
  }, GIVE_UP_MS);

  return new Promise((resolve) => {
    const connect = () => {
      if (started === users) return;
      const userId = `user-${started++}`;
      let roster: Roster = new Map();
      let knows = false;
      const ws = new WebSocket(`${url}${query}${userId}`, { perMessageDeflate: false });
      ws.once("open", () => {
        connect();
        if (!pings) return;
        ws.send(PING);
        setInterval(() => ws.send(PING), PING_MS);
      });
      ws.on("message", (data: Buffer) => {
        if (pings && data.equals(pong)) return;
        if (data[0] !== BRACE && data[0] !== BRACKET && !isSocketIoEvent(ws, data)) return;
        messages += 1;
        bytes += data.length;
        // Most clients get the very same bytes: parse them once, fold them for each.
        if (!last?.data.equals(data)) last = { data, apply: reducerOf(data) };
        roster = last.apply(roster);
        const isComplete = roster.size === users;
        if (isComplete === knows) return;
        knows = isComplete;
        knowing += knows ? 1 : -1;
        if (knowing < users) return;
        clearTimeout(watchdog);
        resolve({ elapsedMs: performance.now() - startedAtMs, messages, bytes });
      });
    };
    for (let i = 0; i < CONCURRENCY; i++) connect();
  });
}

const pong = Buffer.from(PONG);
const [BRACE, BRACKET] = [0x7b, 0x5b];

/** Whether engine.io carries an event here; what it asks by itself is answered. */
function isSocketIoEvent(ws: WebSocket, data: Buffer): boolean {
  const text = data.subarray(0, 2).toString();
  if (text.startsWith("0")) ws.send("40");
  else if (text === "2") ws.send("3");
  return text === "42";
}

/** What the events of a message do to a roster. */
function reducerOf(message: Buffer): (roster: Roster) => Roster {
  const text = message.toString();
  const isSocketIo = text.startsWith("42");
  const [event, data] = isSocketIo ? JSON.parse(text.slice(2)) : [];
  const events = isSocketIo ? [{ event, data }] : parseFrames(text).map(unwrapEvent);
  return (roster) => {
    let next = roster;
    for (const { event, data } of events) {
      if (event === "presence.sync") next = rosterOf(data);
      else if (event === "presence.diff") applyDiff(next, data);
      else if (event.startsWith("presence.")) applyEvent(next, { event, data } as PresenceEvent);
    }
    return next;
  };
}

process.on("message", async (task: Task) => {
  process.send?.(await storm(task));
});
