import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { afterEach, describe, expect, expectTypeOf, inject, it, onTestFinished, vi } from "vitest";
import { presence, type PresenceRoom as Room } from "../../rooms/presence/index.ts";
import type { RosterEntry, RosterSync, Status } from "../../rooms/presence/roster.ts";
import { STATUSES } from "../../rooms/presence/roster.ts";
import type { IngestResult } from "../../src/actor/call.ts";
import type { PresenceRoom } from "../../src/server/worker.ts";
import { PING, PROBE } from "../../src/wire/frames.ts";
import { crew } from "./presence.ts";
import { connect, freshName, type TestSocket, upgrade } from "./socket.ts";
import { signedToken } from "./tokens.ts";

afterEach(() => {
  vi.useRealTimers();
});

type Stub = DurableObjectStub<PresenceRoom>;

function enter(room: string, user: string, version: 1 | 2 = 2): Promise<TestSocket> {
  return connect(null, `/ws/presence?token=user:${user}&room=${room}&v=${version}`);
}

/** Without an order, which has no meaning. */
function sorted(users: Iterable<RosterEntry>): RosterEntry[] {
  return [...users]
    .map(({ userId, username, devices, status }) => ({ userId, username, devices, status }))
    .sort((a, b) => (a.userId < b.userId ? -1 : 1));
}

async function overRpc(stub: Stub): Promise<RosterSync> {
  const result = (await stub.ingest("list", undefined)) as IngestResult;
  if (!result.ok) throw new Error(result.error.message);
  return result.value as RosterSync;
}

async function overSocket(socket: TestSocket): Promise<RosterSync> {
  // An event that came before is not the answer.
  await socket.caughtUp();
  socket.skip();
  socket.emit("presence.list", {});
  return socket.event("presence.sync");
}

function withoutTime(data: { timestamp: number }): object {
  const { timestamp, ...rest } = data;
  expect(Math.abs(timestamp - Date.now())).toBeLessThan(10_000);
  return rest;
}

describe("a user in a presence room", () => {
  it("receives all users on arrival, itself included", async () => {
    const room = freshName();
    const anna = await enter(room, "anna", 1);
    expect(anna.received[0]?.event ?? (await anna.event("presence.sync"))).toBeTruthy();
    await enter(room, "berta");
    const carla = await enter(room, "carla", 1);
    expect(await carla.event("presence.sync")).toEqual({
      type: "presence.sync",
      users: ["anna", "berta", "carla"].map((userId) => ({
        userId,
        username: userId,
        devices: 1,
        status: "online",
      })),
      totalUsers: 3,
      totalConnections: 3,
    });
  });

  it("comes online with its first device, is updated with the next, and goes offline with the last", async () => {
    const room = freshName();
    const watcher = await enter(room, "watcher", 1);
    const first = await enter(room, "anna");
    expect(withoutTime(await watcher.event("presence.online"))).toEqual({
      type: "presence.online",
      userId: "anna",
      username: "anna",
      devices: 1,
      status: "online",
    });
    const second = await enter(room, "anna", 1);
    const update = { type: "presence.update", userId: "anna", username: "anna" };
    expect(withoutTime(await watcher.event("presence.update"))).toEqual({ ...update, devices: 2 });
    await evictDurableObject(env.PRESENCE.getByName(room));
    await first.close();
    expect(withoutTime(await watcher.event("presence.update"))).toEqual({ ...update, devices: 1 });
    await second.close();
    expect(withoutTime(await watcher.event("presence.offline"))).toEqual({
      type: "presence.offline",
      userId: "anna",
      username: "anna",
    });
    expect(second.events).not.toContain("presence.online");
  });

  it("changes its status for everyone, itself included, through sleep and new devices, until its last device leaves", async () => {
    const room = freshName();
    const stub = env.PRESENCE.getByName(room);
    const [watcher, anna] = await Promise.all([enter(room, "watcher", 1), enter(room, "anna")]);
    anna.emit("presence.status", { status: "busy" });
    const change = { type: "presence.status", userId: "anna", username: "anna", status: "busy" };
    expect(withoutTime(await watcher.event("presence.status"))).toEqual(change);
    expect(withoutTime(await anna.event("presence.status"))).toEqual(change);

    await evictDurableObject(stub);
    const phone = await enter(room, "anna");
    const { users } = await phone.event("presence.sync");
    expect(users).toContainEqual({ userId: "anna", username: "anna", devices: 2, status: "busy" });
    await anna.close();
    await phone.close();
    await watcher.event("presence.offline");

    const back = await enter(room, "anna");
    expect((await back.event("presence.sync")).users).toContainEqual(
      expect.objectContaining({ userId: "anna", status: "online" }),
    );
    await runInDurableObject(stub, (_, { storage }) => {
      expect([...storage.kv.list({ prefix: "status:" })]).toEqual([]);
    });
  });

  it.each([[{ status: "asleep" }], [{}], ["away"], [null], [{ status: ["away"] }]])(
    "receives Invalid status for the status %j, and nothing changes",
    async (data) => {
      const room = freshName();
      const anna = await enter(room, "anna", 1);
      anna.emit("presence.status", data);
      expect(await anna.event("error")).toMatchObject({ message: "Invalid status" });
      expect((await overSocket(anna)).users[0]?.status).toBe("online");
      expect(anna.events).not.toContain("presence.status");
    },
  );

  it("has the username of its oldest device, and others receive the next one when that device leaves", async () => {
    const room = freshName();
    const as = async (username: string, version: number) => {
      const token = await signedToken({ userId: "anna", username });
      return connect(null, `/ws/presence?token=${token}&room=${room}&v=${version}`);
    };
    const [watcher, old] = await Promise.all([enter(room, "watcher"), enter(room, "old", 1)]);
    const first = await as("Anna", 2);
    await as("Anna the Second", 2);
    await watcher.until(() => watcher.roster.get("anna")?.devices === 2, "both devices");
    await first.close();
    for (const socket of [watcher, old]) {
      await socket.until(
        () => socket.roster.get("anna")?.username === "Anna the Second",
        "the name",
      );
      expect(sorted(socket.roster.values())).toEqual(sorted((await overSocket(watcher)).users));
    }
  });

  it("receives nothing when the actor wakes up and nothing changed", async () => {
    const room = freshName();
    const [anna, berta] = await Promise.all([enter(room, "anna"), enter(room, "berta", 1)]);
    await anna.until(() => anna.roster.size === 2, "berta");
    await Promise.all([anna.caughtUp(), berta.caughtUp()]);
    const before = [anna.messages.length, berta.messages.length];
    await evictDurableObject(env.PRESENCE.getByName(room));
    await Promise.all([anna.caughtUp(), berta.caughtUp()]);
    expect([anna.messages.length - 1, berta.messages.length - 1]).toEqual(before);
  });

  it("receives presence.sync when a wake-up finds the stored status of an absent user", async () => {
    const room = freshName();
    const stub = env.PRESENCE.getByName(room);
    const anna = await enter(room, "anna");
    await overSocket(anna);
    await runInDurableObject(stub, (_, { storage }) => storage.kv.put("status:ghost", "away"));
    await evictDurableObject(stub);
    anna.send('{"type":"ping" }');
    expect((await anna.event("presence.sync")).totalUsers).toBe(1);
    await runInDurableObject(stub, (_, { storage }) => {
      expect(storage.kv.get("status:ghost")).toBeUndefined();
    });
  });

  it("is gone, with its status, after a crash that closed all sockets", async () => {
    const room = freshName();
    const stub = env.PRESENCE.getByName(room);
    const anna = await enter(room, "anna");
    anna.emit("presence.status", { status: "busy" });
    await anna.event("presence.status");
    await evictDurableObject(stub, { webSockets: "close" });
    expect(await overRpc(stub)).toEqual({ users: [], totalUsers: 0, totalConnections: 0 });
    const back = await enter(room, "anna");
    expect((await back.event("presence.sync")).users[0].status).toBe("online");
  });

  it("leaves no ghost when several of its sockets close while the actor sleeps", async () => {
    const room = freshName();
    const [stayer, ...leavers] = await Promise.all([
      enter(room, "stayer"),
      enter(room, "anna"),
      enter(room, "anna", 1),
      enter(room, "berta"),
      enter(room, "stayer", 1),
    ]);
    await stayer.until(() => stayer.roster.size === 3, "everyone");
    await evictDurableObject(env.PRESENCE.getByName(room));
    await Promise.all(leavers.map((socket) => socket.close()));
    const alone = [{ userId: "stayer", username: "stayer", devices: 1, status: "online" }];
    await stayer.until(() => stayer.roster.size === 1, "them to be gone");
    expect((await overSocket(stayer)).users).toEqual(alone);
    expect(sorted(stayer.roster.values())).toEqual(alone);
  });

  it("knows a user who left and came back while it arrived itself", async () => {
    const room = freshName();
    const stub = env.PRESENCE.getByName(room);
    const [watcher, anna] = await Promise.all([enter(room, "watcher"), enter(room, "anna", 1)]);
    await watcher.until(() => watcher.roster.size === 2, "anna");
    // All within one window, in which nothing is sent yet.
    const leaving = anna.close();
    const arriving = enter(room, "newcomer");
    const returning = enter(room, "anna", 1);
    const [newcomer] = await Promise.all([arriving, returning, leaving]);
    const { users } = await overRpc(stub);
    expect(users).toHaveLength(3);
    for (const socket of [watcher, newcomer]) {
      const knows = () =>
        JSON.stringify(sorted(socket.roster.values())) === JSON.stringify(sorted(users));
      await socket.until(knows, "everyone");
    }
  });

  it("receives many newcomers in few messages", async () => {
    const room = freshName();
    const watcher = await enter(room, "watcher");
    const crowd = await Promise.all(Array.from({ length: 100 }, (_, n) => enter(room, `user${n}`)));
    for (const socket of [watcher, ...crowd]) {
      await socket.until(() => socket.roster.size === 101, "all 101");
    }
    expect(watcher.messages.length).toBeLessThan(60);
  });
});

/** What can happen to a room; `who` picks among those it can happen to. */
type Step =
  | { do: "connect"; user: number; version: 1 | 2 }
  | { do: "close" | "break"; who: number }
  | { do: "status" | "failing status"; who: number; status: Status }
  | { do: "hibernate" | "crash" | "rollback" };

interface Live {
  user: string;
  socket: TestSocket;
}

/** The room beside a model of it: the open sockets, and the statuses that their users chose. */
class Play {
  readonly room = freshName();
  readonly stub: Stub = env.PRESENCE.getByName(this.room);
  live: Live[] = [];
  readonly statuses = new Map<string, Status>();

  async take(step: Step): Promise<void> {
    const { live, stub } = this;
    const chosen = "who" in step ? live[step.who % Math.max(live.length, 1)] : undefined;
    switch (step.do) {
      case "connect": {
        const user = `user${step.user}`;
        live.push({ user, socket: await enter(this.room, user, step.version) });
        return;
      }
      case "close":
        await chosen?.socket.close();
        this.#gone(chosen);
        return;
      case "break":
        if (chosen) await this.#breakSocket(chosen);
        return;
      case "status":
        if (!chosen) return;
        chosen.socket.emit("presence.status", { status: step.status });
        await chosen.socket.event(
          "presence.status",
          ({ userId, status }) => userId === chosen.user && status === step.status,
        );
        this.statuses.set(chosen.user, step.status);
        return;
      case "failing status":
        if (chosen) await this.#failToStore(chosen, step.status);
        return;
      case "rollback":
        await this.#rollBack();
        return;
      case "hibernate":
        await evictDurableObject(stub);
        return;
      case "crash":
        await evictDurableObject(stub, { webSockets: "close" });
        for (const each of [...live]) this.#gone(each);
        return;
    }
  }

  #gone(who: Live | undefined): void {
    if (!who) return;
    this.live = this.live.filter((each) => each !== who);
    if (!this.live.some(({ user }) => user === who.user)) this.statuses.delete(who.user);
  }

  /** Makes the next send to one socket of a user throw, and sends. */
  async #breakSocket({ user }: Live): Promise<void> {
    await runInDurableObject(this.stub, (actor: PresenceRoom) => {
      const room = actor as unknown as { getUserSessions(id: string): WebSocket[] };
      const [ws] = room.getUserSessions(user);
      if (ws) WebSocket.prototype.close.call(ws, 1011, "broken");
      actor.emitToUser(user, "noise");
    });
    // The runtime picked one of them: after a sleep its order is its own.
    const devices = this.live.filter((each) => each.user === user);
    await Promise.any(devices.map(({ socket }) => socket.ended()));
    this.#gone(devices.find(({ socket }) => socket.closed));
  }

  /** A status while every transaction fails at its very end, the room's own ones too. */
  async #failToStore({ user, socket }: Live, status: Status): Promise<void> {
    await runInDurableObject(this.stub, (_, { storage }) => {
      const { transactionSync } = Object.getPrototypeOf(storage) as DurableObjectStorage;
      storage.transactionSync = (body) =>
        transactionSync.call(storage, () => {
          body();
          throw new Error("The disk is full");
        }) as never;
    });
    const before = socket.events.filter((event) => event === "presence.status").length;
    socket.emit("presence.status", { status });
    expect(await socket.event("error"), user).toMatchObject({ code: "internal" });
    expect(socket.events.filter((event) => event === "presence.status")).toHaveLength(before);
    await runInDurableObject(this.stub, (_, { storage }) => {
      expect(Reflect.deleteProperty(storage, "transactionSync")).toBe(true);
      expect(Object.hasOwn(storage, "transactionSync")).toBe(false);
    });
  }

  /** An emit about an absent user, in a transaction that is rolled back. */
  async #rollBack(): Promise<void> {
    await runInDurableObject(this.stub, async (actor: PresenceRoom) => {
      const room = actor as unknown as {
        getStorage(): DurableObjectStorage;
        emitToChannel(channel: string, event: string, data: unknown): void;
      };
      await room.getStorage().transaction(async (txn) => {
        await txn.put("status:nobody", "busy");
        const nobody = { userId: "nobody", username: "nobody", devices: 1, status: "busy" };
        room.emitToChannel("default", "presence.online", nobody);
        txn.rollback();
      });
    });
  }

  get expected(): RosterEntry[] {
    const users = new Map<string, RosterEntry>();
    for (const { user } of this.live) {
      const devices = (users.get(user)?.devices ?? 0) + 1;
      const status = this.statuses.get(user) ?? "online";
      users.set(user, { userId: user, username: user, devices, status });
    }
    return sorted(users.values());
  }

  /** Clients that ask and clients that only receive both know exactly the users that are here. */
  async check(): Promise<void> {
    const { expected, live, stub } = this;
    const syncs = [await overRpc(stub)];
    const [first] = live;
    if (first) syncs.push(await overSocket(first.socket));
    for (const sync of syncs) {
      expect(sorted(sync.users)).toEqual(expected);
      expect(sync.totalUsers).toBe(expected.length);
      expect(sync.totalConnections).toBe(live.length);
    }
    const text = JSON.stringify(expected);
    for (const { socket } of live) {
      const knows = () => JSON.stringify(sorted(socket.roster.values())) === text;
      await socket.until(knows, `the roster ${text}`);
    }
  }
}

const who = fc.nat(9);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant("connect" as const),
      user: fc.nat(2),
      version: fc.constantFrom(1 as const, 2 as const),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("close" as const), who }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("break" as const), who }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constantFrom("status" as const, "failing status" as const),
      who,
      status: fc.constantFrom(...STATUSES),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constantFrom("hibernate" as const, "crash" as const, "rollback" as const),
    }),
  },
);

describe("ghosts", () => {
  it("are never seen, whatever happens to sockets, storage and the actor", {
    timeout: 90_000,
  }, async () => {
    // Each failing status is logged, as it should be.
    const logs = vi.spyOn(console, "log").mockImplementation(() => {});
    onTestFinished(() => logs.mockRestore());
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 6 }), async (steps) => {
        const play = new Play();
        // Only a running actor can be evicted.
        await overRpc(play.stub);
        for (const each of steps) {
          await play.take(each);
          await play.check();
        }
        await Promise.all(play.live.map(({ socket }) => socket.close()));
      }),
      { numRuns: inject("plays"), endOnFailure: true },
    );
  });
});

describe("a dead peer", () => {
  /** A client that pings, and can probe. */
  async function enterAlive(room: string, user: string): Promise<TestSocket> {
    const socket = await connect(null, `/ws/presence?token=user:${user}&room=${room}&v=2&probe=1`);
    socket.send(PING);
    await socket.next(({ frame }) => frame.type === "pong");
    return socket;
  }
  const alarmIn = async (stub: Stub): Promise<number> =>
    Date.parse((await stub.inspect()).alarm ?? "") - Date.now();
  const probed = ({ received }: TestSocket): number =>
    received.filter(({ frame }) => frame.type === "probed").length;

  it("is gone within a minute after a probe by one of the others, and without an alarm", async () => {
    const room = freshName();
    const stub = env.PRESENCE.getByName(room);
    const [dead, anna, berta] = await Promise.all(
      ["dead", "anna", "berta"].map((user) => enterAlive(room, user)),
    );
    if (!dead || !anna || !berta) throw new Error("nobody came");
    const hello = await anna.next(({ frame }) => frame.type === "hello");
    expect(hello.data).toMatchObject({ pingMs: 5_000, lookMs: 35_000 });
    const start = Date.now();
    vi.useFakeTimers({ toFake: ["Date"], now: start + 8_000 });
    await runDurableObjectAlarm(stub);
    expect(await alarmIn(stub)).toBeGreaterThan(5 * 60_000);
    await evictDurableObject(stub);

    vi.setSystemTime(start + 45_000);
    await berta.caughtUp();
    anna.send(PROBE);
    expect((await dead.ended()).code).toBe(4408);
    const { leaves } = await berta.event("presence.diff", (diff) => diff.leaves.length > 0);
    expect(leaves).toEqual([{ userId: "dead", username: "dead" }]);
    await Promise.all([anna.caughtUp(), berta.caughtUp()]);
    expect([probed(anna), probed(berta)]).toEqual([1, 1]);
    // A second probe at the same time is answered; the others get no second answer.
    berta.send(PROBE);
    await Promise.all([anna.caughtUp(), berta.caughtUp()]);
    expect([probed(anna), probed(berta)]).toEqual([1, 2]);
    expect(await alarmIn(stub)).toBeGreaterThan(5 * 60_000);
  });

  it("is found by an alarm while a client is connected that cannot probe", async () => {
    const room = freshName();
    const stub = env.PRESENCE.getByName(room);
    const [dead, other] = [await enterAlive(room, "dead"), await enter(room, "other", 1)];
    const start = Date.now();
    vi.useFakeTimers({ toFake: ["Date"], now: start + 8_000 });
    await runDurableObjectAlarm(stub);
    expect(await alarmIn(stub)).toBeLessThanOrEqual(45_000);
    vi.setSystemTime(start + 53_000);
    await runDurableObjectAlarm(stub);
    expect((await dead.ended()).code).toBe(4408);
    await other.event("presence.offline");
  });

  it("is shown to no newcomer and no caller after all peers died at once", async () => {
    const room = freshName();
    const other = freshName();
    await Promise.all([enterAlive(room, "dead"), enterAlive(other, "dead")]);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 120_000 });
    const newcomer = await enter(room, "newcomer");
    const { users } = await newcomer.event("presence.sync");
    expect(sorted(users).map(({ userId }) => userId)).toEqual(["newcomer"]);
    await evictDurableObject(env.PRESENCE.getByName(other));
    expect((await overRpc(env.PRESENCE.getByName(other))).users).toEqual([]);
  });
});

describe("stored statuses", () => {
  it("of the release before and of a later one are read, and fields of a later one are kept", async () => {
    const room = freshName();
    const stub = env.PRESENCE.getByName(room);
    const [anna] = await Promise.all([
      enter(room, "anna"),
      enter(room, "berta"),
      enter(room, "carla"),
    ]);
    await overSocket(anna);
    const later = { v: 2, status: "busy", note: "until noon" };
    await runInDurableObject(stub, (_, { storage }) => {
      storage.kv.put("status:anna", later);
      storage.kv.put("status:berta", "away");
      storage.kv.put("status:carla", ["no status"]);
    });
    await evictDurableObject(stub);
    const statusOf = async (id: string) =>
      (await overSocket(anna)).users.find(({ userId }) => userId === id)?.status;
    expect(await statusOf("anna")).toBe("busy");
    expect(await statusOf("berta")).toBe("away");
    expect(await statusOf("carla")).toBe("online");

    for (const status of ["away", "online"]) {
      anna.emit("presence.status", { status });
      await anna.event("presence.status", (data) => data.status === status);
      await runInDurableObject(stub, (_, { storage }) => {
        expect(storage.kv.get("status:anna")).toEqual({ ...later, status });
        expect(storage.kv.get("status:carla")).toEqual(["no status"]);
      });
    }
    await anna.close();
    await vi.waitFor(() =>
      runInDurableObject(stub, (_, { storage }) => {
        expect(storage.kv.get("status:anna")).toBeUndefined();
      }),
    );
  });
});

describe("a presence room with options", () => {
  const worker = {
    fetch: (url: string, init: RequestInit = {}) =>
      Promise.resolve(crew.routes().request(url, init, env as Env)),
  };
  const as = (user: string) => ({ "X-User": user });
  const path = (room: string) => `/crew/socket?room=${room}&v=2`;

  it("has its own path, binding, login and statuses, the first of which is the default", async () => {
    const room = freshName();
    const anna = await connect(worker, path(room), as("anna"));
    const entry = { userId: "anna", username: "ANNA", devices: 1, status: "free" };
    expect((await anna.event("presence.sync")).users).toEqual([entry]);
    anna.emit("presence.status", { status: "on call" });
    await anna.event("presence.status");
    anna.emit("presence.status", { status: "online" });
    expect(await anna.event("error")).toMatchObject({ message: "Invalid status" });
    const url = `https://rollcall.test/api/v1/presence?room=${room}`;
    const answer = await worker.fetch(url, { headers: as("berta") });
    expect(((await answer.json()) as RosterSync).users).toMatchObject([
      { ...entry, status: "on call" },
    ]);

    anna.emit("presence.status", { status: "free" });
    await anna.event("presence.status", ({ status }) => status === "free");
    await runInDurableObject(env.CREW.getByName(room), (_, { storage }) => {
      expect([...storage.kv.list({ prefix: "status:" })]).toEqual([]);
    });
  });

  it.each([
    ["returns null", {}],
    ["throws", as("broken")],
  ])("refuses a request, in the Worker and in the actor, when its login %s", async (_, headers) => {
    const room = freshName();
    for (const target of [worker, env.CREW.getByName(room)]) {
      const response = await upgrade(target, path(room), headers);
      expect(response.status).toBe(401);
      expect(await response.json()).toMatchObject({ error: "unauthorized" });
    }
  });

  it("lets its login decide who may be in which room, in the Worker and in the actor", async () => {
    for (const target of [worker, env.CREW.getByName("bridge")]) {
      const response = await upgrade(target, path("bridge"), as("spock"));
      expect(response.status).toBe(403);
      expect(await response.json()).toEqual({ error: "forbidden", details: "Not here" });
      expect((await upgrade(target, path("bridge"), as("kirk"))).status).toBe(101);
    }
  });

  it("refuses with a code of the app's own and its status, over HTTP and on the upgrade", async () => {
    const room = freshName();
    const refusal = { error: "expendable", details: "Stay" };
    const url = `https://rollcall.test/api/v1/presence?room=${room}`;
    const snapshot = await worker.fetch(url, { headers: as("redshirt") });
    expect([snapshot.status, await snapshot.json()]).toEqual([423, refusal]);
    for (const target of [worker, env.CREW.getByName(room)]) {
      const answer = await upgrade(target, path(room), as("redshirt"));
      expect([answer.status, await answer.json()]).toEqual([423, refusal]);
    }
  });

  it("types its statuses, and takes one at least and none twice", () => {
    expectTypeOf(crew).toExtend<Room<Env, "free" | "on call">>();
    expectTypeOf(presence()).toExtend<Room<object, Status>>();
    expect(() => presence({ statuses: ["a", "a"] })).toThrow(RangeError);
    // @ts-expect-error none
    expect(() => presence({ statuses: [] })).toThrow(RangeError);
  });
});
