import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { Subscriber } from "./fanout-client.ts";
import { connect, freshName, type TestSocket } from "./socket.ts";
import { signedToken } from "./tokens.ts";

const inS = (seconds: number) => Math.floor(Date.now() / 1_000) + seconds;

async function enter(room: string, user: string, exp: number, query = ""): Promise<TestSocket> {
  const token = await signedToken({ userId: user, exp });
  const socket = await connect(null, `/ws/presence?v=3&room=${room}&token=${token}${query}`);
  await socket.event("presence.sync");
  return socket;
}

const refresh = async (socket: TestSocket, claims: object, secret?: string) => {
  const token = await signedToken({ userId: "ann", ...claims }, secret ? { secret } : {});
  return socket.ask("auth", { token });
};

describe("a client that shows a new token", () => {
  it("stays connected beyond the old one's time, and nobody else hears of it", async () => {
    const room = freshName();
    const [ann, ben] = [await enter(room, "ann", inS(4)), await enter(room, "ben", inS(60))];
    await ann.until(() => ann.roster.size === 2, "both");
    ben.skip();
    const before = ben.received.length;
    // The actor sleeps between: what it needs is kept with the socket.
    await evictDurableObject(env.PRESENCE.getByName(room));
    const exp = inS(60);
    expect((await refresh(ann, { exp })).data).toEqual({ expiresAtMs: exp * 1_000 });
    await scheduler.wait(5_000);
    await ann.caughtUp();
    await ben.caughtUp();
    expect(ann.closed).toBeNull();
    expect(ben.received.slice(before).filter(({ event }) => event !== "pong")).toEqual([]);
  });

  it("is closed with 4401 within a second of the old one's end when the new one is bad", async () => {
    const room = freshName();
    const endS = inS(3);
    const ann = await enter(room, "ann", endS);
    const bad = [
      await refresh(ann, { exp: inS(60) }, "another-secret-of-at-least-32-bytes!"),
      await refresh(ann, { exp: inS(-1) }),
      await refresh(ann, { userId: "ben", exp: inS(60) }),
      await ann.ask("auth", { token: "nonsense" }),
      await ann.ask("auth", {}),
    ];
    const codes = bad.map(({ type, error }) => `${type} ${error?.code}`);
    expect(codes).toEqual([
      "nack unauthorized",
      "nack token_expired",
      "nack forbidden",
      "nack unauthorized",
      "nack unknown_event",
    ]);
    expect((await ann.ended()).code).toBe(4_401);
    expect(Date.now() - endS * 1_000).toBeLessThan(1_500);
  });

  it("has what the new one allows", async () => {
    const room = freshName();
    const ann = await enter(room, "ann", inS(60));
    expect((await ann.ask("presence.state", { state: { x: 1 } })).type).toBe("ack");
    const closed = { cap: { "room:*": ["join"] } };
    expect((await refresh(ann, { exp: inS(60), ...closed })).type).toBe("ack");
    expect((await ann.ask("presence.state", { state: { x: 2 } })).error?.code).toBe("forbidden");
    const elsewhere = { cap: { "room:other": ["join"] } };
    expect((await refresh(ann, { exp: inS(60), ...elsewhere })).error?.code).toBe("forbidden");
    expect(ann.closed).toBeNull();
  });

  it("keeps the old one where the new one allows to watch only, since others see its user", async () => {
    const room = freshName();
    const ann = await enter(room, "ann", inS(60));
    const watching = { cap: { "room:*": ["watch"] } };
    expect((await refresh(ann, { exp: inS(60), ...watching })).error?.code).toBe("forbidden");
    const hidden = await enter(room, "ann", inS(60), "&listed=0");
    expect((await refresh(hidden, { exp: inS(60), ...watching })).type).toBe("ack");
    expect((await ann.ask("presence.state", { state: { x: 1 } })).type).toBe("ack");
  });

  it("leaves no token where the actor keeps its sessions", async () => {
    const room = freshName();
    const ann = await enter(room, "ann", inS(60), "&detail=count&watch=ben");
    await refresh(ann, { exp: inS(90) });
    const kept = await runInDurableObject(env.PRESENCE.getByName(room), (_, state) =>
      JSON.stringify(state.getWebSockets().map((ws) => ws.deserializeAttachment())),
    );
    expect(kept).toContain("/ws/presence?v=3");
    expect(kept).not.toMatch(/eyJ|token/);
  });

  it("may be a subscriber of the fan-out", async () => {
    const user = freshName();
    const token = (exp: number) => signedToken({ userId: user, exp });
    const path = `/ws/fanout?token=${await token(inS(2))}`;
    const subscriber = new Subscriber(await connect(null, path));
    await subscriber.subscribe({ type: "a" });
    const exp = inS(60);
    const data = { token: await token(exp) };
    subscriber.send({ type: "auth", id: "1", data });
    const { socket } = subscriber;
    const ack = () => socket.messages.map((text) => (text === "pong" ? {} : JSON.parse(text)));
    await socket.until(() => ack().some(({ id }) => id === "1"), "the ack");
    expect(ack().find(({ id }) => id === "1").data).toEqual({ expiresAtMs: exp * 1_000 });
    await scheduler.wait(2_500);
    await subscriber.settle();
    expect(socket.closed).toBeNull();
  });
});

describe("a user whose token allows to watch, and not to join", () => {
  it("sees the room, and is not seen in it", async () => {
    const room = freshName();
    const ann = await enter(room, "ann", inS(60));
    const claims = { userId: "spy", exp: inS(60), cap: { [`room:${room}`]: ["watch"] } };
    const token = await signedToken(claims);
    const spy = await connect(null, `/ws/presence?v=3&room=${room}&token=${token}`);
    const sync = await spy.event("presence.sync");
    expect(sync).toMatchObject({ totalUsers: 1, totalConnections: 1 });
    expect(sync.users).toHaveLength(1);
    await enter(room, "ben", inS(60));
    await spy.until(() => spy.roster.has("ben"), "ben");
    await ann.until(() => ann.roster.has("ben"), "ben");
    expect([...ann.roster.keys()]).toEqual(["ann", "ben"]);
    for (const [event, data] of [
      ["presence.status", { status: "busy" }],
      ["presence.state", { state: {} }],
    ] as const) {
      expect((await spy.ask(event, data)).error?.code).toBe("forbidden");
    }
    const hidden = await connect(null, `/ws/presence?v=3&room=${room}&token=user:hal&listed=0`);
    expect((await hidden.event("presence.sync")).totalUsers).toBe(2);
  });
});
