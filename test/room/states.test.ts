import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { afterEach, describe, expect, inject, it, vi } from "vitest";
import type { PresentSession, RosterEntry } from "../../rooms/presence/roster.ts";
import type { Hello, Untyped } from "../../src/wire/frames.ts";
import { type Board, type Crowd, changes } from "./presence.ts";
import { connect, freshName, type TestSocket } from "./socket.ts";

type Stub = DurableObjectStub<Board | Crowd>;

const ABOUT = encodeURIComponent(JSON.stringify({ colour: "red" }));

/** A client of protocol 3, or of the version given. */
async function enter(stub: Stub, user: string, query = "", version = 3): Promise<TestSocket> {
  const path = stub.name?.startsWith("crowd") ? "/crowd" : "/board";
  return connect(stub as never, `${path}?user=${user}&v=${version}${query}`);
}

function newBoard(): Stub {
  return env.BOARD.getByName(`board-${freshName()}`) as never;
}

function newCrowd(): Stub {
  return env.CROWD.getByName(`crowd-${freshName()}`) as never;
}

async function helloOf(socket: TestSocket): Promise<Hello> {
  return socket.event("hello") as Promise<Hello>;
}

/** The sessions of a user as a client sees them. */
function sessionsOf(socket: TestSocket, user: string): PresentSession[] {
  return socket.roster.get(user)?.sessions ?? [];
}

function stateOf(socket: TestSocket, user: string): Untyped {
  return sessionsOf(socket, user)[0]?.state;
}

function sees(socket: TestSocket, user: string, state: Untyped): Promise<void> {
  const text = JSON.stringify(state);
  const isSeen = () => JSON.stringify(stateOf(socket, user)) === text;
  return socket.until(isSeen, `state ${text} of ${user}`);
}

function present(socket: TestSocket, ...users: string[]): Promise<void> {
  const isThere = () =>
    socket.roster.size === users.length && users.every((user) => socket.roster.has(user));
  return socket.until(isThere, `the users ${users}`);
}

const at = (x: number, y = 0) => ({ cursor: [x, y] });

function move(socket: TestSocket, state: Untyped, more: object = {}): void {
  socket.emit("presence.state", { state, ...more });
}

/** Rows that the actor has stored. */
function rowsOf(stub: Stub): Promise<string[]> {
  return runInDurableObject(stub, (_, { storage }) =>
    [...storage.kv.list()].map(([key]) => key).filter((key) => key !== "rollcall:starts"),
  );
}

async function resume(stub: Stub, old: TestSocket, user: string): Promise<TestSocket> {
  const hello = old.received.find(({ event }) => event === "hello")?.data as Hello;
  const seq = Math.max(hello.seq, ...old.received.map(({ frame }) => frame.seq ?? 0));
  const socket = await enter(stub, user, `&resume=${hello.session}:${hello.epoch}:${seq}`);
  for (const [id, entry] of old.roster) socket.roster.set(id, entry);
  expect(await helloOf(socket)).toMatchObject({ resumed: true });
  return socket;
}

afterEach(() => {
  vi.useRealTimers();
});

describe("the state of a connection", () => {
  it("reaches the others as they are and those who come later, with the user, device and time", async () => {
    const stub = newBoard();
    const ann = await enter(stub, "ann", `&about=${ABOUT}`);
    const ben = await enter(stub, "ben");
    const { session } = await helloOf(ann);
    move(ann, at(1, 2));
    await sees(ben, "ann", at(1, 2));
    const cid = await enter(stub, "cid");
    await sees(cid, "ann", at(1, 2));
    const entry = { userId: "ann", username: "ann", devices: 1, status: "online" };
    const since = expect.any(Number);
    expect(cid.roster.get("ann")).toEqual({
      ...entry,
      user: { colour: "red" },
      sessions: [{ session, device: "desktop", since, state: at(1, 2) }],
    });
    const diff = ben.received.find(({ data }) => data?.states?.length > 0)?.data;
    expect(diff.states).toEqual([{ userId: "ann", session, state: at(1, 2) }]);
    expect([diff.joins, diff.leaves, diff.updates]).toEqual([[], [], []]);
  });

  it("does not exist for clients of protocol 1 and 2, which see what they saw before", async () => {
    const stub = newBoard();
    const old = await enter(stub, "old", "", 1);
    const two = await enter(stub, "two", "", 2);
    const ann = await enter(stub, "ann", `&about=${ABOUT}`);
    await old.event("presence.online", ({ userId }) => userId === "ann");
    await present(two, "old", "two", "ann");
    move(ann, at(1));
    ann.emit("presence.status", { status: "busy" });
    for (const socket of [old, two]) {
      await socket.event("presence.status", ({ status }) => status === "busy");
      expect(JSON.stringify(socket.messages)).not.toMatch(/session"|states|cursor|colour/);
    }
    const entry = { userId: "ann", username: "ann", devices: 1, status: "busy" };
    expect(two.roster.get("ann")).toEqual(entry);
  });

  it("is a state for each device, and goes with it", async () => {
    const stub = newBoard();
    const [desk, phone, ben] = [
      await enter(stub, "ann"),
      await enter(stub, "ann"),
      await enter(stub, "ben"),
    ];
    move(desk, at(1));
    move(phone, at(2));
    const states = () => sessionsOf(ben, "ann").map(({ state }) => state);
    await ben.until(() => JSON.stringify(states()) === JSON.stringify([at(1), at(2)]), "both");
    await phone.close();
    await ben.until(() => JSON.stringify(states()) === JSON.stringify([at(1)]), "one");
    const updates = ben.received.flatMap(({ data }) => data?.updates ?? []);
    expect(updates.at(-1)).toMatchObject({
      userId: "ann",
      devices: 1,
      sessions: [{ state: at(1) }],
    });
  });

  it("is refused when the schema or the size forbids it, and stays as it was", async () => {
    const stub = newBoard();
    const [ann, ben] = [await enter(stub, "ann"), await enter(stub, "ben")];
    move(ann, at(1));
    await sees(ben, "ann", at(1));
    const bad: [Untyped, object?][] = [
      [{ cursor: ["x", 0] }],
      [{ ...at(1), note: "ä".repeat(2_100) }],
      [[1]],
      ["text"],
      [undefined],
      [at(2), { ttlMs: 99 }],
      [at(2), { ttlMs: 600_001 }],
      [at(2), { ttlMs: "1000" }],
    ];
    for (const [state, more] of bad) {
      move(ann, state, more);
      expect(await ann.event("error")).toMatchObject({ code: "invalid_data" });
    }
    expect((await ann.ask("presence.state", { state: { cursor: [1, "x"] } })).error?.path).toBe(
      "state.cursor.1",
    );
    move(ann, { ...at(3), note: "ä".repeat(2_000) });
    await ben.until(() => stateOf(ben, "ann")?.cursor[0] === 3, "the next");
  });

  it("reaches others with its newest value only, and not at all when it is undone or equal", async () => {
    const stub = newBoard();
    const [ann, ben] = [await enter(stub, "ann"), await enter(stub, "ben")];
    await present(ann, "ann", "ben");
    for (let n = 0; n <= 50; n++) move(ann, at(n));
    await sees(ben, "ann", at(50));
    const seen = ben.received.flatMap(({ data }) => data?.states ?? []);
    expect(seen.length).toBeLessThan(10);
    ben.skip();
    move(ann, at(50));
    move(ann, at(51));
    move(ann, at(50));
    ann.emit("presence.status", { status: "online" });
    ann.emit("presence.status", { status: "away" });
    await ben.event("presence.status");
    await ben.caughtUp();
    expect(ben.received.flatMap(({ data }) => data?.states ?? [])).toEqual(seen);
    const statuses = ben.received.filter(({ event }) => event === "presence.status");
    expect(statuses.map(({ data }) => data.status)).toEqual(["away"]);
  });

  it("of a raw client at 60 a second is never refused, and above 120 the newest waits", async () => {
    const stub = newBoard();
    const [ann, ben] = [await enter(stub, "ann"), await enter(stub, "ben")];
    await present(ann, "ann", "ben");
    for (let n = 0; n < 600; n++) move(ann, at(n));
    await sees(ben, "ann", at(599));
    expect(ann.events).not.toContain("error");
    expect(ann.closed).toBeNull();
    // Other frames have their own limit.
    ann.emit("presence.status", { status: "away" });
    await ben.event("presence.status");
    // A machine that stands still takes longer to send them.
    for (let n = 0; n < 100_000 && ann.closed === null; n++) {
      move(ann, at(n));
      if (n % 2_000 === 0) await scheduler.wait(0);
    }
    expect((await ann.ended()).code).toBe(4_429);
  });

  it("ends with its ttl, for those who come later too, without a timer or a row", async () => {
    const stub = newBoard();
    const [ann, ben] = [await enter(stub, "ann"), await enter(stub, "ben")];
    const sentAtMs = Date.now();
    move(ann, at(1), { ttlMs: 1_500 });
    await sees(ben, "ann", at(1));
    const { untilMs = 0 } = sessionsOf(ben, "ann")[0] ?? {};
    expect(untilMs - sentAtMs).toBeGreaterThanOrEqual(1_500);
    expect(untilMs - sentAtMs).toBeLessThan(5_000);
    const early = await enter(stub, "early");
    await early.event("presence.sync");
    await evictDurableObject(stub);
    await scheduler.wait(untilMs - Date.now() + 1);
    const late = await enter(stub, "late");
    await late.event("presence.sync");
    expect(sessionsOf(late, "ann")).toHaveLength(1);
    expect(stateOf(late, "ann")).toBeUndefined();
    expect(JSON.stringify(late.messages)).not.toContain("untilMs");
    expect(await rowsOf(stub)).toEqual([]);
  });

  it("writes no row, and survives hibernation with the connection", async () => {
    const stub = newBoard();
    const [ann, ben] = [await enter(stub, "ann"), await enter(stub, "ben")];
    for (let n = 0; n < 20; n++) move(ann, at(n));
    await sees(ben, "ann", at(19));
    await evictDurableObject(stub);
    const cid = await enter(stub, "cid");
    await sees(cid, "ann", at(19));
    expect(await rowsOf(stub)).toEqual([]);
    move(ann, null);
    await sees(cid, "ann", undefined);
    await evictDurableObject(stub);
    const dan = await enter(stub, "dan");
    await dan.event("presence.sync");
    expect(stateOf(dan, "ann")).toBeUndefined();
    expect(await rowsOf(stub)).toEqual([]);
  });

  it("survives a resume, and who resumes sees the newest states of the others", async () => {
    const stub = newBoard();
    const [ann, ben, cid] = [
      await enter(stub, "ann"),
      await enter(stub, "ben"),
      await enter(stub, "cid"),
    ];
    move(ann, at(1));
    move(cid, at(7));
    await sees(ben, "ann", at(1));
    await sees(ben, "cid", at(7));
    await ann.close(3_000);
    await ben.close(3_000);
    move(cid, null);
    await cid.caughtUp();
    const annAgain = await resume(stub, ann, "ann");
    move(annAgain, at(2));
    const benAgain = await resume(stub, ben, "ben");
    await sees(benAgain, "ann", at(2));
    await sees(benAgain, "cid", undefined);
    await sees(cid, "ann", at(2));
    expect(cid.received.flatMap(({ data }) => data?.leaves ?? [])).toEqual([]);
  });
});

describe("members that fill what is kept with their sockets", () => {
  /** The first of the room: the actor keeps with them what it must know after a sleep. */
  async function fill(stub: Stub, query: string, note: string): Promise<TestSocket[]> {
    const sockets = await Promise.all(
      ["eve", "mal", "sam"].map((user) => enter(stub, user, query)),
    );
    for (const socket of sockets) {
      expect(await socket.ask("presence.state", { state: { ...at(9), note } })).not.toHaveProperty(
        "error",
      );
    }
    return sockets;
  }
  const EXPIRES = `&expires=${Date.now() + 3_600_000}`;
  const WIDE = `a${"你".repeat(1_340)}`;
  const FILLINGS: [string, string, string][] = [
    ["with a large state", "", WIDE],
    ["with a long URL", `${EXPIRES}&pad=${"x".repeat(14_000)}`, ""],
    [
      "with a large state and a URL of 4 096 characters",
      `${EXPIRES}&pad=${"x".repeat(4_000)}`,
      WIDE,
    ],
  ];

  it.each(FILLINGS)("%s, do not spoil a resume of others after a sleep", async (_, query, note) => {
    const stub = newBoard();
    await fill(stub, query, note);
    const [ann, ben] = [await enter(stub, "ann"), await enter(stub, "ben")];
    await present(ben, "eve", "mal", "sam", "ann", "ben");
    expect(stateOf(ben, "eve")).toEqual({ ...at(9), note });
    // More lost sessions than a filled attachment has room for.
    const lost = await Promise.all(
      Array.from({ length: 6 }, (_, n) => enter(stub, `lost-${n}`, `&about=${ABOUT}`)),
    );
    for (const socket of [ann, ...lost]) {
      await helloOf(socket);
      await socket.close(3_000);
    }
    move(ben, at(5));
    await ben.caughtUp();
    await evictDurableObject(stub);
    const again = await resume(stub, ann, "ann");
    await sees(again, "ben", at(5));
    for (const [n, socket] of lost.entries()) await resume(stub, socket, `lost-${n}`);
  });
});

describe("a leave", () => {
  const left = async (socket: TestSocket) => {
    const { leaves } = await socket.event("presence.diff", (data) => data.leaves.length > 0);
    return leaves[0];
  };

  it("names its reason: left, lost or kicked, and expired", async () => {
    const stub = newBoard();
    const watcher = await enter(stub, "watcher");
    const ann = await enter(stub, "ann");
    await present(watcher, "watcher", "ann");
    await ann.close(1_000);
    expect(await left(watcher)).toEqual({ userId: "ann", username: "ann", reason: "left" });
    const ben = await enter(stub, "ben");
    await ben.close(3_000);
    expect(await left(watcher)).toMatchObject({ userId: "ben", reason: "lost" });
    const page = await enter(stub, "page");
    await page.close(1_001);
    expect(await left(watcher)).toMatchObject({ userId: "page", reason: "left" });
    await enter(stub, "cid");
    await runInDurableObject(stub, (actor) => {
      const [session] = (actor as never as { sessionsOf(id: string): Set<Untyped> }).sessionsOf(
        "cid",
      );
      session.close(4_404, "Kicked");
    });
    expect(await left(watcher)).toMatchObject({ userId: "cid", reason: "kicked" });
    await enter(stub, "dan");
    await runInDurableObject(stub, (actor) => {
      const [session] = (actor as never as { sessionsOf(id: string): Set<Untyped> }).sessionsOf(
        "dan",
      );
      session.expire();
    });
    expect(await left(watcher)).toMatchObject({ userId: "dan", reason: "expired" });
  });
});

describe("onChange", () => {
  it("is told once per flush who came, changed and left, with reasons", async () => {
    const stub = newBoard();
    const ann = await enter(stub, "ann", `&about=${ABOUT}`);
    const ben = await enter(stub, "ben");
    await present(ann, "ann", "ben");
    await ben.close();
    await present(ann, "ann");
    const told = changes.get(stub.name ?? "") ?? [];
    expect(told.flatMap(({ joins }) => joins.map(({ userId, user }) => [userId, user]))).toEqual([
      ["ann", { colour: "red" }],
      ["ben", undefined],
    ]);
    expect(told.flatMap(({ leaves }) => leaves)).toEqual([
      { userId: "ben", username: "ben", reason: "left" },
    ]);
  });
});

describe("what the server knows of a user", () => {
  it.each([
    ["breaks the schema", { colour: 1 }],
    ["has more than 1 KiB", { colour: "x".repeat(1_100) }],
  ])("that %s lets nobody in", async (_, about) => {
    const query = `&about=${encodeURIComponent(JSON.stringify(about))}`;
    const socket = await enter(newBoard(), "ann", query);
    expect((await socket.ended()).code).toBe(1_011);
  });

  it("is replaced when the session is resumed, and others are told", async () => {
    const stub = newBoard();
    const [ann, ben] = [await enter(stub, "ann", `&about=${ABOUT}`), await enter(stub, "ben")];
    await present(ann, "ann", "ben");
    await ann.close(3_000);
    const hello = ann.received.find(({ event }) => event === "hello")?.data as Hello;
    const about = encodeURIComponent(JSON.stringify({ colour: "blue" }));
    const query = `&about=${about}&resume=${hello.session}:${hello.epoch}:${hello.seq}`;
    await enter(stub, "ann", query);
    await ben.until(() => ben.roster.get("ann")?.user?.colour === "blue", "the new colour");
  });
});

describe("a client that wants less", () => {
  it("gets the count only with detail=count, at most once a second", async () => {
    const stub = newBoard();
    const counter = await enter(stub, "counter", "&detail=count");
    expect(await counter.event("presence.count")).toMatchObject({
      totalUsers: 1,
      totalConnections: 1,
    });
    for (const user of ["ann", "ben", "cid", "ann"]) move(await enter(stub, user), at(1));
    await counter.event("presence.count", ({ totalConnections }) => totalConnections === 5);
    expect(counter.received.filter(({ event }) => event === "presence.count").length).toBeLessThan(
      4,
    );
    expect(counter.events).not.toContain("presence.sync");
    expect(counter.events).not.toContain("presence.diff");
  });

  it("gets nothing with detail=none, and entries and changes of the users that it watches", async () => {
    const stub = newBoard();
    const ann = await enter(stub, "ann");
    const none = await enter(stub, "none", "&detail=none");
    const watcher = await enter(stub, "watcher", "&detail=none&watch=ann,zoe");
    const sync = await watcher.event("presence.sync");
    expect(sync).toMatchObject({ partial: true, next: null, totalUsers: 3, totalConnections: 3 });
    expect(sync.users.map(({ userId }: RosterEntry) => userId)).toEqual(["ann"]);
    move(ann, at(1));
    await sees(watcher, "ann", at(1));
    ann.emit("presence.status", { status: "busy" });
    await watcher.event("presence.status", ({ status }) => status === "busy");
    const ben = await enter(stub, "ben");
    move(ben, at(5));
    const zoe = await enter(stub, "zoe");
    move(zoe, at(2));
    await sees(watcher, "zoe", at(2));
    await zoe.close();
    await present(watcher, "ann");
    expect(JSON.stringify(watcher.messages)).not.toContain("ben");
    expect(none.events).toEqual(["hello"]);
  });

  it.each(["&detail=much", `&watch=${Array.from({ length: 101 }, (_, n) => n)}`])(
    "is refused with %s",
    async (query) => {
      const socket = await enter(newBoard(), "ann", query);
      expect((await socket.ended()).code).toBe(4_400);
    },
  );
});

describe("a room above its rosterLimit", () => {
  const names = (n: number) =>
    Array.from({ length: n }, (_, i) => `user-${String(i).padStart(3, "0")}`);

  it("sends the count, a first page and the watched users, and diffs of these only", async () => {
    const stub = newCrowd();
    const watched = await enter(stub, "user-003");
    move(watched, { mood: "calm" });
    const first = await enter(stub, "a", "&watch=user-003,user-900");
    await sees(first, "user-003", { mood: "calm" });
    const others = await Promise.all(names(8).map((user) => enter(stub, user)));
    const sync = await first.event("presence.sync", (data) => data.partial === true);
    expect(sync.users[0].userId).toBe("user-003");
    expect(sync.users[0].sessions[0].state).toEqual({ mood: "calm" });
    await first.event("presence.count", ({ totalUsers }) => totalUsers === 9);
    move(watched, { mood: "wild" });
    await sees(first, "user-003", { mood: "wild" });
    first.skip();
    move(others[0] as TestSocket, { mood: "unseen" });
    const late = await enter(stub, "user-900");
    await first.until(() => first.roster.has("user-900"), "the watched one");
    await late.close();
    await first.until(() => !first.roster.has("user-900"), "the leave");
    await first.caughtUp();
    expect(JSON.stringify(first.messages)).not.toContain("unseen");
    const seen = first.received.filter(({ event }) => event === "presence.diff");
    const users = seen.flatMap(({ data }) => [...data.joins, ...data.leaves, ...data.updates]);
    expect(users.map(({ userId }) => userId).filter((id) => id === "user-007")).toEqual([]);
  });

  it("gives all users by pages, in order, without states, except for watched users", async () => {
    const stub = newCrowd();
    const about = encodeURIComponent(JSON.stringify({ text: "x".repeat(900) }));
    for (const user of names(30)) move(await enter(stub, user, `&about=${about}`), { n: user });
    const reader = await enter(stub, "reader", "&watch=user-020");
    const sync = await reader.event("presence.sync");
    expect(reader.messages.join().length).toBeLessThan(8_192);
    expect(sync).toMatchObject({ partial: true, totalUsers: 31, totalConnections: 31 });
    const users: RosterEntry[] = [];
    let { next } = sync;
    expect(typeof next).toBe("string");
    const inSync = sync.users.map(({ userId }: RosterEntry) => userId);
    let page = await reader.ask("presence.page", { limit: 7 });
    for (;;) {
      expect(page.data.users.length).toBeLessThanOrEqual(7);
      users.push(...page.data.users);
      ({ next } = page.data);
      if (next === null) break;
      await scheduler.wait(150);
      page = await reader.ask("presence.page", { after: next, limit: 7 });
    }
    expect(users.map(({ userId }) => userId)).toEqual(["reader", ...names(30)]);
    expect(inSync).toEqual(expect.arrayContaining(["user-020", "reader"]));
    const withState = users.filter(({ sessions }) => sessions?.some(({ state }) => state));
    expect(withState.map(({ userId }) => userId)).toEqual(["user-020"]);
  });

  it("sends everybody the roster again once it has halved, also after a sleep", async () => {
    const stub = newCrowd();
    const sockets = await Promise.all(names(6).map((user) => enter(stub, user)));
    const [first] = sockets as [TestSocket];
    await first.event("presence.sync", (data) => data.partial === true);
    await evictDurableObject(stub);
    for (const socket of sockets.slice(2)) await socket.close();
    await first.event("presence.sync", (data) => data.partial === undefined);
    await present(first, "user-000", "user-001");
    move(sockets[1] as TestSocket, { back: true });
    await sees(first, "user-001", { back: true });
  });

  it("limits how many pages a client gets in a second", async () => {
    const stub = newCrowd();
    const socket = await enter(stub, "a");
    const answers = await Promise.all(
      Array.from({ length: 30 }, () => socket.ask("presence.page", {})),
    );
    expect(
      answers.some(({ type, error }) => type === "nack" && error?.code === "rate_limited"),
    ).toBe(true);
  });
});

type Act =
  | { do: "set"; who: number; value: number; ttlMs?: number }
  | { do: "clear" | "cut" | "resume" | "leave" | "join"; who: number }
  | { do: "sleep" | "wait" };

const who = fc.nat(2);
const acts: fc.Arbitrary<Act[]> = fc.array(
  fc.oneof(
    { weight: 6, arbitrary: fc.record({ do: fc.constant("set" as const), who, value: fc.nat(5) }) },
    {
      weight: 2,
      arbitrary: fc.record({
        ...{ do: fc.constant("set" as const), who, value: fc.nat(5) },
        ttlMs: fc.constantFrom(100, 600_000),
      }),
    },
    {
      weight: 8,
      arbitrary: fc.record({
        do: fc.constantFrom("clear" as const, "cut", "cut", "resume", "resume", "leave", "join"),
        who,
      }),
    },
    { weight: 1, arbitrary: fc.record({ do: fc.constantFrom("sleep" as const, "sleep", "wait") }) },
  ),
  { minLength: 8, maxLength: 30, size: "max" },
);

/** The states that a client is shown now, by session; of its own, it knows best itself. */
function pictureOf({ roster }: TestSocket, own: string): string {
  const shown = [...roster.values()].flatMap(({ userId, sessions = [] }) =>
    sessions
      .filter(({ session }) => session !== own)
      .map(({ session, state, untilMs = Number.POSITIVE_INFINITY }) => {
        const isShown = state !== undefined && untilMs > Date.now();
        return `${userId} ${session} ${isShown ? JSON.stringify(state) : ""}`;
      }),
  );
  return shown.sort().join("\n");
}

/** A user of a play: with a socket, with one that was cut, or away. */
interface Player {
  socket: TestSocket | undefined;
  lost: TestSocket | undefined;
  /** What it said last. */
  said: { text: string; untilMs: number };
}

async function play(script: Act[]): Promise<void> {
  const stub = newBoard();
  const path = (user: number) => `player-${user}`;
  const players: Player[] = Array.from({ length: 3 }, () => ({
    ...{ socket: undefined, lost: undefined },
    said: { text: "", untilMs: Number.POSITIVE_INFINITY },
  }));
  const join = async (player: Player, user: number): Promise<void> => {
    player.socket = await enter(stub, path(user));
    player.lost = undefined;
    player.said = { text: "", untilMs: Number.POSITIVE_INFINITY };
    await player.socket.event("presence.sync");
  };
  for (const user of [0, 1, 2]) await join(players[user] as Player, user);
  for (const act of script) {
    if (act.do === "sleep") {
      // An actor that does not run cannot be evicted.
      await runInDurableObject(stub, () => {});
      await evictDurableObject(stub);
    } else if (act.do === "wait") await scheduler.wait(110);
    else if ("who" in act) {
      const player = players[act.who] as Player;
      const { socket, lost } = player;
      if (act.do === "join" && !socket && !lost) await join(player, act.who);
      else if (act.do === "resume" && lost) {
        player.socket = await resume(stub, lost, path(act.who));
        player.lost = undefined;
      } else if (socket && act.do === "set") {
        const { value, ttlMs } = act;
        move(socket, at(value), ttlMs ? { ttlMs } : {});
        const untilMs = ttlMs ? Date.now() + ttlMs : Number.POSITIVE_INFINITY;
        player.said = { text: JSON.stringify(at(value)), untilMs };
      } else if (socket && act.do === "clear") {
        move(socket, null);
        player.said = { text: "", untilMs: Number.POSITIVE_INFINITY };
      } else if (socket && (act.do === "cut" || act.do === "leave")) {
        await socket.caughtUp();
        await socket.close(act.do === "cut" ? 3_000 : 1_000);
        player.socket = undefined;
        if (act.do === "cut") player.lost = socket;
      }
    }
  }
  const connected = players.flatMap(({ socket }) => socket ?? []);
  if (connected.length === 0) return;
  if (script.some((act) => "ttlMs" in act && act.ttlMs === 100)) await scheduler.wait(110);
  for (const socket of connected) await socket.caughtUp();
  const late = await enter(stub, "late");
  await late.event("presence.sync");
  const differing = () =>
    connected.flatMap((socket) => {
      const own = ownOf(socket);
      late.roster.delete("late");
      socket.roster.delete("late");
      const [seen, truth] = [pictureOf(socket, own), pictureOf(late, own)];
      return seen === truth ? [] : [{ seen, truth }];
    });
  for (let n = 0; n < 40 && differing().length > 0; n++) await scheduler.wait(50);
  expect(differing()).toEqual([]);
  for (const [user, { socket, said }] of players.entries()) {
    if (!socket) continue;
    const text = said.untilMs > Date.now() ? said.text : "";
    expect(`${path(user)} ${JSON.stringify(stateAt(late, path(user))) ?? ""}`).toBe(
      `${path(user)} ${text}`,
    );
  }
}

function ownOf({ received }: TestSocket): string {
  return received.find(({ event }) => event === "hello")?.data.session;
}

function stateAt(socket: TestSocket, user: string): Untyped {
  const [{ state, untilMs = Number.POSITIVE_INFINITY } = {}] = sessionsOf(socket, user);
  return untilMs > Date.now() ? state : undefined;
}

describe("after any states, cuts, resumes and sleeps", () => {
  it("all who are connected see the same picture, and so does who comes later", async () => {
    await fc.assert(fc.asyncProperty(acts, play), {
      numRuns: Math.min(Math.ceil(inject("plays") * 0.2), 150),
      endOnFailure: false,
    });
  }, 600_000);
});
