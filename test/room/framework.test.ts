import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, describe, expect, it, vi } from "vitest";
import type { ActorStub } from "../../src/actor/actor.ts";
import { createActorHandler, restoreSessions } from "../../src/actor/actor.ts";
import { storeAttachment } from "../../src/actor/attachment.ts";
import { type ConnectionMeta, defineRoom, type VeraniActor } from "../../src/actor/room.ts";
import { PresenceRoom } from "../../src/server/worker.ts";
import { FallbackRoom, gates, Lab } from "./rooms.ts";
import { connect, freshName, upgrade } from "./socket.ts";

type LabStub = DurableObjectStub<Lab> & ActorStub;

function newLab(): LabStub {
  return env.LAB.getByName(freshName()) as LabStub;
}

async function read(stub: ActorStub, name: string, data?: unknown): Promise<unknown> {
  const result = await stub.ingest(name, data);
  if (!result.ok) throw new Error(result.error.message);
  return result.value;
}

async function journal(stub: ActorStub): Promise<string[]> {
  return (await read(stub, "journal")) as string[];
}

async function times(stub: ActorStub, entry: string): Promise<number> {
  return (await journal(stub)).filter((line) => line === entry).length;
}

/** When the alarm stands, in ms since the epoch. */
async function alarmOf(stub: ActorStub): Promise<number> {
  return Date.parse((await stub.inspect()).alarm ?? "");
}

afterEach(() => {
  vi.useRealTimers();
});

describe("sessions", () => {
  it("keep what a handler wrote into ctx.meta over hibernation", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    await socket.ask("note", { text: "one" });
    await evictDurableObject(stub);
    await socket.ask("note", { text: "two" });
    await evictDurableObject(stub);
    expect((await socket.ask("notes")).data).toEqual({ notes: ["one", "two"], bigLength: 0 });
    expect((await journal(stub)).filter((line) => line.startsWith("start"))).toEqual([
      "start 0",
      "start 1",
      "start 1",
    ]);
  });

  it("keep a meta too big for the socket in storage, and take it along when they leave", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    await socket.ask("grow", { characters: 20_000 });
    expect(await read(stub, "storedSessions")).toHaveLength(1);
    await evictDurableObject(stub);
    expect((await socket.ask("notes")).data).toEqual({ notes: [], bigLength: 20_000 });

    await socket.ask("grow", { characters: 0 });
    expect(await read(stub, "storedSessions")).toHaveLength(0);

    await socket.ask("grow", { characters: 30_000 });
    await socket.close();
    expect(await read(stub, "storedSessions")).toHaveLength(0);
  });

  it("whose sockets are gone leave nothing in storage", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    await socket.ask("grow", { characters: 20_000 });
    await evictDurableObject(stub, { webSockets: "close" });
    expect(await read(stub, "storedSessions")).toHaveLength(0);
  });

  it("survive a meta that cannot be stored: the client hears of an error, the last good one stays", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    await socket.ask("note", { text: "kept" });
    socket.emit("unstorable");
    expect(await socket.event("error")).toMatchObject({ code: "internal" });
    await evictDurableObject(stub);
    expect((await socket.ask("notes")).data).toMatchObject({ notes: ["kept"] });
  });

  it.each([
    ["a channel that is no string", { channels: ["default", { a: 1 }] }],
    ["more channels than fit", { channels: Array.from({ length: 1001 }, (_, n) => `c${n}`) }],
    ["no channels", { channels: null }],
    ["no user", { userId: "" }],
    ["no time to expire at", { expiresAtMs: "soon" }],
  ])("are not broken by a handler that lets a client set %s", async (_, changes) => {
    const stub = newLab();
    const [socket, other] = await Promise.all([
      connect(stub, "/ws?v=2&user=anna"),
      connect(stub, "/ws?v=2&user=berta"),
    ]);
    await socket.ask("become", { channels: ["default", "news"] });
    socket.emit("become", changes);
    await socket.event("error");
    other.emit("say", { text: "all is well" });
    await socket.event("said");
    await evictDurableObject(stub);
    expect(await stub.emitToChannel("news", "still.here")).toBe(1);
    expect(await stub.emitToUser("anna", "still.anna")).toBe(1);
    await socket.event("still.anna");
  });

  it("follow a changed user id and changed channels, also after hibernation", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2&user=anna");
    await socket.ask("become", { userId: "berta", channels: ["news"] });
    expect(await stub.getConnectedUserIds()).toEqual(["berta"]);
    await evictDurableObject(stub);
    expect(await stub.getConnectedUserIds()).toEqual(["berta"]);
    expect(await stub.emitToUser("anna", "nobody")).toBe(0);
    expect(await stub.emitToUser("berta", "hello.berta")).toBe(1);
    expect(await stub.emitToChannel("news", "extra", { n: 1 })).toBe(1);
    await socket.event("hello.berta");
    expect(await socket.event("extra")).toEqual({ type: "extra", n: 1 });
  });

  it("handle one client's events one after the other", async () => {
    const stub = newLab();
    const [slow, other] = await Promise.all([connect(stub, "/ws?v=2"), connect(stub, "/ws?v=2")]);
    const key = crypto.randomUUID();
    slow.emit("held", { key });
    slow.emit("say", { text: "second" });
    await other.until(() => gates.has(key), "the gate");
    await other.ask("say", { text: "meanwhile" });
    await other.ask("open", { key });
    const order = [await other.event("said"), await other.event("said")];
    expect(order.map(({ text }) => text)).toEqual(["meanwhile", "second"]);
    expect(await times(stub, `held ${key}`)).toBe(1);
  });

  it("are counted and listed over RPC", async () => {
    const stub = newLab();
    await connect(stub, "/ws?user=anna");
    await connect(stub, "/ws?user=anna");
    const third = await connect(stub, "/ws?user=berta");
    expect(await stub.getSessionCount()).toBe(3);
    expect([...(await stub.getConnectedUserIds())].sort()).toEqual(["anna", "berta"]);
    expect(await stub.cleanupStaleSessions()).toBe(0);
    await third.close();
    expect(await stub.getSessionCount()).toBe(2);
    expect(await stub.getConnectedUserIds()).toEqual(["anna"]);
  });

  it("give rooms written for Verani what storeAttachment and restoreSessions promise", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2&client=c1");
    await runInDurableObject(stub, (actor: Lab) => {
      const { sessions } = actor as unknown as { sessions: Map<WebSocket, { meta: object }> };
      for (const [ws, { meta }] of sessions) {
        storeAttachment(ws, { ...(meta as ConnectionMeta), notes: ["by hand"] } as ConnectionMeta);
      }
      restoreSessions(actor as never);
    });
    await evictDurableObject(stub);
    expect((await socket.ask("notes")).data).toMatchObject({ notes: ["by hand"] });
  });
});

describe("the way out", () => {
  it.each([["a client that leaves", async (stub: LabStub) => void stub]])(
    "runs onDisconnect once for %s",
    async () => {
      const stub = newLab();
      const socket = await connect(stub, "/ws?client=c1");
      await socket.close(1000, "bye");
      expect(socket.closed).toMatchObject({ code: 1000 });
      expect(await times(stub, "left c1")).toBe(1);
      await evictDurableObject(stub);
      expect(await times(stub, "left c1")).toBe(1);
    },
  );

  it("runs onDisconnect once for a client that closes while the actor sleeps", async () => {
    const stub = newLab();
    const [leaver, stayer] = await Promise.all([
      connect(stub, "/ws?client=c1"),
      connect(stub, "/ws?client=c2"),
    ]);
    await evictDurableObject(stub);
    await leaver.close();
    await stayer.event("left", ({ clientId }) => clientId === "c1");
    expect(await times(stub, "left c1")).toBe(1);
    expect(await stub.getSessionCount()).toBe(1);
  });

  it("runs onDisconnect once for a socket that can no longer be sent to", async () => {
    const stub = newLab();
    const [broken, other] = await Promise.all([
      connect(stub, "/ws?client=c1&user=broken"),
      connect(stub, "/ws?client=c2"),
    ]);
    await runInDurableObject(stub, (actor: Lab) => {
      const room = actor as unknown as { getUserSessions(id: string): WebSocket[] };
      const [ws] = room.getUserSessions("broken");
      // Behind the framework's back: its next send to this socket throws.
      WebSocket.prototype.close.call(ws, 1011, "gone");
      actor.emitToChannel("default", "noise");
    });
    await other.event("left", ({ clientId }) => clientId === "c1");
    await broken.ended();
    expect(await stub.getSessionCount()).toBe(1);
    await evictDurableObject(stub);
    expect(await stub.getSessionCount()).toBe(1);
    expect(await times(stub, "left c1")).toBe(1);
  });

  it("runs onDisconnect once for a session that its handler closes", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?client=c1");
    socket.emit("leave");
    expect(await socket.ended()).toEqual({ code: 1000, reason: "Bye" });
    expect(await times(stub, "left c1")).toBe(1);
  });

  it("goes on when onDisconnect throws", async () => {
    const stub = newLab();
    const [clumsy, other] = await Promise.all([
      connect(stub, "/ws?client=clumsy"),
      connect(stub, "/ws?client=c2"),
    ]);
    await clumsy.close();
    await other.event("left");
    expect(await journal(stub)).toContain("error onDisconnect failed");
    expect(await stub.getSessionCount()).toBe(1);
  });

  it("closes who fails in onConnect, with a reason that fits a close frame, and without onDisconnect", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?client=unwelcome");
    const { code, reason } = await socket.ended();
    expect(code).toBe(4403);
    expect(reason).toBe("ü".repeat(61));
    expect(await stub.getSessionCount()).toBe(0);
    expect(await times(stub, "left unwelcome")).toBe(0);
  });

  it("closes a socket at the minute its token expires, also from sleep", async () => {
    const stub = newLab();
    const expiresAtMs = Date.now() + 3_600_000;
    const [short, long] = await Promise.all([
      connect(stub, `/ws?v=2&client=c1&expiresAtMs=${expiresAtMs}`),
      connect(stub, "/ws?client=c2"),
    ]);
    await evictDurableObject(stub);
    vi.useFakeTimers({ toFake: ["Date"], now: expiresAtMs });
    await runDurableObjectAlarm(stub);
    expect(await short.event("error")).toMatchObject({ code: "token_expired" });
    expect((await short.ended()).code).toBe(4401);
    await long.event("left", ({ clientId }) => clientId === "c1");
    expect(await times(stub, "left c1")).toBe(1);
  });

  it("is woken in time when a handler shortens what a token has left", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    const expiresAtMs = Date.now() + 5_000;
    await socket.ask("become", { expiresAtMs });
    const { alarm } = await stub.inspect();
    expect(Date.parse(alarm ?? "")).toBe(expiresAtMs);
  });

  it("takes no frame from a socket whose token has expired, alarm or not", async () => {
    const stub = newLab();
    const expiresAtMs = Date.now() + 3_600_000;
    const socket = await connect(stub, `/ws?expiresAtMs=${expiresAtMs}`);
    vi.useFakeTimers({ toFake: ["Date"], now: expiresAtMs });
    socket.emit("note", { text: "late" });
    expect((await socket.ended()).code).toBe(4401);
  });

  it("really is rung by the runtime when a token expires", async () => {
    const stub = newLab();
    const socket = await connect(stub, `/ws?expiresAtMs=${Date.now() + 300}`);
    expect((await socket.ended()).code).toBe(4401);
  });

  it("keeps a token that expires beyond the runtime's calendar", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2&expiresAtMs=9999999999000");
    expect(await stub.getSessionCount()).toBe(1);
    await runDurableObjectAlarm(stub);
    await runDurableObjectAlarm(stub);
    expect((await socket.ask("notes")).type).toBe("ack");
    const { alarm } = await stub.inspect();
    expect(alarm === null || Date.parse(alarm) > Date.now() + 1000).toBe(true);
  });
});

describe("a silent peer", () => {
  it("that used to ping is closed with 4408 within a minute, by an alarm; others stay", async () => {
    const stub = newLab();
    const [dead, alive, neverPings] = await Promise.all([
      connect(stub, "/ws?v=2&client=dead"),
      connect(stub, "/ws?v=2&client=alive"),
      connect(stub, "/ws?client=quiet"),
    ]);
    for (const socket of [dead, alive]) {
      socket.send('{"type":"ping"}');
      await socket.next(({ frame }) => frame.type === "pong");
    }
    const firstLookAt = await alarmOf(stub);
    vi.useFakeTimers({ toFake: ["Date"], now: firstLookAt });
    await runDurableObjectAlarm(stub);
    expect(await stub.getSessionCount()).toBe(3);
    const alarmAt = await alarmOf(stub);
    expect(alarmAt - firstLookAt).toBeLessThanOrEqual(45_000);
    expect(alarmAt - firstLookAt).toBeGreaterThan(15_000);
    await evictDurableObject(stub);

    vi.setSystemTime(alarmAt);
    // A frame shows life as well as a ping does.
    await alive.ask("note", { text: "here" });
    await runDurableObjectAlarm(stub);
    expect((await dead.ended()).code).toBe(4408);
    await alive.event("left", ({ clientId }) => clientId === "dead");
    expect(await times(stub, "left dead")).toBe(1);
    expect((await alive.ask("notes")).type).toBe("ack");
    neverPings.emit("say", { text: "still here" });
    await neverPings.event("said");
  });

  it("that went before its upgrade was answered is missed within 10 s; who showed itself is not", async () => {
    const stub = newLab();
    const [gone, talker, plain] = await Promise.all([
      connect(stub, "/ws?v=2&client=gone"),
      connect(stub, "/ws?v=2&client=talker"),
      connect(stub, "/ws?client=plain"),
    ]);
    await talker.ask("note", { text: "no ping, but a frame" });
    const joinedAt = Date.now();
    const firstLookAt = await alarmOf(stub);
    expect(firstLookAt - joinedAt).toBeLessThan(8_000);
    // However many come at once: one look, one row.
    const alarmsSet = await runInDurableObject(
      stub,
      (actor: Lab) => (actor as unknown as Pick<VeraniActor, "timers">).timers.stats.alarmsSet,
    );
    expect(alarmsSet).toBe(1);
    await evictDurableObject(stub);
    vi.useFakeTimers({ toFake: ["Date"], now: firstLookAt });
    await runDurableObjectAlarm(stub);
    expect((await gone.ended()).code).toBe(4408);
    await plain.event("left", ({ clientId }) => clientId === "gone");
    expect(await stub.getSessionCount()).toBe(2);
    // One look for all who came meanwhile: the next is a sweep, for the talker, who never pinged …
    expect((await alarmOf(stub)) - firstLookAt).toBe(45_000);
    vi.setSystemTime(firstLookAt + 45_000);
    await runDurableObjectAlarm(stub);
    expect((await talker.ended()).code).toBe(4408);
    // … and which a plain client of protocol 1 need not fear.
    expect((await stub.inspect()).alarm).toBeNull();
    expect(await stub.getSessionCount()).toBe(1);
  });

  it("has its full time from its last frame, also over a sleep right after it", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    const start = Date.now();
    vi.useFakeTimers({ toFake: ["Date"], now: start });
    await socket.ask("note", { text: "first" });
    vi.setSystemTime(start + 900);
    await socket.ask("note", { text: "last" });
    await evictDurableObject(stub);

    vi.setSystemTime(start + 900 + 14_900);
    await runDurableObjectAlarm(stub);
    expect(await stub.getSessionCount()).toBe(1);
    vi.setSystemTime(start + 900 + 16_000);
    await runDurableObjectAlarm(stub);
    expect((await socket.ended()).code).toBe(4408);
  });

  it("of protocol 1 gets three quarters of a minute", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?client=c1");
    socket.send('{"type":"ping"}');
    await socket.next(({ frame }) => frame.type === "pong");
    const start = Date.now();
    vi.useFakeTimers({ toFake: ["Date"], now: start + 44_000 });
    await runDurableObjectAlarm(stub);
    expect(await stub.getSessionCount()).toBe(1);
    vi.setSystemTime(start + 46_000);
    await runDurableObjectAlarm(stub);
    expect((await socket.ended()).code).toBe(4408);
  });

  it("does not wake the actor by pinging, nor is it woken once everyone has left", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    const before = await stub.inspect();
    for (let n = 0; n < 20; n++) {
      socket.send('{"type":"ping"}');
      await socket.next(({ frame }) => frame.type === "pong");
    }
    const after = await stub.inspect();
    expect(after.instance).toBe(before.instance);
    expect(after.wakeUps).toEqual(before.wakeUps);

    await evictDurableObject(stub);
    socket.send('{"type":"ping"}');
    await socket.next(({ frame }) => frame.type === "pong");
    const slept = await stub.inspect();
    expect(slept.starts).toBe((after.starts ?? 0) + 1);
    expect(slept.wakeUps).toEqual({ fetch: 0, message: 0, close: 0, alarm: 0, rpc: 0 });

    await socket.close();
    await runDurableObjectAlarm(stub);
    expect(await runDurableObjectAlarm(stub)).toBe(false);
  });
});

describe("timers", () => {
  it("of many names share one alarm, run in their time, and survive hibernation", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    const start = Date.now();
    await socket.ask("timer.set", { name: "bell", atMs: start + 3_000_000 });
    await socket.ask("timer.set", { name: "ring", atMs: start + 1_000_000 });
    await socket.ask("timer.set", { name: "chime", atMs: start + 1_000_500 });
    await socket.ask("timer.set", { name: "flaky", atMs: start + 9_000_000 });
    await socket.ask("timer.clear", { name: "flaky" });
    await evictDurableObject(stub, { webSockets: "close" });

    expect(await read(stub, "deadline", "flaky")).toBeNull();
    vi.useFakeTimers({ toFake: ["Date"], now: start + 1_000_600 });
    await runDurableObjectAlarm(stub);
    const rang = async () => (await journal(stub)).filter((line) => line.startsWith("rang"));
    expect(await rang()).toEqual(["rang ring", "rang chime"]);
    expect((await stub.inspect()).alarm).toBe(new Date(start + 3_000_000).toISOString());

    vi.setSystemTime(start + 3_000_001);
    await evictDurableObject(stub);
    await runDurableObjectAlarm(stub);
    expect(await rang()).toEqual(["rang ring", "rang chime", "rang bell"]);
    expect(await runDurableObjectAlarm(stub)).toBe(false);
  });

  it("are rung by the runtime, and reach the clients", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    await socket.ask("timer.set", { name: "ring", atMs: Date.now() + 50 });
    expect(await socket.event("rang")).toMatchObject({ name: "ring" });
  });

  it("are tried again when their handler throws", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    const start = Date.now();
    await socket.ask("timer.set", { name: "flaky", atMs: start + 1_000_000 });
    for (const atMs of [1_000_000, 1_010_000, 1_020_000]) {
      vi.useFakeTimers({ toFake: ["Date"], now: start + atMs });
      await runDurableObjectAlarm(stub);
      await evictDurableObject(stub);
    }
    expect(await journal(stub)).toContain("rang flaky after 3");
    expect(await read(stub, "deadline", "flaky")).toBeNull();
  });
});

describe("a transaction", () => {
  async function pair() {
    const stub = newLab();
    const [actor, other] = await Promise.all([
      connect(stub, "/ws?v=2&user=a"),
      connect(stub, "/ws?v=2&user=b"),
    ]);
    await Promise.all([actor.event("welcome"), other.event("welcome")]);
    const heard = async () => {
      await other.caughtUp();
      return other.events.filter((event) => event !== "hello" && event !== "welcome");
    };
    return { stub, actor, other, heard };
  }

  it.each(["commit", "sync"])(
    "lets what was emitted inside out after it commits (%s)",
    async (end) => {
      const { actor, heard } = await pair();
      expect((await actor.ask("transact", { end })).data).toBe(end === "sync" ? 1 : 4);
      expect(await heard()).toEqual(
        end === "sync" ? ["inside", "after"] : ["inside", "inside.others", "after"],
      );
      expect(actor.events.includes("inside.own")).toBe(end === "commit");
    },
  );

  it.each(["throw", "sync-throw"])("that throws emits and stores nothing (%s)", async (end) => {
    const { actor, heard, stub } = await pair();
    expect((await actor.ask("transact", { end })).error).toMatchObject({ code: "conflict" });
    expect(await heard()).toEqual([]);
    expect(actor.events).not.toContain("inside.own");
    expect(await read(stub, "deadline", "ring")).toBeNull();
  });

  it("that rolls itself back emits and stores nothing, and forgets its timers", async () => {
    const { actor, heard, stub } = await pair();
    expect((await actor.ask("transact", { end: "rollback" })).data).toBeNull();
    expect(await heard()).toEqual(["after"]);
    expect(actor.events).not.toContain("inside.own");
    expect(await read(stub, "deadline", "ring")).toBeNull();
    // The alarm still comes for what is set later.
    await actor.ask("timer.set", { name: "chime", atMs: Date.now() + 20 });
    expect(await actor.event("rang")).toMatchObject({ name: "chime" });
  });

  it("that commits sets its timers", async () => {
    const { actor, stub } = await pair();
    await actor.ask("transact", { end: "commit" });
    expect(await read(stub, "deadline", "ring")).toBeTypeOf("number");
  });

  it("inside another waits for the outer one, and vanishes alone", async () => {
    const { actor, heard } = await pair();
    await actor.ask("transact", { end: "nested" });
    expect(await heard()).toEqual(["outer", "inner kept", "outer end", "after"]);
  });

  it("that committed inside another goes down with the outer one", async () => {
    const { actor, heard } = await pair();
    await actor.ask("transact", { end: "nested-lost" });
    expect(await heard()).toEqual(["after"]);
  });

  it("does not hold what another handler emits meanwhile", async () => {
    const { actor, heard } = await pair();
    await actor.ask("transact.aside");
    expect(await heard()).toEqual(["meanwhile", "inside"]);
  });
});

describe("upgrades and addresses", () => {
  it("refuse what is no upgrade, or on another path, with JSON", async () => {
    const stub = newLab();
    const noUpgrade = await stub.fetch("https://rollcall.test/ws");
    expect(noUpgrade.status).toBe(426);
    expect(await noUpgrade.json()).toMatchObject({ error: "upgrade_required" });
    const elsewhere = await upgrade(stub, "/elsewhere");
    expect(elsewhere.status).toBe(404);
    expect(await elsewhere.json()).toMatchObject({ error: "not_found" });
  });

  it("refuse whom extractMeta throws out: 401 without a word about why, or the coded error", async () => {
    const stub = newLab();
    const plain = await upgrade(stub, "/ws?refuse=plain");
    expect(plain.status).toBe(401);
    expect(await plain.text()).not.toContain("secret of the house");
    const coded = await upgrade(stub, "/ws?refuse=coded");
    expect(coded.status).toBe(403);
    expect(await coded.json()).toEqual({ error: "forbidden", details: "Not you" });
    expect(await stub.getSessionCount()).toBe(0);
  });

  it("refuse a meta without a proper user id, client id or channels", async () => {
    const stub = newLab();
    for (const query of [
      "user=",
      `user=${"u".repeat(257)}`,
      "client=",
      `client=${"c".repeat(257)}`,
    ]) {
      expect((await upgrade(stub, `/ws?${query}`)).status, query.slice(0, 20)).toBe(400);
    }
  });

  it("find an actor by its class's name, or by the room's in PascalCase", async () => {
    const name = freshName();
    const socket = await connect(Lab.get(name) as never, "/ws?v=2&user=anna");
    expect(await (env.LAB.getByName(name) as LabStub).getConnectedUserIds()).toEqual(["anna"]);
    expect(await PresenceRoom.get(freshName()).getSessionCount()).toBe(0);
    expect(await FallbackRoom.get("").getSessionCount()).toBe(0);
    expect((await socket.ask("notes")).type).toBe("ack");
    const nowhere = createActorHandler(defineRoom({ name: "not bound" }));
    expect(() => nowhere.get("x")).toThrow("exported as NotBound");
  });

  it("are limited per user and per room", async () => {
    const stub = env.TIGHT.getByName(freshName());
    const first = await connect(stub, "/ws?userId=a");
    await connect(stub, "/ws?userId=a");
    const third = await upgrade(stub, "/ws?userId=a");
    expect(third.status).toBe(429);
    expect(await third.json()).toMatchObject({ error: "too_many_sockets" });
    await connect(stub, "/ws?userId=b");
    expect((await upgrade(stub, "/ws?userId=c")).status).toBe(429);
    await first.close();
    await connect(stub, "/ws?userId=c");
  });
});

describe("calls over RPC", () => {
  it("run an ingest handler with checked data", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws");
    expect(await stub.ingest("publish", { text: "hi" })).toEqual({ ok: true, value: 1 });
    expect(await socket.event("said")).toEqual({ type: "said", text: "hi", from: "server" });
    await evictDurableObject(stub);
    expect(await stub.ingest("publish", { text: "again" })).toEqual({ ok: true, value: 1 });
    expect(await socket.event("said")).toMatchObject({ text: "again" });
  });

  it("answer refusals and failures with a code, and no secret", async () => {
    const stub = newLab();
    const codeOf = async (name: string, data?: unknown) => {
      const result = await stub.ingest(name, data);
      return result.ok ? result : result.error;
    };
    expect(await codeOf("publish", { text: "much too long" })).toMatchObject({
      code: "invalid_data",
      path: "text",
    });
    expect(await codeOf("nothing")).toMatchObject({ code: "unknown_event" });
    expect(await codeOf("refused")).toEqual({
      code: "unprocessable",
      message: "Not now",
      path: "when",
    });
    expect(await codeOf("broken")).toEqual({ code: "internal", message: "Internal error" });
  });

  it("broadcast and sendToUser as Verani did, with their options", async () => {
    const stub = newLab();
    const [a, b] = await Promise.all([connect(stub, "/ws?user=a"), connect(stub, "/ws?user=b")]);
    expect(await stub.broadcast("default", { type: "news", n: 1 })).toBe(2);
    expect(await stub.broadcast("default", { type: "news", n: 2 }, { userIds: ["b"] })).toBe(1);
    expect(await read(stub, "broadcast", { data: { type: "news", n: 3 }, exceptUser: "b" })).toBe(
      1,
    );
    expect(await stub.sendToUser("b", "default", { type: "news", n: 4 })).toBe(1);
    expect(await stub.sendToUser("b", "elsewhere", { type: "news", n: 5 })).toBe(0);
    await Promise.all([a.caughtUp(), b.caughtUp()]);
    const numbers = (socket: typeof a) =>
      socket.received.filter(({ event }) => event === "news").map(({ data }) => data.n);
    expect(numbers(a)).toEqual([1, 3]);
    expect(numbers(b)).toEqual([1, 2, 4]);
  });

  it("do not mistake a closing socket for a live one", async () => {
    const stub = newLab();
    await connect(stub, "/ws?client=c1");
    const stale = await runInDurableObject(stub, (actor: Lab) => {
      const { sessions } = actor as unknown as { sessions: Map<WebSocket, unknown> };
      for (const ws of sessions.keys()) WebSocket.prototype.close.call(ws, 1011, "gone");
      return actor.cleanupStaleSessions();
    });
    expect(stale).toBe(1);
    expect(await stub.getSessionCount()).toBe(0);
    expect(await times(stub, "left c1")).toBe(1);
  });
});
