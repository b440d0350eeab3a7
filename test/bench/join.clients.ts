/**
 * The clients of the join storm: they fold what they hear into a roster, with the code that our own
 * client uses, until each of them knows everyone.
 */
import { once } from "node:events";
import WebSocket from "ws";
import { parseFrames, unwrapEvent } from "../../src/protocol.ts";
import {
  applyDiff,
  applyEvent,
  type PresenceEvent,
  type Roster,
  rosterOf,
} from "../../src/roster.ts";

/** `query` ends before the user's name. */
export type Task = { do: "storm"; url: string; query: string; users: number } | { do: "leave" };

export interface Storm {
  /** From the first connect until every client knows everyone. */
  elapsedMs: number;
  /** WebSocket messages that arrived at the clients, and their payload. */
  messages: number;
  bytes: number;
}

/** Upgrades on their way at once; a storm, but the kernel's backlog holds it. */
const CONCURRENCY = 100;

let sockets: WebSocket[] = [];

function storm(url: string, query: string, users: number): Promise<Storm> {
  const startedAtMs = performance.now();
  let messages = 0;
  let bytes = 0;
  let knowing = 0;
  let started = 0;
  let last: { data: Buffer; apply: (roster: Roster) => Roster } | undefined;

  return new Promise((resolve) => {
    const connect = () => {
      if (started === users) return;
      const userId = `user-${started++}`;
      let roster: Roster = new Map();
      let knows = false;
      const ws = new WebSocket(`${url}${query}${userId}`, { perMessageDeflate: false });
      sockets.push(ws);
      ws.once("open", connect);
      ws.on("message", (data: Buffer) => {
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
        resolve({ elapsedMs: performance.now() - startedAtMs, messages, bytes });
      });
    };
    for (let i = 0; i < CONCURRENCY; i++) connect();
  });
}

/** What the events of a message do to a roster. */
function reducerOf(data: Buffer): (roster: Roster) => Roster {
  const events = parseFrames(data.toString()).map(unwrapEvent);
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

async function leave(): Promise<void> {
  const leaving = sockets;
  sockets = [];
  await Promise.all(
    leaving.map((ws) => {
      const closed = once(ws, "close");
      ws.close(1000);
      return closed;
    }),
  );
}

process.on("message", async (task: Task) => {
  if (task.do === "storm") process.send?.(await storm(task.url, task.query, task.users));
  else {
    await leave();
    process.send?.({});
  }
});
