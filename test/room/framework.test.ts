import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, describe, expect, it, vi } from "vitest";
import { createActorHandler, restoreSessions } from "../../src/actor/actor.ts";
import { storeAttachment } from "../../src/actor/attachment.ts";
import { type ConnectionMeta, defineRoom, type VeraniActor } from "../../src/actor/room.ts";
import type { ActorStub } from "../../src/actor/stub.ts";
import { PresenceRoom } from "../../src/server/worker.ts";
import { journal, type LabStub, newLab, read, times } from "./lab.ts";
import { FallbackRoom, gates, Lab } from "./rooms.ts";
import { connect, freshName, type TestSocket, upgrade } from "./socket.ts";

/** When the alarm stands, in ms since the epoch. */
async function alarmOf(stub: ActorStub): Promise<number> {
  return Date.parse((await stub.inspect()).alarm ?? "");
}

afterEach(() => {
  vi.useRealTimers();
});

describe("sessions", () => {
  it("keep what a handler wrote into ctx.meta when the actor hibernates", async () => {
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

  it("keep a meta too big for the socket in storage and delete it there when they end", async () => {
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

  it("leave nothing in storage when their sockets were lost while the actor slept", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    await socket.ask("grow", { characters: 20_000 });
    await evictDurableObject(stub, { webSockets: "close" });
    // The close may still be on its way, so it takes an hour.
    expect(await read(stub, "storedSessions")).toHaveLength(1);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 3_600_001 });
    await evictDurableObject(stub);
    expect(await read(stub, "storedSessions")).toHaveLength(0);
  });

  it("send an error and keep the last good meta when a handler writes one that cannot be stored", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    await socket.ask("note", { text: "kept" });
    socket.emit("unstorable");
    expect(await socket.event("error")).toMatchObject({ code: "internal" });
    await evictDurableObject(stub);
    expect((await socket.ask("notes")).data).toMatchObject({ notes: ["kept"] });
  });

  it.each([
    ["a channel that is not a string", { channels: ["default", { a: 1 }] }],
    ["more than 1000 channels", { channels: Array.from({ length: 1001 }, (_, n) => `c${n}`) }],
    ["null for the channels", { channels: null }],
    ["an empty user id", { userId: "" }],
    ["an expiry that is not a time", { expiresAtMs: "soon" }],
  ])("keep their last good meta and stay usable when a handler sets %s", async (_, changes) => {
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

  it("are found under the user id and the channels that a handler gave them, also after hibernation", async () => {
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

  it("handle the events of one client one after the other while other clients go on", async () => {
    const stub = newLab();
    const [slow, other] = await Promise.all([connect(stub, "/ws?v=2"), connect(stub, "/ws?v=2")]);
    const key = crypto.randomUUID();
    slow.emit("wait", { key });
    slow.emit("say", { text: "second" });
    await other.until(() => gates.has(key), "the gate");
    await other.ask("say", { text: "meanwhile" });
    await other.ask("open", { key });
    const order = [await other.event("said"), await other.event("said")];
    expect(order.map(({ text }) => text)).toEqual(["meanwhile", "second"]);
    expect(await times(stub, `waited ${key}`)).toBe(1);
  });

  it("are counted, and their users listed, over RPC", async () => {
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

  it("keep the meta that a Verani room stores with storeAttachment and restoreSessions", async () => {
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

describe("channels", () => {
  const news = (socket: TestSocket) =>
    socket.received.filter(({ event }) => event === "news").map(({ data }) => data.n);

  it("deliver an emit to exactly their members after handlers changed them, also out of sleep", async () => {
    const stub = newLab();
    const [stays, joins, leaves, both] = await Promise.all([
      connect(stub, "/ws?v=2&channels=default,news"),
      connect(stub, "/ws?v=2&channels=default"),
      connect(stub, "/ws?v=2&channels=news"),
      connect(stub, "/ws?v=2&channels=news,sport"),
    ]);
    expect(await stub.emitToChannel("news", "news", { n: 1 })).toBe(3);
    await joins.ask("become", { channels: ["news", "default"] });
    await leaves.ask("become", { channels: [] });
    await both.ask("become", { channels: ["sport", "news", "news"] });
    expect(await stub.emitToChannel("news", "news", { n: 2 })).toBe(3);
    expect(await stub.emitToChannel("sport", "news", { n: 3 })).toBe(1);
    await evictDurableObject(stub, { webSockets: "hibernate" });

    expect(await stub.emitToChannel("news", "news", { n: 4 })).toBe(3);
    expect(await stub.emitToChannel("default", "news", { n: 5 })).toBe(2);
    await leaves.ask("become", { channels: ["sport"] });
    await both.close();
    expect(await stub.emitToChannel("sport", "news", { n: 6 })).toBe(1);
    expect(await stub.emitToChannel("news", "news", { n: 7 })).toBe(2);
    expect(await stub.emitToChannel("nowhere", "news", { n: 8 })).toBe(0);

    await Promise.all([stays, joins, leaves].map((socket) => socket.caughtUp()));
    expect(news(stays)).toEqual([1, 2, 4, 5, 7]);
    expect(news(joins)).toEqual([2, 4, 5, 7]);
    expect(news(leaves)).toEqual([1, 6]);
    expect(news(both)).toEqual([1, 2, 3, 4]);
  });

  it("that a handler has just changed count for what it emits itself", async () => {
    const stub = newLab();
    const [mover, other] = await Promise.all([
      connect(stub, "/ws?v=2&channels=default"),
      connect(stub, "/ws?v=2&channels=news"),
    ]);
    await mover.ask("move", { channels: ["news"], to: "news" });
    expect(await mover.event("moved")).toBeDefined();
    await other.event("moved.others");
    expect((await mover.ask("move", { channels: ["a"], to: "news" })).data).toEqual([1, 0]);
    expect((await mover.ask("move", { channels: ["news"], to: "news" })).data).toEqual([2, 1]);
    await Promise.all([mover.caughtUp(), other.caughtUp()]);
    const counts = (socket: TestSocket) =>
      ["moved", "moved.others"].map((name) => socket.events.filter((one) => one === name).length);
    expect(counts(mover)).toEqual([2, 0]);
    expect(counts(other)).toEqual([3, 2]);
  });
});

describe("the attachment of a socket", () => {
  /** Rewrites the attachment of a client's socket and lets the actor sleep. */
  async function rewrite(
    stub: LabStub,
    clientId: string,
    change: (attachment: Record<string, unknown>) => unknown,
  ): Promise<void> {
    await runInDurableObject(stub, (_, state) => {
      for (const ws of state.getWebSockets()) {
        const attachment = ws.deserializeAttachment();
        if (attachment.meta.clientId === clientId) ws.serializeAttachment(change(attachment));
      }
    });
    await evictDurableObject(stub);
  }
  async function attachmentOf(stub: LabStub): Promise<Record<string, unknown>> {
    return runInDurableObject(stub, (_, state) =>
      state.getWebSockets()[0]?.deserializeAttachment(),
    );
  }

  it("written by the previous release is read, and what only that release knows is kept", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2&client=c1");
    await rewrite(stub, "c1", ({ id, meta }) => ({
      rollcall: 1,
      id,
      protocol: 2,
      seenAtMs: Date.now(),
      looks: true,
      meta,
    }));
    await socket.ask("note", { text: "new release" });
    expect(await attachmentOf(stub)).toMatchObject({
      rollcall: 1,
      looks: true,
      meta: { notes: ["new release"] },
    });
  });

  it("written by a next release is read, and its version and unknown fields survive a rewrite", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2&client=c1");
    const unknown = { cursor: { epoch: "e", seq: 7 } };
    await rewrite(stub, "c1", (attachment) => ({ ...attachment, rollcall: 2, ...unknown }));
    await socket.ask("note", { text: "old release" });
    expect(await attachmentOf(stub)).toMatchObject({
      rollcall: 2,
      ...unknown,
      meta: { notes: ["old release"] },
    });
    await evictDurableObject(stub);
    expect((await socket.ask("notes")).data).toMatchObject({ notes: ["old release"] });
  });

  it.each<[string, (attachment: Record<string, unknown>) => unknown]>([
    ["is null", () => null],
    ["is a text", () => "rubbish"],
    ["is an object of the room's own", () => ({ userId: "anna" })],
    ["has a version that is no number", (attachment) => ({ ...attachment, rollcall: "x" })],
    ["has a protocol of a next release", (attachment) => ({ ...attachment, protocol: 3 })],
    ["has a time that is NaN", (attachment) => ({ ...attachment, seenAtMs: Number.NaN })],
    ["has an invalid meta", (attachment) => ({ ...attachment, meta: { userId: 5 } })],
    ["has lost its meta in storage", ({ meta: _, ...attachment }) => attachment],
  ])("that %s closes its socket with 1011 and no other", async (_, change) => {
    const stub = newLab();
    const [broken, other] = await Promise.all([
      connect(stub, "/ws?v=2&client=c1"),
      connect(stub, "/ws?v=2&client=c2"),
    ]);
    await rewrite(stub, "c1", change);
    expect(await stub.getSessionCount()).toBe(1);
    expect((await broken.ended()).code).toBe(1011);
    expect((await other.ask("notes")).type).toBe("ack");
  });
});

describe("the end of a session", () => {
  it("runs onDisconnect once when the client closes the socket", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?client=c1");
    await socket.close(1000, "bye");
    expect(socket.closed).toMatchObject({ code: 1000 });
    expect(await times(stub, "left c1")).toBe(1);
    await evictDurableObject(stub);
    expect(await times(stub, "left c1")).toBe(1);
  });

  it("runs onDisconnect once when the client closes the socket while the actor sleeps", async () => {
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

  it("runs onDisconnect once when a send to the socket fails", async () => {
    const stub = newLab();
    const [broken, other] = await Promise.all([
      connect(stub, "/ws?client=c1&user=broken"),
      connect(stub, "/ws?client=c2"),
    ]);
    await runInDurableObject(stub, (actor: Lab) => {
      const room = actor as unknown as { getUserSessions(id: string): WebSocket[] };
      const [ws] = room.getUserSessions("broken");
      // Without the framework's knowledge: its next send to this socket throws.
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

  it("runs onDisconnect once when a handler closes the session", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?client=c1");
    socket.emit("leave");
    expect(await socket.ended()).toEqual({ code: 1000, reason: "Bye" });
    expect(await times(stub, "left c1")).toBe(1);
  });

  it("is complete, and the room goes on, when onDisconnect throws", async () => {
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

  it("closes the socket with a reason cut to a close frame, without onDisconnect, when onConnect throws", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?client=unwelcome");
    const { code, reason } = await socket.ended();
    expect(code).toBe(4403);
    expect(reason).toBe("ü".repeat(61));
    expect(await stub.getSessionCount()).toBe(0);
    expect(await times(stub, "left unwelcome")).toBe(0);
  });

  it("comes with 4401 when the token expires, also while the actor sleeps", async () => {
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

  it("moves to an earlier alarm when a handler shortens the expiry of a token", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    const expiresAtMs = Date.now() + 5_000;
    await socket.ask("become", { expiresAtMs });
    const { alarm } = await stub.inspect();
    expect(Date.parse(alarm ?? "")).toBe(expiresAtMs);
  });

  it("comes with the first frame after the token has expired if the alarm is late", async () => {
    const stub = newLab();
    const expiresAtMs = Date.now() + 3_600_000;
    const socket = await connect(stub, `/ws?expiresAtMs=${expiresAtMs}`);
    vi.useFakeTimers({ toFake: ["Date"], now: expiresAtMs });
    socket.emit("note", { text: "late" });
    expect((await socket.ended()).code).toBe(4401);
  });

  it("comes by the alarm of the runtime itself when a token expires", async () => {
    const stub = newLab();
    const socket = await connect(stub, `/ws?expiresAtMs=${Date.now() + 300}`);
    expect((await socket.ended()).code).toBe(4401);
  });

  it("does not come for a token that expires later than the runtime can set an alarm", async () => {
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
  it("that used to ping is closed with 4408 by an alarm within a minute, and other peers stay", async () => {
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
    const firstSweepAt = await alarmOf(stub);
    vi.useFakeTimers({ toFake: ["Date"], now: firstSweepAt });
    await runDurableObjectAlarm(stub);
    expect(await stub.getSessionCount()).toBe(3);
    const alarmAt = await alarmOf(stub);
    expect(alarmAt - firstSweepAt).toBeLessThanOrEqual(45_000);
    expect(alarmAt - firstSweepAt).toBeGreaterThan(15_000);
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

  it("that left before its upgrade was answered is closed within 10 s; one that sent a frame is not", async () => {
    const stub = newLab();
    const [gone, talker, plain] = await Promise.all([
      connect(stub, "/ws?v=2&client=gone"),
      connect(stub, "/ws?v=2&client=talker"),
      connect(stub, "/ws?client=plain"),
    ]);
    await talker.ask("note", { text: "no ping, but a frame" });
    const joinedAt = Date.now();
    const firstSweepAt = await alarmOf(stub);
    expect(firstSweepAt - joinedAt).toBeLessThan(8_000);
    // However many connect at once: one sweep, one row.
    const alarmsSet = await runInDurableObject(
      stub,
      (actor: Lab) => (actor as unknown as Pick<VeraniActor, "timers">).timers.stats.alarmsSet,
    );
    expect(alarmsSet).toBe(1);
    await evictDurableObject(stub);
    vi.useFakeTimers({ toFake: ["Date"], now: firstSweepAt });
    await runDurableObjectAlarm(stub);
    expect((await gone.ended()).code).toBe(4408);
    await plain.event("left", ({ clientId }) => clientId === "gone");
    expect(await stub.getSessionCount()).toBe(2);
    // One sweep for all that connected meanwhile; the next is for the talker, which never pinged …
    expect((await alarmOf(stub)) - firstSweepAt).toBe(45_000);
    vi.setSystemTime(firstSweepAt + 45_000);
    await runDurableObjectAlarm(stub);
    expect((await talker.ended()).code).toBe(4408);
    // … and which spares a client of protocol 1 that never pings.
    expect((await stub.inspect()).alarm).toBeNull();
    expect(await stub.getSessionCount()).toBe(1);
  });

  it("is closed no sooner than 15 s after its last frame, also if the actor slept right after it", async () => {
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

  it("of protocol 1 is closed 45 s after its last ping", async () => {
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

  it("is found without pings that wake the actor, and without an alarm once everyone has left", async () => {
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
    "delivers the events emitted inside it after it commits (%s)",
    async (end) => {
      const { actor, heard } = await pair();
      expect((await actor.ask("transact", { end })).data).toBe(end === "sync" ? 1 : 4);
      expect(await heard()).toEqual(
        end === "sync" ? ["inside", "after"] : ["inside", "inside.others", "after"],
      );
      expect(actor.events.includes("inside.own")).toBe(end === "commit");
    },
  );

  it.each(["throw", "sync-throw"])("that throws delivers and stores nothing (%s)", async (end) => {
    const { actor, heard, stub } = await pair();
    expect((await actor.ask("transact", { end })).error).toMatchObject({ code: "conflict" });
    expect(await heard()).toEqual([]);
    expect(actor.events).not.toContain("inside.own");
    expect(await read(stub, "deadline", "ring")).toBeNull();
  });

  it("that rolls itself back delivers and stores nothing, and sets no timer", async () => {
    const { actor, heard, stub } = await pair();
    expect((await actor.ask("transact", { end: "rollback" })).data).toBeNull();
    expect(await heard()).toEqual(["after"]);
    expect(actor.events).not.toContain("inside.own");
    expect(await read(stub, "deadline", "ring")).toBeNull();
    // The alarm still comes for what is set later.
    await actor.ask("timer.set", { name: "chime", atMs: Date.now() + 20 });
    expect(await actor.event("rang")).toMatchObject({ name: "chime" });
  });

  it("that commits sets the timers set inside it", async () => {
    const { actor, stub } = await pair();
    await actor.ask("transact", { end: "commit" });
    expect(await read(stub, "deadline", "ring")).toBeTypeOf("number");
  });

  it("inside another delivers after the outer one commits, and nothing if it alone rolls back", async () => {
    const { actor, heard } = await pair();
    await actor.ask("transact", { end: "nested" });
    expect(await heard()).toEqual(["outer", "inner kept", "outer end", "after"]);
  });

  it("that committed inside another delivers nothing when the outer one rolls back", async () => {
    const { actor, heard } = await pair();
    await actor.ask("transact", { end: "nested-lost" });
    expect(await heard()).toEqual(["after"]);
  });

  it("does not delay the events that another handler emits meanwhile", async () => {
    const { actor, heard } = await pair();
    await actor.ask("transact.aside");
    expect(await heard()).toEqual(["meanwhile", "inside"]);
  });
});

describe("an actor", () => {
  it("answers a request that is no upgrade, or on another path, with 426 or 404 as JSON", async () => {
    const stub = newLab();
    const noUpgrade = await stub.fetch("https://rollcall.test/ws");
    expect(noUpgrade.status).toBe(426);
    expect(await noUpgrade.json()).toMatchObject({ error: "upgrade_required" });
    const elsewhere = await upgrade(stub, "/elsewhere");
    expect(elsewhere.status).toBe(404);
    expect(await elsewhere.json()).toMatchObject({ error: "not_found" });
  });

  it("refuses an upgrade whose extractMeta throws: 401 without the reason, or the coded error", async () => {
    const stub = newLab();
    const plain = await upgrade(stub, "/ws?refuse=plain");
    expect(plain.status).toBe(401);
    expect(await plain.text()).not.toContain("secret of the house");
    const coded = await upgrade(stub, "/ws?refuse=coded");
    expect(coded.status).toBe(403);
    expect(await coded.json()).toEqual({ error: "forbidden", details: "Not you" });
    expect(await stub.getSessionCount()).toBe(0);
  });

  it("refuses an upgrade with 400 when the user id or client id is empty or too long", async () => {
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

  it("is found by the name of its class, or by the room's name in PascalCase", async () => {
    const name = freshName();
    const socket = await connect(Lab.get(name) as never, "/ws?v=2&user=anna");
    expect(await (env.LAB.getByName(name) as LabStub).getConnectedUserIds()).toEqual(["anna"]);
    expect(await PresenceRoom.get(freshName()).getSessionCount()).toBe(0);
    expect(await FallbackRoom.get("").getSessionCount()).toBe(0);
    expect((await socket.ask("notes")).type).toBe("ack");
    const nowhere = createActorHandler(defineRoom({ name: "not bound" }));
    expect(() => nowhere.get("x")).toThrow("exported as NotBound");
  });

  it("refuses an upgrade with 429 when the user, or the room, has too many sockets", async () => {
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
  it("run the handler of the call with checked data, also out of sleep", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws");
    expect(await stub.ingest("publish", { text: "hi" })).toEqual({ ok: true, value: 1 });
    expect(await socket.event("said")).toEqual({ type: "said", text: "hi", from: "server" });
    await evictDurableObject(stub);
    expect(await stub.ingest("publish", { text: "again" })).toEqual({ ok: true, value: 1 });
    expect(await socket.event("said")).toMatchObject({ text: "again" });
  });

  it("return refusals with their code, and failures as internal without details", async () => {
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

  it("broadcast and send to a user as Verani did, with its options", async () => {
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

  it("end the session of a closing socket when stale sessions are cleaned up", async () => {
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
