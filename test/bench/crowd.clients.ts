/**
 * The clients of the benchmark of large rooms: raw sockets that join one presence room, one of which
 * watches a hundred users by name.
 */
import type WebSocket from "ws";
import { applyDiff, type Roster, rosterOf } from "../../rooms/presence/roster.ts";
import { PING, parseFrames, unwrapEvent } from "../../src/wire/frames.ts";
import { answerParent } from "../kit/processes.ts";
import { PlainWebSocket } from "../kit/sockets.ts";

export type Task =
  /** Until the room has so many users, and each client knows it. */
  | { do: "join"; url: string; users: number }
  /** The watched users of even numbers leave. Answers with the names that the watcher then knows. */
  | { do: "leave"; watched: number };

export interface Joined {
  elapsedMs: number;
  bytes: number;
  /** Bytes until a client had its sync: of the one that got most, among those of this task. */
  mostPerJoin: number;
}

const CONCURRENCY = 100;
const PING_MS = 4_000;

const members: Member[] = [];
let bytes = 0;
let onCount: () => void = () => {};

class Member {
  readonly ws: WebSocket;
  readonly isIn: Promise<void>;
  joinBytes = 0;
  roster: Roster = new Map();
  /** Of a large room. */
  #total: number | undefined;
  #isJoining = true;

  get knownUsers(): number {
    return this.#total ?? this.roster.size;
  }

  constructor(url: string) {
    this.ws = new PlainWebSocket(url);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.isIn = promise;
    this.ws.on("error", reject);
    this.ws.on("open", () => this.ws.send(PING));
    this.ws.on("message", (data: Buffer) => {
      bytes += data.byteLength;
      if (this.#isJoining) this.joinBytes += data.byteLength;
      for (const { event, data: of } of parseFrames(data.toString()).map(unwrapEvent)) {
        if (event === "presence.sync") {
          this.roster = rosterOf(of);
          this.#total = of.partial ? of.totalUsers : undefined;
          this.#isJoining = false;
          resolve();
        } else if (event === "presence.diff") applyDiff(this.roster, of);
        else if (event === "presence.count") this.#total = of.totalUsers;
      }
      onCount();
    });
  }
}

async function join({ url, users }: Extract<Task, { do: "join" }>): Promise<Joined> {
  const startedAtMs = performance.now();
  const bytesBefore = bytes;
  const first = members.length;
  const connectOn = async () => {
    while (members.length < users) {
      const n = members.length;
      const watch = n === 0 ? `&watch=${watchedNames(100)}` : "";
      const member = new Member(`${url}/ws?v=3&user=user-${n}${watch}`);
      members.push(member);
      await member.isIn;
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, connectOn));
  await new Promise<void>((resolve) => {
    onCount = () => {
      if (members.every(({ knownUsers }) => knownUsers === users)) resolve();
    };
    onCount();
  });
  onCount = () => {};
  return {
    elapsedMs: performance.now() - startedAtMs,
    bytes: bytes - bytesBefore,
    mostPerJoin: Math.max(...members.slice(first).map(({ joinBytes }) => joinBytes)),
  };
}

/** Every eleventh user is watched. */
function watchedNames(count: number): string[] {
  return Array.from({ length: count }, (_, n) => `user-${(n + 1) * 11}`);
}

async function leave({ watched }: Extract<Task, { do: "leave" }>): Promise<string[]> {
  const [watcher] = members as [Member];
  const names = watchedNames(watched);
  const left = names.filter((_, n) => n % 2 === 0);
  const rest = names.filter((_, n) => n % 2 === 1);
  for (const name of left) members[Number(name.slice(5))]?.ws.close(1_000);
  await new Promise<void>((resolve) => {
    onCount = () => {
      if (left.every((name) => !watcher.roster.has(name))) resolve();
    };
    onCount();
  });
  return rest.filter((name) => watcher.roster.has(name));
}

setInterval(() => {
  for (const { ws } of members) if (ws.readyState === ws.OPEN) ws.send(PING);
}, PING_MS).unref();

answerParent(async (task: Task) => (task.do === "join" ? join(task) : leave(task)));
