import { evictDurableObject, runDurableObjectAlarm } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, describe, expect, it, vi } from "vitest";
import type { ActorStub } from "../../src/actor/stub.ts";
import { count, deeds, type Faulty } from "./faulty.ts";
import { connect, freshName } from "./socket.ts";

type FaultyStub = DurableObjectStub<Faulty> & ActorStub;

const HOUR_MS = 3_600_000;

function newFaulty(kind = ""): { stub: FaultyStub; name: string } {
  const name = `${kind}${freshName()}`;
  return { stub: env.FAULTY.getByName(name) as FaultyStub, name };
}

function setTime(atMs: number): void {
  vi.useFakeTimers({ toFake: ["Date"], now: atMs });
}

afterEach(() => {
  vi.useRealTimers();
});

describe("a timer whose handler always throws", () => {
  it("is tried ever more rarely, also over evictions, and given up after a day", async () => {
    const { stub, name } = newFaulty();
    const socket = await connect(stub, "/ws?v=2");
    const start = Date.now();
    await socket.ask("timer.set", { name: "throws", atMs: start + HOUR_MS });
    let at = start + HOUR_MS;
    setTime(at);
    let alarms = 0;
    // The alarm is set again by each failure until the handler is given up.
    while (alarms < 100) {
      await runDurableObjectAlarm(stub);
      alarms += 1;
      await evictDurableObject(stub);
      const { alarm } = await stub.inspect();
      if (alarm === null) break;
      at = Math.max(at, Date.parse(alarm));
      setTime(at);
    }
    expect(count(name, "threw")).toBeGreaterThan(10);
    expect(count(name, "threw")).toBeLessThan(50);
    expect(at - start).toBeGreaterThan(24 * HOUR_MS);
    expect(at - start).toBeLessThan(28 * HOUR_MS);
    expect((await stub.inspect()).alarm).toBeNull();
  });

  it("does not stop another timer that is due at the same time", async () => {
    const { stub, name } = newFaulty();
    const socket = await connect(stub, "/ws?v=2");
    const atMs = Date.now() + HOUR_MS;
    await socket.ask("timer.set", { name: "throws", atMs });
    await socket.ask("timer.set", { name: "works", atMs });
    setTime(atMs);
    await runDurableObjectAlarm(stub);
    expect(deeds.get(name)).toEqual(expect.arrayContaining(["threw", "worked"]));
  });
});

describe("a room whose hook fails", () => {
  it("still answers and sends events when dueAt throws", async () => {
    const { stub } = newFaulty("due-at");
    const socket = await connect(stub, "/ws?v=2");
    await evictDurableObject(stub);
    await socket.ask("say", { text: "hello" });
    expect(await socket.event("said")).toMatchObject({ text: "hello" });
  });

  it("waits longer after each failure of onDue, also over evictions", async () => {
    const { stub, name } = newFaulty("due");
    await connect(stub, "/ws?v=2");
    await runDurableObjectAlarm(stub);
    const tries = count(name, "due");
    expect(tries).toBeGreaterThan(0);
    await evictDurableObject(stub);
    const { alarm } = await stub.inspect();
    expect(Date.parse(alarm ?? "") - Date.now()).toBeGreaterThan(2_000);
  });

  it("runs other timers and sweeps when a handler hangs", async () => {
    const { stub, name } = newFaulty();
    const expiring = await connect(stub, "/ws?v=2&user=dead");
    const socket = await connect(stub, "/ws?v=2&user=ben");
    const atMs = Date.now() + HOUR_MS;
    await socket.ask("timer.set", { name: "hangs", atMs });
    await socket.ask("timer.set", { name: "works", atMs });
    setTime(atMs);
    await runDurableObjectAlarm(stub);
    expect(deeds.get(name)).toEqual(expect.arrayContaining(["hung", "worked"]));
    expect((await expiring.ended()).code).toBe(4408);
  }, 20_000);
});

describe("sockets that close while their actor sleeps", () => {
  it("run onDisconnect with a meta that is in storage, also when another event woke the actor", async () => {
    const { stub, name } = newFaulty();
    const big = await connect(stub, "/ws?v=2&user=big&big=20000");
    const other = await connect(stub, "/ws?v=2&user=other");
    await big.caughtUp();
    await evictDurableObject(stub);
    await Promise.all([other.ask("say", { text: "wake" }), big.close()]);
    await vi.waitFor(() => expect(deeds.get(name)).toContain("left big 20000"));
  });

  it("let the room restore itself a few times, not once for each of them", async () => {
    const { stub, name } = newFaulty();
    const sockets = await Promise.all(
      Array.from({ length: 60 }, (_, i) => connect(stub, `/ws?v=2&user=u${i}`)),
    );
    const watcher = await connect(stub, "/ws?v=2&user=watcher");
    await watcher.caughtUp();
    await evictDurableObject(stub);
    const before = count(name, "restored");
    await Promise.all(sockets.map((socket) => socket.close()));
    await vi.waitFor(() =>
      expect((deeds.get(name) ?? []).filter((deed) => deed.startsWith("left u"))).toHaveLength(60),
    );
    expect(count(name, "restored") - before).toBeLessThan(10);
  });

  it("are noticed when cleanupStaleSessions over RPC is the first event after the sleep", async () => {
    const { stub, name } = newFaulty();
    await connect(stub, "/ws?v=2&user=ann");
    await evictDurableObject(stub);
    await stub.cleanupStaleSessions();
    expect(count(name, "restored")).toBe(2);
  });
});

describe("a question of the server", () => {
  it("is refused inside a transaction, whose commit it would wait for", async () => {
    const { stub } = newFaulty();
    const socket = await connect(stub, "/ws?v=2");
    const { error } = await socket.ask("ask.inside", {});
    expect(error).toMatchObject({ code: "conflict" });
  });
});

describe("a server whose clock is set back", () => {
  it("closes no client that sends as fast as before", async () => {
    const { stub } = newFaulty();
    const socket = await connect(stub, "/ws?v=2");
    const start = Date.now();
    for (let i = 0; i < 900; i++) socket.emit("say", { i });
    await socket.caughtUp();
    setTime(start - 4_000);
    for (let i = 0; i < 50; i++) socket.emit("say", { i });
    await socket.caughtUp();
    expect(socket.closed).toBeNull();
    expect(socket.received.filter(({ event }) => event === "said")).toHaveLength(950);
  });
});

describe("a client that sends more than its room handles", () => {
  it("gets nacks for dropped frames with an id, and hello says what it may send", async () => {
    const stub = env.TIGHT.getByName(freshName());
    const socket = await connect(stub, "/ws?v=2");
    expect(await socket.event("hello")).toMatchObject({
      limits: { frameBytes: 65_536, framesPerSecond: 0.001, framesBurst: 5 },
    });
    const answers = await Promise.all(Array.from({ length: 8 }, () => socket.ask("say", {})));
    const codes = answers.map(({ type, error }) => (type === "ack" ? "ack" : error?.code));
    expect(codes.slice(0, 5)).toEqual(Array(5).fill("ack"));
    expect(codes.slice(5)).toEqual(Array(3).fill("rate_limited"));
  });

  it("has frames dropped, then is closed, when one handler is slow and megabytes wait", async () => {
    const { stub } = newFaulty();
    const socket = await connect(stub, "/ws?v=2");
    socket.emit("slow", {});
    const text = "x".repeat(60_000);
    for (let i = 0; i < 20; i++) socket.emit("say", { text });
    expect((await socket.ended()).code).toBe(4429);
  });
});

describe("ctx.toUser and ctx.toChannel", () => {
  it("keep apart a user and a channel of one name", async () => {
    const { stub } = newFaulty();
    const [ann, ben, room] = await Promise.all([
      connect(stub, "/ws?v=2&user=ann&channels=default,ben"),
      connect(stub, "/ws?v=2&user=ben"),
      connect(stub, "/ws?v=2&user=cat&channels=ben"),
    ]);
    await ann.ask("private", { to: "ben" });
    await ann.ask("public", { to: "ben" });
    await Promise.all([ben.event("secret"), room.event("public")]);
    await Promise.all([ann.caughtUp(), ben.caughtUp(), room.caughtUp()]);
    expect(room.events).not.toContain("secret");
    expect(ben.events).not.toContain("public");
    expect(ann.events).not.toContain("public");
  });
});

describe("a handler of every event", () => {
  it("runs once for a frame that is named like it", async () => {
    const socket = await connect(env.CATCHING.getByName(freshName()), "/ws?v=2");
    await socket.ask("*", {});
    await socket.caughtUp();
    expect(socket.events.filter((event) => event === "caught")).toHaveLength(1);
  });
});
