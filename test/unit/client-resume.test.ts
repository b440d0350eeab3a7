import { describe, expect, it, vi } from "vitest";
import type { PresenceEvents } from "../../client/client.ts";
import { RollcallError, type VeraniClient } from "../../client/client.ts";
import {
  connected,
  FakeWebSocket,
  installFakes,
  latest,
  newClient,
  pass,
  pick,
} from "./client-fake.ts";

installFakes();

const hello = (fields: object = {}) => ({
  type: "hello",
  data: {
    ...{ protocol: 3, session: "s1", epoch: "e1", seq: 10, resumed: false, replayed: 0 },
    ...{ nowMs: 0, pingMs: 5_000, graceMs: 5_000 },
    limits: { frameBytes: 1_000, framesPerSecond: 10, framesBurst: 20 },
    ...fields,
  },
});

/** A client whose session has begun. */
async function begun(options = {}) {
  const client = newClient(options);
  await pass();
  latest().open();
  latest().say(hello());
  return { client, socket: latest() };
}

async function cut(socket: FakeWebSocket): Promise<FakeWebSocket> {
  socket.end(1006);
  await pass(2_000);
  return latest();
}

const codeOf = (promise: Promise<unknown>) =>
  promise.then(
    () => "resolved",
    (error) => (error as RollcallError).code,
  );

describe("a client of protocol 3", () => {
  it("confirms at once, when the server asks, that it has read", async () => {
    const { socket } = await begun();
    socket.sent.length = 0;
    socket.say({ type: "confirm" });
    expect(socket.sent).toEqual(['{"type":"confirmed"}']);
  });

  it("keeps what it emitted before hello, also where the answer to its ping comes first, and opens once", async () => {
    const client = newClient();
    const opened: unknown[] = [];
    client.onOpen((info) => opened.push(info));
    const ack = codeOf(client.emitWithAck("say", { n: 1 }));
    await pass();
    const socket = latest();
    socket.accept();
    const [{ id } = {}] = socket.frames;
    socket.say(hello());
    socket.say({ type: "ack", id, seq: 11 });
    expect(await ack).toBe("resolved");
    expect(socket.frames).toHaveLength(1);
    expect(opened).toEqual([{ resumed: false, replayed: 0 }]);
  });

  it("does not take the answer to its ping for the end of its session", async () => {
    const { client, socket } = await begun();
    const ack = codeOf(client.emitWithAck("say", { n: 1 }));
    const next = await cut(socket);
    next.accept();
    client.emit("say", { n: 2 });
    expect(next.frames).toEqual([]);
    next.say(hello({ resumed: true }));
    expect(next.frames).toMatchObject([{ data: { n: 1 } }, { data: { n: 2 } }]);
    next.say({ type: "ack", id: next.frames[0]?.id, seq: 11 });
    expect(await ack).toBe("resolved");
  });

  it("asks for the last events of a room, and after a break for those that followed its cursor", async () => {
    pick(0);
    newClient({ rewind: 50 });
    await pass();
    const first = latest();
    expect(first.url.searchParams.get("rewind")).toBe("50");
    expect(first.url.searchParams.has("since")).toBe(false);
    first.open();
    first.say(hello({ logEpoch: "l1" }));
    first.say({ type: "event", data: { type: "said" }, seq: 12 });
    const next = await cut(first);
    expect(next.url.searchParams.get("since")).toBe("l1:12");
    expect(next.url.searchParams.get("resume")).toBe("s1:e1:12");
  });

  it("reads pages of history", async () => {
    const { client, socket } = await begun();
    socket.sent.length = 0;
    const asking = client.history({ limit: 2 });
    const { id, ...frame } = JSON.parse(socket.sent[0] ?? "");
    expect(frame).toEqual({ type: "rollcall.history", data: { limit: 2 } });
    const event = { type: "event", channel: "c", data: { type: "said", text: "hi" }, seq: 4 };
    socket.say({
      ...{ type: "ack", id, seq: 11 },
      data: { events: [{ atMs: 5, frame: event }], before: "l1:4" },
    });
    expect(await asking).toEqual({
      events: [{ event: "said", channel: "c", data: { text: "hi" }, atMs: 5 }],
      before: "l1:4",
    });
  });

  it("resumes from the number of the last frame that it received", async () => {
    pick(0);
    const { client, socket } = await begun();
    const texts: string[] = [];
    client.on("said", ({ text }) => texts.push(text));
    const said = (text: string, seq: number) => ({
      type: "event",
      data: { type: "said", text },
      seq,
    });
    socket.say([said("a", 11), said("b", 14)]);
    const next = await cut(socket);
    expect(next.url.searchParams.get("resume")).toBe("s1:e1:14");
    next.open();
    next.say([hello({ seq: 14, resumed: true, replayed: 1 }), said("c", 15)]);
    // A frame that comes again is no second event.
    next.say(said("c", 15));
    expect(texts).toEqual(["a", "b", "c"]);
    expect(client.resumed).toEqual({ resumed: true, replayed: 1 });
  });

  it("sends an emit that was not answered again after a resume, once, and gets its answer", async () => {
    pick(0);
    const { client, socket } = await begun();
    const answer = client.emitWithAck("buy", { n: 1 });
    const [first] = socket.frames;
    const next = await cut(socket);
    client.emit("later", {});
    next.open();
    next.say(hello({ resumed: true }));
    expect(next.frames.map(({ type, id }) => [type, id])).toEqual([
      ["buy", first?.id],
      ["later", undefined],
    ]);
    next.say({ type: "ack", id: first?.id, data: "sold", seq: 11 });
    expect(await answer).toBe("sold");
  });

  it("keeps waiting for an answer to what it sent before the server's first frame", async () => {
    const client = newClient();
    const answer = client.emitWithAck("buy", {});
    await pass();
    latest().open();
    latest().say(hello());
    latest().say({ type: "ack", id: latest().frames[0]?.id, data: "sold", seq: 11 });
    expect(await answer).toBe("sold");
  });

  it("rejects it with disconnected when the session is a new one", async () => {
    pick(0);
    const { client, socket } = await begun();
    const answer = codeOf(client.emitWithAck("buy", {}));
    const next = await cut(socket);
    next.open();
    next.say(hello({ session: "s2", reason: "restarted" }));
    expect(await answer).toBe("disconnected");
    expect(next.frames).toEqual([]);
  });

  it("reports users who came, left or changed during a break before the sync, and waits for those of a restarted room", async () => {
    pick(0);
    const { client, socket } = await begun();
    const presence = client as unknown as VeraniClient<PresenceEvents>;
    const events: string[] = [];
    presence.on("presence.online", ({ userId }) => events.push(`online ${userId}`));
    presence.on("presence.offline", ({ userId }) => events.push(`offline ${userId}`));
    presence.on("presence.sync", () => events.push("sync"));
    const sync = (seq: number, ...users: string[]) => ({
      type: "event",
      data: {
        type: "presence.sync",
        users: users.map((userId) => ({ userId, username: userId, devices: 1, status: "online" })),
      },
      seq,
    });
    socket.say(sync(11, "ann", "ben"));
    let next = await cut(socket);
    next.open();
    next.say([hello({ session: "s2", reason: "expired" }), sync(12, "ann", "cat")]);
    expect(events).toEqual(["sync", "offline ben", "online cat", "sync"]);

    events.length = 0;
    next = await cut(next);
    next.open();
    next.say([hello({ session: "s3", reason: "restarted", graceMs: 4_000 }), sync(13, "ann")]);
    expect(events).toEqual(["sync"]);
    expect([...client.roster.keys()]).toEqual(["ann", "cat"]);
    await pass(4_000);
    expect(events).toEqual(["sync", "offline cat"]);
  });

  it("sends no faster than hello allows, drops nothing, and keeps the connection", async () => {
    const { client, socket } = await begun();
    const answers = Array.from({ length: 60 }, (_, n) => codeOf(client.emitWithAck("n", { n })));
    expect(socket.frames.length).toBeLessThanOrEqual(20);
    await pass(6_000);
    expect(socket.frames).toHaveLength(60);
    for (const { id } of socket.frames) socket.say({ type: "ack", id, data: null });
    expect(await Promise.all(answers)).toEqual(Array(60).fill("resolved"));
  });

  it("throws for an emit above the frame limit, or one that JSON would change, and stays connected", async () => {
    const { client, socket } = await begun();
    expect(() => client.emit("big", { text: "x".repeat(1_000) })).toThrow(RollcallError);
    expect(await codeOf(client.emitWithAck("big", { text: "x".repeat(1_000) }))).toBe("too_large");
    expect(() => client.emit("map", new Map())).toThrow(TypeError);
    await expect(client.emitWithAck("map", { big: 1n })).rejects.toThrow(TypeError);
    expect([socket.frames, client.isConnected()]).toEqual([[], true]);
  });

  it("gets data as it was emitted, without the event's name in it", async () => {
    const { client, socket } = await begun();
    const data: unknown[] = [];
    client.on("said", (said) => data.push(said));
    socket.say({ type: "event", data: { type: "said", text: "a" }, seq: 11 });
    socket.say({ type: "said", data: { type: "of the app" }, seq: 12 });
    expect(data).toEqual([{ text: "a" }, { type: "of the app" }]);
  });

  it("sends its answer to a question again after a resume", async () => {
    pick(0);
    const { client, socket } = await begun();
    client.on("question", () => 42);
    socket.say({ type: "event", id: "q1", data: { type: "question" }, seq: 11 });
    await pass();
    const next = await cut(socket);
    next.open();
    next.say(hello({ resumed: true, seq: 11 }));
    expect(next.frames).toEqual([{ type: "ack", id: "q1", data: 42 }]);
  });

  it("connects without its session when another socket has resumed it", async () => {
    pick(0);
    const { socket } = await begun();
    socket.end(1001, "Resumed elsewhere");
    await pass(2_000);
    expect(latest().url.searchParams.has("resume")).toBe(false);
  });
});

describe("a client that is refused", () => {
  it.each([
    [4400, "bad_request"],
    [4403, "forbidden"],
  ])("with %i stays away, and tells why", async (code, errorCode) => {
    const errors: unknown[] = [];
    const client = newClient();
    client.onError((error) => errors.push(error));
    const waiting = codeOf(client.waitForConnection());
    await pass();
    latest().open();
    latest().end(code, "No");
    expect(await waiting).toBe("disconnected");
    expect(errors).toMatchObject([{ code: errorCode, message: "No" }]);
    await pass(120_000);
    expect(FakeWebSocket.all).toHaveLength(1);
  });

  it("with 4401 asks for a fresh token, and gives up after three refusals in a row", async () => {
    pick(0);
    const token = vi.fn(() => "t");
    newClient({ token });
    for (let i = 0; i < 3; i++) {
      await pass(2_000);
      latest().open();
      latest().end(4401, "Expired");
    }
    await pass(120_000);
    expect(FakeWebSocket.all).toHaveLength(3);
    expect(token).toHaveBeenCalledTimes(3);
  });

  it("keeps an emit that it had sent before the refusal", async () => {
    pick(0);
    const client = newClient();
    client.emit("said", { n: 1 });
    await pass();
    latest().open();
    latest().end(4401, "Expired");
    await pass(2_000);
    latest().accept();
    expect(latest().frames).toMatchObject([{ type: "said" }]);
  });
});

describe("a client that was disconnected", () => {
  it("rejects emitWithAck and waitForConnection at once", async () => {
    const { client } = await connected();
    client.disconnect();
    expect(await codeOf(client.emitWithAck("x"))).toBe("disconnected");
    expect(await codeOf(client.waitForConnection())).toBe("disconnected");
  });
});

describe("an address", () => {
  it.each(["ftp://test/ws", "mailto:ann@test", "localhost:8787/ws"])(
    "that is none of a WebSocket throws a TypeError: %s",
    (url) => {
      expect(() => newClient({}, url)).toThrow(TypeError);
    },
  );

  it("with a fragment connects without it, and no token is sent for null", async () => {
    newClient({ token: () => null }, "ws://test/ws#top");
    await pass();
    expect(latest().url.hash).toBe("");
    expect(latest().url.searchParams.has("token")).toBe(false);
  });
});

describe("a device that wakes while an attempt to connect hangs", () => {
  it("drops the attempt and connects at once", async () => {
    const events = new EventTarget();
    vi.stubGlobal("document", { hidden: false });
    vi.stubGlobal("addEventListener", events.addEventListener.bind(events));
    newClient();
    await pass();
    expect(FakeWebSocket.all).toHaveLength(1);
    await pass(5_000);
    events.dispatchEvent(new Event("online"));
    await pass();
    expect(FakeWebSocket.all).toHaveLength(2);
  });
});
