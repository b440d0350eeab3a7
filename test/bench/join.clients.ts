/**
 * The clients of the join storm: each applies events to a roster, with the code of our own client,
 * until it knows everyone.
 */
import {
  applyDiff,
  applyEvent,
  type PresenceEvent,
  type Roster,
  rosterOf,
} from "../../rooms/presence/roster.ts";
import { PING, PONG } from "../../src/wire/frames.ts";
import { answerParent } from "../kit/processes.ts";
import { openSocket } from "../kit/sockets.ts";
import { eventsOf } from "./dialects.ts";

/** `query` ends before the user's name. */
export interface Task {
  url: string;
  query: string;
  users: number;
  /** Whether the server closes clients that do not ping, as ours does. Pongs are not counted. */
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
      const isSocketIo = query.includes("EIO=");
      void openSocket(`${url}${query}${userId}`, isSocketIo ? "engine.io" : "none", (data) => {
        if (pings && data.equals(pong)) return;
        messages += 1;
        bytes += data.length;
        // Most clients get the very same bytes: they are parsed once.
        if (!last?.data.equals(data)) last = { data, apply: reducerOf(data) };
        roster = last.apply(roster);
        const isComplete = roster.size === users;
        if (isComplete === knows) return;
        knows = isComplete;
        knowing += knows ? 1 : -1;
        if (knowing < users) return;
        clearTimeout(watchdog);
        resolve({ elapsedMs: performance.now() - startedAtMs, messages, bytes });
      }).then((socket) => {
        connect();
        if (!pings) return;
        socket.send(PING);
        setInterval(() => socket.send(PING), PING_MS);
      });
    };
    for (let i = 0; i < CONCURRENCY; i++) connect();
  });
}

const pong = Buffer.from(PONG);

/** What the events of a message do to a roster. */
function reducerOf(message: Buffer): (roster: Roster) => Roster {
  const events = eventsOf(message);
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

answerParent(storm);
