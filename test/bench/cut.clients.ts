/**
 * The clients of the cut: raw sockets in one presence room, with the code of our own client for the
 * roster. Those of protocol 2 begin anew after a cut, as all did before sessions could be resumed.
 */
import type WebSocket from "ws";
import {
  applyDiff,
  applyEvent,
  type PresenceEvent,
  type Roster,
  rosterOf,
} from "../../rooms/presence/roster.ts";
import { PING, PONG, parseFrames, unwrapEvent } from "../../src/wire/frames.ts";
import { answerParent } from "../kit/processes.ts";
import { PlainWebSocket } from "../kit/sockets.ts";

/** Connects `users` to the room, or cuts them all. Answers when all are in sync. */
export type Task = { do: "connect"; url: string; protocol: 2 | 3; users: number } | { do: "cut" };

export interface Storm {
  elapsedMs: number;
  messages: number;
  bytes: number;
  /** Users that any client heard leave. */
  departures: number;
}

/** Upgrades on their way at once. */
const CONCURRENCY = 100;
const PING_MS = 5_000;
const GIVE_UP_MS = 300_000;
const pong = Buffer.from(PONG);

let room: Room | undefined;

class Room {
  readonly #url: string;
  readonly users: number;
  readonly #isResuming: boolean;
  readonly #members: Member[] = [];
  #inSync = 0;
  #onSync: () => void = () => {};
  storm: Omit<Storm, "elapsedMs"> = { messages: 0, bytes: 0, departures: 0 };

  constructor({ url, protocol, users }: Extract<Task, { do: "connect" }>) {
    this.#url = `${url}/ws/presence?v=${protocol}&room=cut&token=user:`;
    this.users = users;
    this.#isResuming = protocol === 3;
    for (let i = 0; i < users; i++) this.#members.push(new Member(this, `user-${i}`));
  }

  entered(isInSync: boolean): void {
    this.#inSync += isInSync ? 1 : -1;
    if (this.#inSync === this.users) this.#onSync();
  }

  /** Connects all; resolves when all know all. */
  async connect(): Promise<Storm> {
    const startedAtMs = performance.now();
    this.storm = { messages: 0, bytes: 0, departures: 0 };
    const watchdog = setTimeout(() => {
      throw new Error(`${this.#inSync} of ${this.users} in sync after ${GIVE_UP_MS} ms`);
    }, GIVE_UP_MS);
    const synced = new Promise<void>((resolve) => {
      this.#onSync = resolve;
    });
    const waiting = [...this.#members];
    const work = async (): Promise<void> => {
      for (let next = waiting.shift(); next; next = waiting.shift()) {
        await next.connect(this.#url, this.#isResuming);
      }
    };
    await Promise.all(Array.from({ length: CONCURRENCY }, work));
    await synced;
    clearTimeout(watchdog);
    return { elapsedMs: performance.now() - startedAtMs, ...this.storm };
  }

  cut(): void {
    for (const member of this.#members) member.cut();
  }
}

class Member {
  readonly #room: Room;
  readonly #userId: string;
  #socket: WebSocket | undefined;
  #roster: Roster = new Map();
  #isKnown = false;
  #isInSync = false;
  /** `<session>:<epoch>`, and the number of the last frame. */
  #session = "";
  #seq = 0;

  constructor(room: Room, userId: string) {
    this.#room = room;
    this.#userId = userId;
  }

  connect(url: string, isResuming: boolean): Promise<void> {
    const resume = isResuming && this.#session ? `&resume=${this.#session}:${this.#seq}` : "";
    const socket = new PlainWebSocket(`${url}${this.#userId}${resume}`);
    this.#socket = socket;
    socket.on("message", (data: Buffer) => {
      if (socket === this.#socket && !data.equals(pong)) this.#receive(data);
    });
    return new Promise((resolve, reject) => {
      socket.once("error", reject);
      socket.once("open", () => {
        socket.send(PING);
        const timer = setInterval(() => socket.send(PING), PING_MS);
        socket.once("close", () => clearInterval(timer));
        resolve();
      });
    });
  }

  #receive(data: Buffer): void {
    const { storm } = this.#room;
    storm.messages += 1;
    storm.bytes += data.length;
    for (const frame of parseFrames(data.toString())) {
      this.#seq = frame.seq ?? this.#seq;
      const { event, data } = unwrapEvent(frame);
      if (event === "hello") {
        this.#session = `${data.session}:${data.epoch}`;
        this.#seq = data.seq ?? 0;
        this.#isKnown = data.resumed === true;
      } else if (event === "presence.sync") {
        this.#roster = rosterOf(data);
        this.#isKnown = true;
      } else if (event === "presence.diff") {
        storm.departures += data.leaves?.length ?? 0;
        applyDiff(this.#roster, data);
      } else if (event.startsWith("presence.")) {
        if (event === "presence.offline") storm.departures += 1;
        this.#roster = applyEvent(this.#roster, { event, data } as PresenceEvent) ?? this.#roster;
      }
    }
    this.#enter(this.#isKnown && this.#roster.size === this.#room.users);
  }

  cut(): void {
    this.#socket?.terminate();
    this.#isKnown = false;
    this.#enter(false);
  }

  #enter(isInSync: boolean): void {
    if (isInSync === this.#isInSync) return;
    this.#isInSync = isInSync;
    this.#room.entered(isInSync);
  }
}

answerParent(async (task: Task): Promise<Storm> => {
  if (task.do === "connect") room = new Room(task);
  else room?.cut();
  return (room as Room).connect();
});
