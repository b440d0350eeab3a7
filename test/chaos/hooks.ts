/**
 * Rooms whose changes go to two consumers of webhooks, one of which fails in every way, while people join
 * and leave at random and the server is killed. `webhooks.ts` runs it by hand, test/e2e/webhook-outage.test.ts
 * with few kills.
 */
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { Change } from "../../rooms/presence/contract.ts";
import { getJson } from "../kit/http.ts";
import { Random } from "../kit/random.ts";
import { type Stage, signUser, startStage } from "../kit/stage.ts";
import { Consumer, Deck, Follower } from "./consumer.ts";
import { ClientGuest, type Guest, RawGuest } from "./guests.ts";

/** Rooms that both webhooks select. */
const ROOMS = ["team-a", "team-b"];
/** One that none selects. */
const OTHER_ROOM = "elsewhere";
/**
 * Before some kills a user joins a room of this name and leaves it. From then on nobody wakes it, and its
 * first two requests hang: most likely the server is killed in the middle of one.
 */
const LEFT_ROOM = "team-left";
const LEFT_EVERY = 3;
/** One whose members die with the first kill, and which nobody wakes. */
const DARK_ROOM = "dark";
const USERS = ["ada", "bob", "cyn", "dan", "eve", "fay"];
const DARK_USERS = ["nox", "umbra"];
/** Sees rooms without being seen. */
const UNLISTED_USER = "watcher";
/** All clients are connected, and the rooms and the feed agree, within this time, in ms. */
const SETTLE_MS = 30_000;
const CHECK_EVERY_MS = 200;
const START_MS = 180_000;
/** A healthy webhook waits for no other: one that hangs would delay it by 10 s. */
const LAG_MOST_MS = 8_000;
/** The alarm of an occupied room comes within 10 min, and its first one 7 s after a join. */
const ALARM_MS = 10 * 60_000;
const FIRST_ALARM_MS = 8_500;
const SLACK_MS = 30_000;

/** Lengths of a play: by hand, and as a test. */
export const LONG = { downMs: 130_000, isPatient: true } as const;
export const SHORT = { downMs: 5_000, isPatient: false } as const;
/** Log lines that no crash explains. */
const BUGS = /"event":"(?:restore|handler|task|call|upgrade|sweep)_failed"|uncaught/i;

export interface PlayOptions {
  seed: number;
  /** SIGKILLs. */
  rounds: number;
  /** For how long the failing consumer does not listen at all, in ms. */
  downMs: number;
  /** Whether the room that nobody wakes waits for the alarm of 10 min. */
  isPatient: boolean;
  print(line: string): void;
}

export interface PlayResult {
  violations: string[];
  /** What was counted, for the report. */
  figures: Record<string, string | number>;
  logs: string;
}

type Page =
  | { changes: Change[]; cursor: string; more: boolean }
  | { snapshot: { userId: string; sessions: number }[]; cursor: string };

function secretOf(): string {
  return `whsec_${randomBytes(32).toString("base64")}`;
}

function sorted(texts: Iterable<string>): string {
  return [...texts].sort().join(" ");
}

/** Plays until the last consumer has caught up. */
export async function playWebhooks(options: PlayOptions): Promise<PlayResult> {
  const { seed, rounds, downMs, isPatient, print } = options;
  let upSinceMs = Number.POSITIVE_INFINITY;
  const secrets = { WEBHOOK_SECRET: secretOf(), WEBHOOK_SECRET_GOOD: secretOf() };
  const failing = new Consumer("failing", {
    secret: secrets.WEBHOOK_SECRET,
    upSinceMs: () => upSinceMs,
    deckOf: (room) =>
      new Deck(
        new Random(seed, ROOMS.indexOf(room) + 1_000),
        room.startsWith(LEFT_ROOM) ? ["hang", "hang"] : [],
      ),
  });
  const healthy = new Consumer("healthy", {
    secret: secrets.WEBHOOK_SECRET_GOOD,
    upSinceMs: () => upSinceMs,
  });
  await Promise.all([failing.up(), healthy.up()]);
  const { server, stage } = await startStage({
    startDeadlineMs: START_MS,
    vars: {
      ...secrets,
      WEBHOOKS: JSON.stringify([
        { url: failing.url, rooms: "team-*" },
        { url: healthy.url, rooms: "team-*", secret: "WEBHOOK_SECRET_GOOD" },
        { url: healthy.url, rooms: DARK_ROOM, secret: "WEBHOOK_SECRET_GOOD" },
      ]),
    },
  });
  upSinceMs = Date.now();
  const play = new Play(stage, { failing, healthy }, print);
  const begunAtMs = Date.now();
  try {
    await play.enter(isPatient);
    await play.settle("start");
    if (isPatient) await sleep(Math.max(0, play.darkSinceMs + FIRST_ALARM_MS - Date.now()));

    const outage = { isOver: false, sinceMs: 0 };
    const downRound = Math.ceil(rounds / 3);
    for (let round = 1; round <= rounds; round++) {
      const random = new Random(seed, round);
      if (round === downRound) {
        outage.sinceMs = Date.now();
        await failing.down();
      }
      if (round % LEFT_EVERY === 1) await play.leaveRoom(`${LEFT_ROOM}-${round}`);
      const killAfterMs = random.int(200, 3_000);
      const acting = play.act(random, killAfterMs + random.int(0, 3_000));
      await sleep(killAfterMs);
      upSinceMs = Number.POSITIVE_INFINITY;
      await server.kill();
      if (round === 1) play.darkCrashed();
      const killedAtMs = Date.now();
      await server.start();
      upSinceMs = Date.now();
      const backMs = upSinceMs - killedAtMs;
      const acts = await acting;
      if (outage.sinceMs > 0 && !outage.isOver && Date.now() - outage.sinceMs >= downMs) {
        outage.isOver = true;
        await failing.up();
      }
      const settledMs = await play.settle(`round ${round}`);
      const isDown = outage.sinceMs > 0 && !outage.isOver;
      const lag = ROOMS.map((room) => play.behind(failing, room)).join(" and ");
      const note = `${acts} joins and leaves; SIGKILL after ${killAfterMs} ms; back in ${(backMs / 1_000).toFixed(1)} s, agreed after ${(settledMs / 1_000).toFixed(1)} s`;
      const state = `${isDown ? "down, " : ""}${lag} changes behind`;
      print(`round ${String(round).padEnd(3)} ${note}; failing consumer: ${state}`);
    }
    if (!outage.isOver) {
      await sleep(Math.max(0, outage.sinceMs + downMs - Date.now()));
      await failing.up();
    }
    failing.recover();
    const caughtUpMs = await play.catchUp(2 * downMs + 60_000);
    const darkMs = await play.darkFollows(isPatient);
    await play.checkPeople();
    const lags = healthy.lagsMs.toSorted((a, b) => a - b);
    const longestMs = lags.at(-1) ?? 0;
    if (longestMs > LAG_MOST_MS) play.fault(`a healthy webhook lags by ${longestMs} ms`);
    const bugs = server.logs.split("\n").filter((line) => BUGS.test(line));
    for (const line of bugs) play.fault(`the log has ${line}`);
    const answers = [...failing.answered].map(([answer, n]) => `${answer} ${n}`);
    return {
      violations: play.violations(),
      figures: {
        changes: ROOMS.map((room) => healthy.followerOf(room).offset).join(" + "),
        "empty rooms that nobody woke": play.leftCount,
        "requests to the failing consumer": answers.join(", "),
        "repeats there": failing.repeats,
        "repeats to the healthy one": healthy.repeats,
        "longest and median lag of the healthy one, ms": `${longestMs}, ${lags[lags.length >> 1] ?? 0}`,
        "caught up after, s": Math.round(caughtUpMs / 1_000),
        "leaves of the room that nobody woke after, s": Math.round(darkMs / 1_000),
        "snapshots recovered from": play.recoveries,
        "all, s": Math.round((Date.now() - begunAtMs) / 1_000),
      },
      logs: server.logs,
    };
  } finally {
    play.stop();
    await server.stop();
    await Promise.all([failing.down(), healthy.down()]);
  }
}

/** The people, the readers of the feeds, and what must be true. */
class Play {
  recoveries = 0;
  darkSinceMs = 0;
  readonly #stage: Stage;
  readonly #consumers: { failing: Consumer; healthy: Consumer };
  readonly #print: (line: string) => void;
  readonly #guests: Guest[] = [];
  #dark: Guest[] = [];
  readonly #left: string[] = [];
  #darkCrashedAtMs = 0;
  /** Readers of the feeds, by room: one that keeps its cursor, and one that loses it again and again. */
  readonly #readers = new Map<string, Follower>();
  readonly #forgetful = new Map<string, Follower>();
  readonly #faults: string[] = [];
  #token = "";

  constructor(
    stage: Stage,
    consumers: { failing: Consumer; healthy: Consumer },
    print: (line: string) => void,
  ) {
    this.#stage = stage;
    this.#consumers = consumers;
    this.#print = print;
    for (const room of ROOMS) {
      this.#readers.set(room, new Follower(`the feed of ${room}`));
      this.#forgetful.set(room, new Follower(`the feed of ${room} from snapshots`));
    }
  }

  get leftCount(): number {
    return this.#left.length;
  }

  fault(what: string): void {
    this.#faults.push(what);
    this.#print(`    VIOLATION ${what}`);
  }

  violations(): string[] {
    const { failing, healthy } = this.#consumers;
    const readers = [...this.#readers.values(), ...this.#forgetful.values()];
    return [
      ...this.#faults,
      ...failing.allFaults(),
      ...healthy.allFaults(),
      ...readers.flatMap(({ faults }) => faults),
    ];
  }

  async enter(isPatient: boolean): Promise<void> {
    this.#token = await signUser(this.#stage.jwtSecret, "backend");
    for (const room of [...ROOMS, OTHER_ROOM]) {
      for (const [i, user] of USERS.entries()) {
        this.#guests.push(await ClientGuest.create(this.#stage, room, user));
        if (i % 2 === 0) this.#guests.push(await RawGuest.create(this.#stage, room, user));
      }
      this.#guests.push(await RawGuest.create(this.#stage, room, UNLISTED_USER, "&listed=0"));
    }
    for (const user of DARK_USERS) {
      // A room with a client that cannot probe has an alarm in 45 s.
      const kind = isPatient ? ClientGuest : RawGuest;
      this.#dark.push(await kind.create(this.#stage, DARK_ROOM, user));
    }
    this.darkSinceMs = Date.now();
  }

  /** Joins and leaves for a while, at random. @returns how many */
  async act(random: Random, forMs: number): Promise<number> {
    const times = Array.from({ length: random.int(5, 14) }, () => random.int(0, forMs)).sort(
      (a, b) => a - b,
    );
    let nowMs = 0;
    for (const atMs of times) {
      await sleep(atMs - nowMs);
      nowMs = atMs;
      const guest = random.pick(this.#guests);
      const isClean = random.chance(0.6);
      if (!guest.isHere) guest.join();
      else {
        guest.leave(isClean);
        // A page that is loaded again.
        if (random.chance(0.2)) guest.join();
      }
    }
    return times.length;
  }

  /** Somebody joins a room and leaves it, as the healthy webhook knows. */
  async leaveRoom(room: string): Promise<void> {
    const { healthy } = this.#consumers;
    const guest = await RawGuest.create(this.#stage, room, "gus");
    const until = async (users: number, offset: number) => {
      const follower = healthy.followerOf(room);
      for (const untilMs = Date.now() + SETTLE_MS; ; await sleep(20)) {
        if (follower.users.size === users && follower.offset === offset) return;
        if (Date.now() > untilMs) {
          this.fault(`${room} is at ${follower.cursor} with ${sorted(follower.users)}`);
          return;
        }
      }
    };
    await until(1, 2);
    guest.leave(true);
    await until(0, 4);
    this.#left.push(room);
  }

  /** The members of the dark room died with the server. */
  darkCrashed(): void {
    this.#darkCrashedAtMs = Date.now();
    for (const guest of this.#dark) guest.leave(true);
    this.#dark = [];
  }

  stop(): void {
    for (const guest of [...this.#guests, ...this.#dark]) guest.leave(true);
  }

  #get<T>(path: string): Promise<T> {
    return getJson<T>(this.#stage.direct + path, this.#token);
  }

  #page(room: string, after?: string): Promise<Page> {
    const query = after === undefined ? "" : `?after=${after}`;
    return this.#get(`/api/v1/rooms/${room}/changes${query}`);
  }

  async #usersOf(room: string): Promise<string> {
    const path = `/api/v1/rooms/${room}?users=1`;
    const { users } = await this.#get<{ users: { userId: string }[] }>(path);
    return sorted(users.map(({ userId }) => userId));
  }

  /** The users who are in a room, as far as the play knows. */
  #present(room: string): string {
    const here = this.#guests.filter((guest) => guest.room === room && guest.isHere);
    return sorted(new Set(here.map(({ user }) => user).filter((user) => user !== UNLISTED_USER)));
  }

  /** Reads what follows in the feed. */
  async #read(follower: Follower, room: string, after = follower.cursor): Promise<void> {
    for (let from: string | undefined = after; from !== undefined; ) {
      const page = await this.#page(room, from === ":0" ? undefined : from);
      if ("snapshot" in page) {
        if (follower.epoch !== "" && after === follower.cursor) {
          this.fault(`${room}: a snapshot for ${after}, which is stored`);
        }
        follower.restart(
          page.snapshot.map(({ userId }) => userId),
          page.cursor,
        );
        return;
      }
      for (const change of page.changes) {
        if (!follower.apply(change)) this.fault(`${room}: the feed has ${change.offset} twice`);
      }
      if (page.cursor !== follower.cursor) this.fault(`${room}: the cursor is ${page.cursor}`);
      from = page.more ? page.cursor : undefined;
    }
  }

  /** A cursor that is not known gives a snapshot, which has just those that the changes up to it leave. */
  async #recover(room: string, reader: Follower): Promise<void> {
    const follower = this.#forgetful.get(room) as Follower;
    const unknown = [`000000000000:${reader.offset}`, `${reader.epoch}:999999`, "rubbish"];
    const page = await this.#page(room, unknown[this.recoveries % unknown.length]);
    this.recoveries += 1;
    if (!("snapshot" in page)) {
      this.fault(`${room}: an unknown cursor gives no snapshot`);
      return;
    }
    const userIds = page.snapshot.map(({ userId }) => userId);
    follower.restart(userIds, page.cursor);
    await this.#read(reader, room);
    const expected = sorted(reader.usersAt(follower.offset));
    // The feed began with a snapshot itself, if its room was occupied by then.
    if (reader.changes[0]?.offset === 1 && sorted(userIds) !== expected) {
      this.fault(
        `${room}: at ${page.cursor} the snapshot has ${sorted(userIds)}, the log ${expected}`,
      );
    }
  }

  /** Waits until all clients, rooms and feeds agree. @returns after how long, in ms */
  async settle(what: string): Promise<number> {
    const fromMs = Date.now();
    for (let isFirst = true; ; isFirst = false) {
      let wrong: string[];
      try {
        if (isFirst) {
          for (const [room, reader] of this.#readers) await this.#recover(room, reader);
        }
        wrong = await this.#check();
      } catch (error) {
        wrong = [`the check failed: ${error}`];
      }
      if (wrong.length === 0) return Date.now() - fromMs;
      if (Date.now() - fromMs > SETTLE_MS) {
        for (const line of wrong) this.fault(`${what}: ${line}`);
        return Date.now() - fromMs;
      }
      await sleep(CHECK_EVERY_MS);
    }
  }

  async #check(): Promise<string[]> {
    const wrong: string[] = [];
    for (const { user, room, isHere, isConnected } of this.#guests) {
      if (isHere && !isConnected) wrong.push(`${user} is not connected to ${room}`);
    }
    for (const room of [...ROOMS, OTHER_ROOM]) {
      const [present, listed] = [this.#present(room), await this.#usersOf(room)];
      if (listed !== present) wrong.push(`${room} has ${listed}, not ${present}`);
      for (const followers of [this.#readers, this.#forgetful]) {
        const follower = followers.get(room);
        if (!follower) continue;
        await this.#read(follower, room);
        const users = sorted(follower.users);
        if (users !== present) wrong.push(`the feed of ${room} has ${users}, not ${present}`);
      }
    }
    return wrong;
  }

  /** How many changes a consumer lacks. */
  behind(consumer: Consumer, room: string): number {
    const offset =
      this.#readers.get(room)?.offset ?? this.#consumers.healthy.followerOf(room).offset;
    return offset - consumer.followerOf(room).offset;
  }

  /** Waits until both consumers have all changes. @returns after how long, in ms */
  async catchUp(withinMs: number): Promise<number> {
    const fromMs = Date.now();
    const consumers = Object.values(this.#consumers);
    const rooms = [...ROOMS, ...this.#left];
    const isDue = () =>
      rooms.some((room) => consumers.some((consumer) => this.behind(consumer, room) > 0));
    while (isDue() && Date.now() - fromMs < withinMs) await sleep(CHECK_EVERY_MS);
    for (const room of this.#left) {
      const { cursor } = this.#consumers.failing.followerOf(room);
      if (!cursor.endsWith(":4"))
        this.fault(`${room}, which is empty, is sent up to ${cursor} only`);
    }
    const tookMs = Date.now() - fromMs;
    await this.settle("at the end");
    for (const room of ROOMS) {
      const reader = this.#readers.get(room) as Follower;
      const present = this.#present(room);
      for (const consumer of consumers) {
        const follower = consumer.followerOf(room);
        const users = sorted(follower.users);
        if (users !== present)
          this.fault(`${consumer.name} has ${users} in ${room}, not ${present}`);
        if (follower.cursor !== reader.cursor) {
          this.fault(`${consumer.name} is at ${follower.cursor} of ${room}, not ${reader.cursor}`);
        }
        const byOffset = new Map(follower.changes.map((change) => [change.offset, change]));
        for (const change of reader.changes) {
          const other = byOffset.get(change.offset);
          if (JSON.stringify(other) !== JSON.stringify(change)) {
            this.fault(`${room} ${change.offset}: the feed and ${consumer.name} differ`);
          }
        }
      }
    }
    return tookMs;
  }

  /** The leaves of the dark room come by its alarm. @returns how long after the kill, in ms */
  async darkFollows(isPatient: boolean): Promise<number> {
    const follower = this.#consumers.healthy.followerOf(DARK_ROOM);
    // An alarm that rang shortly before the crash has set the next one for later than the room's first.
    const sinceMs = Math.max(this.darkSinceMs, this.#darkCrashedAtMs);
    const untilMs = sinceMs + (isPatient ? ALARM_MS : 60_000) + SLACK_MS;
    while (follower.changes.at(-1)?.type !== "room.vacated") {
      if (Date.now() > untilMs) {
        this.fault(`the room that nobody woke is at ${follower.cursor}: ${sorted(follower.users)}`);
        return Number.NaN;
      }
      await sleep(CHECK_EVERY_MS);
    }
    const leftAtMs = follower.changes.at(-1)?.at ?? 0;
    return leftAtMs - this.#darkCrashedAtMs;
  }

  /** The directory has each user where they are, and nobody else. */
  async checkPeople(): Promise<void> {
    for (const user of [...USERS, ...DARK_USERS, UNLISTED_USER, "gus"]) {
      const expected = new Map<string, number>();
      for (const guest of this.#guests) {
        if (guest.user !== user || !guest.isHere || user === UNLISTED_USER) continue;
        expected.set(guest.room, (expected.get(guest.room) ?? 0) + 1);
      }
      const wanted = sorted([...expected].map(([room, devices]) => `${room}:${devices}`));
      let given = "";
      for (const untilMs = Date.now() + 10_000; Date.now() < untilMs; await sleep(250)) {
        const where = await this.#get<{
          online: boolean;
          rooms: { room: string; devices: number }[];
        }>(`/api/v1/users/${user}`);
        given = sorted(where.rooms.map(({ room, devices }) => `${room}:${devices}`));
        if (given === wanted && where.online === expected.size > 0) break;
      }
      if (given !== wanted) this.fault(`the directory has ${user} in ${given}, not ${wanted}`);
    }
  }
}
