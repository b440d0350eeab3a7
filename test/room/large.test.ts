import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { env, exports } from "cloudflare:workers";
import { describe, expect, it, vi } from "vitest";
import { presence } from "../../rooms/presence/index.ts";
import { shardsOfRoom } from "../../rooms/presence/large.ts";
import { shardName, shardOf } from "../../src/shards/layout.ts";
import type { Untyped } from "../../src/wire/frames.ts";
import { connect, freshName, type TestSocket, upgrade } from "./socket.ts";

/** `LARGE_ROOMS` gives rooms with this beginning 4 shards (vitest.config.ts). */
const SHARDS = 4;
const freshRoom = () => `large-${freshName()}`;
const stubOf = (room: string, index: number) => env.PRESENCE.getByName(shardName(room, index));
const totalOf = (room: string) => env.PRESENCE.getByName(`${room}|total`);

/** A user of the shard with this number. */
function userOf(index: number, n = 0): string {
  let found = -1;
  for (let i = 0; ; i++) {
    if (shardOf(`u${i}`, SHARDS) === index) found += 1;
    if (found === n) return `u${i}`;
  }
}

function enter(room: string, user: string, query = ""): Promise<TestSocket> {
  return connect(null, `/ws/presence?token=user:${user}&room=${room}&v=3${query}`);
}

const worker = exports.default as { fetch(url: string, init: RequestInit): Promise<Response> };
async function ask(path: string, method = "GET", body?: unknown) {
  const response = await worker.fetch(`https://rollcall.test${path}`, {
    method,
    headers: { Authorization: "Bearer user:backend", "Content-Type": "application/json" },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  return { status: response.status, body: (await response.json()) as Untyped };
}

/** The newest count that a client has received. */
function countOf(socket: TestSocket): number | undefined {
  const counts = socket.received.filter(({ event }) =>
    ["presence.count", "presence.sync"].includes(event),
  );
  return counts.at(-1)?.data.totalUsers;
}

/** Waits until all have this count. */
async function counts(sockets: readonly TestSocket[], expected: number): Promise<void> {
  for (const socket of sockets) {
    await socket.until(() => countOf(socket) === expected, `the count ${expected}`);
  }
}

const wakeUpsOf = (room: string) =>
  Promise.all(
    [0, 1, 2, 3]
      .map((index) => stubOf(room, index))
      .concat(totalOf(room))
      .map(async (stub) => {
        const { fetch, message, close, alarm, rpc } = (await stub.inspect()).wakeUps;
        return fetch + message + close + alarm + rpc;
      }),
  );

describe("a presence room with shards", () => {
  it("counts its users exactly at every client, as they come, sleep, leave and crash", async () => {
    const room = freshRoom();
    const users = [0, 1, 2, 3].flatMap((index) => [
      userOf(index, 0),
      userOf(index, 1),
      userOf(index, 2),
    ]);
    const sockets = await Promise.all(users.map((user) => enter(room, user)));
    await counts(sockets, 12);
    for (const index of [0, 1, 2, 3]) await evictDurableObject(stubOf(room, index));
    await evictDurableObject(totalOf(room));
    await sockets[0]?.close(1_000);
    await counts(sockets.slice(1), 11);
    // A shard dies with its sockets; one of its users comes back.
    await evictDurableObject(stubOf(room, 3), { webSockets: "close" });
    const back = await enter(room, userOf(3));
    await counts([...sockets.slice(1, 9), back], 9);
  });

  it("sends a joining client the count and at most 8 KiB, however many there are, and pages of all users in order", async () => {
    const room = freshRoom();
    const users = Array.from({ length: 60 }, (_, i) => `p${`${i}`.padStart(2, "0")}`);
    const sockets = await Promise.all(users.map((user) => enter(room, user)));
    await counts(sockets, 60);
    const newcomer = await enter(room, "newcomer");
    const sync = await newcomer.event("presence.sync");
    expect(sync).toMatchObject({ users: [], partial: true, next: "", totalUsers: 61 });
    expect(newcomer.messages.join("").length).toBeLessThan(8_192);
    const seen: string[] = [];
    let after: string | null = "";
    while (after !== null) {
      const { data } = (await newcomer.ask("presence.page", { after, limit: 50 })) as Untyped;
      expect(data.users.length).toBeLessThanOrEqual(50);
      seen.push(...data.users.map(({ userId }: Untyped) => userId));
      after = data.next;
    }
    expect(seen).toEqual(["newcomer", ...users].sort());
  });

  it("shows a watched user of another shard: at once, its status and state, and when it leaves, also after both have slept", async () => {
    const room = freshRoom();
    const friend = await enter(room, userOf(1));
    const viewer = await enter(room, userOf(2), `&watch=${userOf(1)}&watch=${userOf(3)}`);
    const sync = await viewer.event("presence.sync");
    expect(sync.users).toMatchObject([{ userId: userOf(1), devices: 1, status: "online" }]);
    friend.emit("presence.status", { status: "busy" });
    expect(await viewer.event("presence.status")).toMatchObject({
      userId: userOf(1),
      status: "busy",
    });
    friend.emit("presence.state", { state: { at: 7 } });
    const { states } = await viewer.event("presence.diff", ({ states }) => states?.length > 0);
    expect(states).toMatchObject([{ userId: userOf(1), state: { at: 7 } }]);
    for (const index of [1, 2]) await evictDurableObject(stubOf(room, index));
    const other = await enter(room, userOf(3));
    await viewer.event("presence.diff", ({ joins }) => joins[0]?.userId === userOf(3));
    await friend.close(1_000);
    const { leaves } = await viewer.event("presence.diff", (diff) => diff.leaves.length > 0);
    expect(leaves).toMatchObject([{ userId: userOf(1) }]);
    await other.close();
  });

  it("shows nothing of users that a client does not watch", async () => {
    const room = freshRoom();
    const viewer = await enter(room, userOf(2), `&watch=${userOf(1)}`);
    await enter(room, userOf(1));
    await viewer.event("presence.diff", ({ joins }) => joins[0]?.userId === userOf(1));
    const stranger = await enter(room, userOf(1, 1));
    stranger.emit("presence.state", { state: { secret: 1 } });
    await counts([viewer], 3);
    expect(viewer.messages.join("")).not.toContain(userOf(1, 1));
    await stranger.close();
  });

  it("asks a shard for the users that many newcomers watch in few calls, each of which is a row there", async () => {
    const room = freshRoom();
    const friends = Array.from({ length: 20 }, (_, n) => userOf(1, n));
    const viewers = await Promise.all(
      friends.map((friend, n) => enter(room, userOf(2, n), `&watch=${friend}`)),
    );
    for (const viewer of viewers) await viewer.event("presence.sync");
    const { rpc } = (await stubOf(room, 1).inspect()).wakeUps;
    expect(rpc).toBeLessThan(10);
    await enter(room, friends[7] as string);
    await viewers[7]?.event("presence.diff", ({ joins }) => joins[0]?.userId === friends[7]);
  });

  it("forgets what clients watched that are gone, once there is too much of it", async () => {
    const room = freshRoom();
    const users = Array.from({ length: 30_000 }, (_, i) => `gone${i}`).filter(
      (user) => shardOf(user, SHARDS) === 1,
    );
    const fill = { shard: 2, add: users.slice(0, 7_000), drop: [] };
    for (let n = 0; n < 2; n++) await stubOf(room, 1).ingest("watched", fill);
    const more = Array.from({ length: 13_000 }, (_, i) => `more${i}`);
    const full = await stubOf(room, 1).ingest("watched", { shard: 2, add: more, drop: [] });
    expect(full).toMatchObject({ ok: true });
    await enter(room, userOf(1));
    const viewer = await enter(room, userOf(2), `&watch=${userOf(1)}`);
    expect((await viewer.event("presence.sync")).users).toMatchObject([{ userId: userOf(1) }]);
    const row = await runInDurableObject(stubOf(room, 1), (_, { storage }) =>
      storage.kv.get<Untyped>("watched:2"),
    );
    expect(row.userIds).toEqual([userOf(1)]);
  });

  it("shows a watched user as gone whose shard died and came back", async () => {
    const room = freshRoom();
    const friend = userOf(1);
    await enter(room, friend);
    const viewer = await enter(room, userOf(2), `&watch=${friend}`);
    expect((await viewer.event("presence.sync")).users).toHaveLength(1);
    await evictDurableObject(stubOf(room, 1), { webSockets: "close" });
    await enter(room, userOf(1, 1));
    const { leaves } = await viewer.event("presence.diff", (diff) => diff.leaves.length > 0);
    expect(leaves).toMatchObject([{ userId: friend }]);
    await enter(room, friend);
    await viewer.event("presence.diff", ({ joins }) => joins[0]?.userId === friend);
  });

  it("delivers a publish over HTTP to all, with a field `type` of its data, and answers how many", async () => {
    const room = freshRoom();
    const sockets = await Promise.all([0, 1, 2, 3].map((index) => enter(room, userOf(index))));
    await counts(sockets, 4);
    const { body } = await ask(`/api/v1/rooms/${room}/events`, "POST", {
      event: "n",
      data: { n: 1, type: "its own" },
    });
    expect(body).toMatchObject({ recipients: 4, cursor: expect.any(String) });
    const sent = { n: 1, type: "its own", publisher: "backend" };
    for (const socket of sockets) expect(await socket.event("n")).toMatchObject(sent);
    const except = sockets[3]?.hello?.session;
    await ask(`/api/v1/rooms/${room}/events`, "POST", { event: "n", data: { n: 2 }, except });
    await ask(`/api/v1/rooms/${room}/events`, "POST", { event: "n", data: { n: 3 } });
    expect(await sockets[0]?.event("n")).toMatchObject({ n: 2 });
    expect(await sockets[3]?.event("n")).toMatchObject({ n: 3 });
  });

  it("is one room over HTTP: its totals, users, snapshot, kicks, and where a user is", async () => {
    const room = freshRoom();
    const users = [0, 1, 2, 3].map((index) => userOf(index, 5)).sort();
    const sockets = await Promise.all(users.map((user) => enter(room, user)));
    await counts(sockets, 4);
    const info = await ask(`/api/v1/rooms/${room}?users=1`);
    expect(info.body).toMatchObject({ totalUsers: 4, totalConnections: 4, next: null });
    expect(info.body.users.map(({ userId }: Untyped) => userId)).toEqual(users);
    const list = await ask(`/api/v1/presence?room=${room}`);
    expect(list.body.users.map(({ userId }: Untyped) => userId).sort()).toEqual(users);
    const [user = "", kicked = ""] = users;
    await vi.waitFor(async () => {
      expect((await ask(`/api/v1/users/${user}`)).body).toMatchObject({
        online: true,
        rooms: expect.arrayContaining([expect.objectContaining({ room, devices: 1 })]),
      });
    }, 8_000);
    expect((await ask(`/api/v1/rooms/${room}/users/${kicked}`, "DELETE")).body).toEqual({
      sessions: 1,
    });
    expect(await sockets[1]?.ended()).toMatchObject({ code: 4404 });
    await ask(`/api/v1/users/${user}/disconnect`, "POST");
    expect(await sockets[0]?.ended()).toMatchObject({ code: 4401 });
    expect((await ask(`/api/v1/rooms/${room}/changes`)).status).toBe(404);
  });

  it("refuses clients of protocol 1 and 2", async () => {
    const room = freshRoom();
    const old = await upgrade(null, `/ws/presence?token=user:ann&room=${room}&v=2`);
    const ws = old.webSocket;
    ws?.accept();
    const closed = new Promise<CloseEvent>((resolve) => ws?.addEventListener("close", resolve));
    expect((await closed).code).toBe(1013);
  });

  it("wakes no actor while nothing happens", async () => {
    const room = freshRoom();
    const sockets = await Promise.all(
      [0, 1, 2, 3].map((index) => enter(room, userOf(index), `&watch=${userOf(0)}`)),
    );
    await counts(sockets, 4);
    // What was under way has arrived, and the total has stored what it knows.
    await vi.waitFor(async () => {
      const stored = await runInDurableObject(totalOf(room), (_, { storage }) =>
        storage.kv.get<unknown[]>("rollcall:reports"),
      );
      expect(stored?.length).toBe(SHARDS);
    }, 8_000);
    const before = await wakeUpsOf(room);
    await scheduler.wait(1_500);
    expect(await wakeUpsOf(room)).toEqual(before);
    const rows = await runInDurableObject(
      stubOf(room, 1),
      (_, { storage }) => [...storage.kv.list({ prefix: "watched:" })].length,
    );
    expect(rows).toBe(0);
  });
});

describe("LARGE_ROOMS", () => {
  const shards = (room: string, LARGE_ROOMS: string) => shardsOfRoom(room, { LARGE_ROOMS });

  it("names rooms and beginnings of names with their number of shards; the first that fits counts", () => {
    const rooms = "stadium:16, live-*:8, a:b:2, *:1";
    expect(["stadium", "live-7", "live", "a:b"].map((room) => shards(room, rooms))).toEqual([
      16, 8, 1, 2,
    ]);
    expect(shards("any", "")).toBe(1);
  });

  it.each(["stadium", "stadium:0", "stadium:257", "st*dium:4", "stadium:4;x:2", ":4"])(
    "that is %j opens no room",
    (rooms) => {
      const logs = vi.spyOn(console, "log").mockImplementation(() => {});
      expect(() => shards("any", rooms)).toThrow("Not configured");
      logs.mockRestore();
    },
  );

  it.each([
    ["LARGE_ROOMS", presence(), { LARGE_ROOMS: "team-*:4" }],
    ["the option shards", presence({ shards: 4 }), {}],
  ])(
    "and a webhook for the same room open it to nobody, since changes have one order: by %s",
    async (_, room, vars) => {
      const logs = vi.spyOn(console, "log").mockImplementation(() => {});
      const both = { ...env, ...vars, WEBHOOKS: JSON.stringify([{ rooms: "team-a*" }]) };
      const headers = { Authorization: "Bearer user:ann" };
      const answer = await room.routes().request("/api/v1/rooms/team-abc", { headers }, both);
      expect(answer.status).toBe(503);
      const { shards } = room;
      expect(typeof shards === "function" && shards("team-b", both)).toBe(4);
      logs.mockRestore();
    },
  );
});
