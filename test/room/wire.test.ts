import { evictDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { type MessageFrame, PONG } from "../../src/wire/frames.ts";
import { connect, freshName, type TestSocket } from "./socket.ts";

function newLab() {
  return env.LAB.getByName(freshName());
}

/** One frame per message, as protocol 1 has it. */
function isSingle(message: string): boolean {
  return !Array.isArray(JSON.parse(message));
}

describe("protocol 1", () => {
  it("sends the same frames as Verani 0.5, before and after hibernation", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?user=anna&client=c1");
    await socket.event("welcome");
    socket.emit("say", { text: "hi" });
    await socket.event("said");
    await evictDurableObject(stub);
    socket.send('{"type":"say","channel":"default","data":{"text":"again"}}');
    await socket.event("said");
    socket.send('{"type":"ping"}');
    await socket.next(({ frame }) => frame.type === "pong");
    expect(socket.messages).toEqual([
      '{"type":"event","channel":"default","data":{"type":"welcome","clientId":"c1"}}',
      '{"type":"event","channel":"default","data":{"type":"said","text":"hi","from":"anna"}}',
      '{"type":"event","channel":"default","data":{"type":"said","text":"again","from":"anna"}}',
      PONG,
    ]);
  });

  it("sends no list of frames, no hello and no ack", async () => {
    const socket = await connect(newLab(), "/ws");
    socket.send({ type: "note", data: { text: "x" }, id: "1" });
    socket.emit("burst", { count: 50 });
    await socket.event("tick", ({ n }) => n === 49);
    expect(socket.messages.every(isSingle)).toBe(true);
    expect(socket.events).not.toContain("hello");
    expect(socket.events).not.toContain("ack");
  });
});

describe("protocol 2", () => {
  it("begins with a hello that holds session, epoch and ping interval", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    const hello = await socket.event("hello");
    expect(socket.received[0]?.event).toBe("hello");
    expect(hello).toEqual({
      protocol: 2,
      session: expect.stringMatching(/^[0-9a-f-]{36}$/),
      epoch: expect.any(String),
      seq: 0,
      limits: { frameBytes: 65_536, framesPerSecond: 50, framesBurst: 100 },
      pingMs: 5_000,
    });
  });

  it("answers a frame that has an id with an ack that holds what the handler returned", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    const good = { users: [{ name: "anna" }, { name: "berta" }] };
    expect(await socket.ask("checked", good)).toMatchObject({ type: "ack", data: 2 });
    await evictDurableObject(stub);
    expect(await socket.ask("checked", good)).toMatchObject({ type: "ack", data: 2 });
    expect(await socket.ask("note", { text: "" })).toMatchObject({ type: "ack", data: null });
  });

  it("answers a frame that has an id with a nack and its reason when no handler could do it", async () => {
    const socket = await connect(newLab(), "/ws?v=2");
    const why = async (event: string, data?: unknown) => (await socket.ask(event, data)).error;
    expect(await why("nobody.listens")).toMatchObject({ code: "unknown_event" });
    expect(await why("refuse")).toEqual({ code: "conflict", message: "Taken", path: "seat" });
    expect(await why("throw")).toEqual({ code: "internal", message: "Internal error" });
    expect(
      await why("checked", { users: [{ name: "a" }, { name: "much too long" }] }),
    ).toMatchObject({ code: "invalid_data", path: "users.1.name" });
  });

  it("lets a handler ask a client and gives it the answer, the refusal, or a timeout", async () => {
    const socket = await connect(newLab(), "/ws?v=2");
    const question = async (): Promise<MessageFrame> =>
      (await socket.next(({ event }) => event === "question")).frame;
    const ask = (timeoutMs: number) =>
      socket.ask("ask", { event: "question", data: { of: 1 }, timeoutMs });

    const answered = ask(5_000);
    const first = await question();
    expect(first).toMatchObject({ type: "event", data: { type: "question", of: 1 } });
    socket.send({ type: "ack", id: first.id ?? "", data: { answer: 42 } });
    expect((await answered).data).toEqual({ answer: { answer: 42 } });

    const refused = ask(5_000);
    const { id = "" } = await question();
    socket.send(
      JSON.stringify({ type: "nack", id, error: { code: "forbidden", message: "Never" } }),
    );
    expect((await refused).error).toMatchObject({ code: "unprocessable", message: "Never" });

    const late = ask(30);
    const third = await question();
    expect((await late).error).toMatchObject({ code: "timeout" });
    socket.send({ type: "ack", id: third.id ?? "", data: "too late" });
    expect((await socket.ask("notes")).type).toBe("ack");
  });

  it("rejects a question to a client that leaves before it answers, and one to a client of protocol 1", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    socket.emit("ask", { event: "question", timeoutMs: 60_000 });
    await socket.event("question");
    await socket.close();
    const old = await connect(stub, "/ws");
    old.emit("ask", { event: "question", timeoutMs: 60_000 });
    expect(await old.event("error")).toMatchObject({ code: "unprocessable" });
    const journal = await stub.ingest("journal", undefined);
    expect(journal).toMatchObject({
      value: expect.arrayContaining(["error The client left before it answered"]),
    });
  });

  it("sends a burst in few messages and in order, and a lone event at once", async () => {
    const stub = newLab();
    const [sender, other] = await Promise.all([connect(stub, "/ws?v=2"), connect(stub, "/ws?v=2")]);
    sender.emit("burst", { count: 500 });
    await other.event("tick", ({ n }) => n === 499);
    const ticks = other.received.filter(({ event }) => event === "tick");
    expect(ticks.map(({ data }) => data.n)).toEqual(Array.from({ length: 500 }, (_, n) => n));
    expect(new Set(ticks.map(({ message }) => message)).size).toBeLessThanOrEqual(2);

    const before = other.messages.length;
    await sender.ask("say", { text: "alone" });
    await other.event("said");
    expect(other.messages).toHaveLength(before + 1);
  });

  it("delivers the events that waited for their window when the actor was evicted", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    const emits = Array.from({ length: 40 }, (_, n) =>
      stub.emitToChannel("default", "note", { n }),
    );
    await Promise.all(emits);
    await evictDurableObject(stub);
    await socket.event("note", ({ n }) => n === 39);
  });

  it("keeps the events of one sender in order when they come one by one, also out of sleep", async () => {
    const stub = newLab();
    const [sender, other, old] = await Promise.all([
      connect(stub, "/ws?v=2"),
      connect(stub, "/ws?v=2"),
      connect(stub, "/ws"),
    ]);
    const texts = Array.from({ length: 60 }, (_, n) => `${n}`);
    for (const text of texts.slice(0, 30)) sender.emit("say", { text });
    await other.event("said", ({ text }) => text === "29");
    await evictDurableObject(stub);
    for (const text of texts.slice(30)) sender.emit("say", { text });
    for (const socket of [other, old]) {
      await socket.event("said", ({ text }) => text === "59");
      const said = socket.received.filter(({ event }) => event === "said");
      expect(said.map(({ data }) => data.text)).toEqual(texts);
    }
  });
});

describe("an event", () => {
  it("reaches a channel without its sender, a user on all sockets, or nobody", async () => {
    const stub = newLab();
    const [a, b1, b2, c] = await Promise.all([
      connect(stub, "/ws?v=2&user=a&channels=default,news"),
      connect(stub, "/ws?v=2&user=b&channels=news"),
      connect(stub, "/ws?user=b&channels=default"),
      connect(stub, "/ws?user=c&channels=default"),
    ]);
    await evictDurableObject(stub);
    expect((await a.ask("say.to", { to: "news", text: "1" })).data).toBe(1);
    expect((await a.ask("say.to", { to: "b", text: "2" })).data).toBe(2);
    expect((await a.ask("say.to", { to: "nobody", text: "3" })).data).toBe(0);
    expect((await a.ask("say.to", { to: "a", text: "4" })).data).toBe(1);
    await Promise.all([a, b1, b2, c].map((socket) => socket.caughtUp()));
    const texts = (socket: TestSocket) =>
      socket.received.filter(({ event }) => event === "said").map(({ data }) => data.text);
    expect([a, b1, b2, c].map(texts)).toEqual([["4"], ["1", "2"], ["2"], []]);
  });

  it("keeps its name whatever its data holds", async () => {
    const socket = await connect(newLab(), "/ws");
    await socket.event("welcome");
    const cases: unknown[] = [{ type: "evil", n: 1 }, { type: 7 }, [1, 2], "text", 5, true];
    for (const data of cases) {
      socket.emit("raw", { event: "news", data });
      expect(await socket.event("news")).toEqual(data);
    }
    socket.emit("raw", { event: "ping", data: [1] });
    expect(await socket.event("error")).toMatchObject({ code: "bad_frame" });
    socket.emit("raw", { event: "event", data: { type: "evil" } });
    expect(await socket.event("error")).toMatchObject({ code: "bad_frame" });
    expect(socket.events.filter((event) => event !== "news")).toEqual([
      "welcome",
      "error",
      "error",
    ]);
  });

  it("of any name runs the * handler after its own handlers", async () => {
    const socket = await connect(env.CATCHING.getByName(freshName()), "/ws?v=2");
    expect((await socket.ask("known")).data).toBe("known");
    expect((await socket.ask("anything")).data).toBe("caught");
    expect(await socket.event("caught", ({ name }) => name === "known")).toBeTruthy();
  });

  it("without a handler goes to onMessage, or is ignored where there is none", async () => {
    const fallback = await connect(env.FALLBACK.getByName(freshName()), "/ws?v=2");
    expect((await fallback.ask("whatever")).data).toEqual({ fallback: "whatever" });
    const stub = newLab();
    const socket = await connect(stub, "/ws");
    socket.emit("whatever");
    await socket.caughtUp();
    expect(socket.events).toEqual(["welcome"]);
  });

  it("whose handler throws gives its sender an error event and keeps the socket open", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws");
    socket.emit("throw");
    const error = await socket.event("error");
    expect(error).toEqual({ type: "error", code: "internal", message: "Internal error" });
    await evictDurableObject(stub);
    socket.emit("refuse");
    expect(await socket.event("error")).toMatchObject({ code: "conflict", path: "seat" });
    socket.emit("say", { text: "still here" });
    await socket.event("said");
    expect(await stub.ingest("journal", undefined)).toMatchObject({
      value: expect.arrayContaining(["error secret of the house", "error Taken"]),
    });
  });

  it("with invalid data gives its sender an error with code and path, and runs no handler", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws");
    for (const data of [{ users: [{ name: 5 }] }, { users: "x" }, undefined, null, "x", [1]]) {
      socket.emit("checked", data);
      expect(await socket.event("error")).toMatchObject({ code: "invalid_data" });
    }
    socket.emit("checked", { users: [{ name: 5 }] });
    expect(await socket.event("error")).toMatchObject({ path: "users.0.name" });
    const result = await stub.ingest("journal", undefined);
    expect(JSON.stringify(result)).not.toContain("checked");
  });
});

describe("limits", () => {
  it.each([["text"], ["binary"]])(
    "close a socket that sends a frame of 64 KiB and a byte (%s), and no other socket",
    async (kind) => {
      const stub = newLab();
      const [big, other] = await Promise.all([connect(stub, "/ws"), connect(stub, "/ws")]);
      const frame = (bytes: number) => {
        const text = `{"type":"say","data":{"text":"${"é".repeat(10)}`;
        const rest = bytes - new TextEncoder().encode(`${text}"}}`).byteLength;
        return `${text}${"x".repeat(rest)}"}}`;
      };
      big.send(frame(65_536));
      await other.event("said");
      big.send(kind === "text" ? frame(65_537) : new ArrayBuffer(65_537));
      expect((await big.ended()).code).toBe(1009);
      await other.caughtUp();
      expect(other.closed).toBeNull();
    },
  );

  it("send one error to a client that sends too fast, then close it with 4429, while others go on", async () => {
    const stub = env.TIGHT.getByName(freshName());
    const [fast, other] = await Promise.all([
      connect(stub, "/ws?v=2&userId=a"),
      connect(stub, "/ws?v=2&userId=b"),
    ]);
    for (let n = 0; n < 11; n++) fast.emit("say", { n });
    expect((await fast.ended()).code).toBe(4429);
    expect(fast.events.filter((event) => event === "error")).toHaveLength(1);
    expect(await fast.event("error")).toMatchObject({ code: "rate_limited" });
    await other.event("said", ({ n }) => n === 4);
    await other.caughtUp();
    expect(other.events.filter((event) => event === "said")).toHaveLength(5);
  });

  it("take 100 frames at once and drop the next with an error", async () => {
    const socket = await connect(newLab(), "/ws?v=2");
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() });
    onTestFinished(() => void vi.useRealTimers());
    for (let n = 0; n < 100; n++) socket.emit("note", { text: `${n}` });
    socket.emit("note", { text: "one too many" });
    expect(await socket.event("error")).toMatchObject({ code: "rate_limited" });
  });

  it.each([
    '{"type":"say","data":{"__proto__":{"x":1}}}',
    '{"type":"say","data":{"\\u005f_proto__":{"x":1}}}',
    '{"type":"say","data":{"a":[{"__pr\\u006Fto__":1}]}}',
    '{"type":"say","__proto__":{"admin":true}}',
  ])("refuse a __proto__ key however it is spelled: %s", async (text) => {
    const socket = await connect(newLab(), "/ws");
    socket.send(text);
    expect(await socket.event("error")).toMatchObject({ code: "bad_frame" });
    socket.emit("say", { text: "the words __proto__ and \\u005f are fine" });
    await socket.event("said");
  });

  it("answer each of 10 000 malformed frames with an error, unnoticed by another client", async () => {
    const stub = newLab();
    const bystander = await connect(stub, "/ws?v=2&user=bystander");
    const valid = fc.record({ type: fc.constantFrom("note", "checked"), data: fc.jsonValue() });
    const malformed = fc.oneof(
      fc.string({ maxLength: 60, unit: "binary" }),
      fc.json({ maxDepth: 3 }).filter((text) => !isFrame(text)),
      // A good frame with a piece cut out, doubled or overwritten.
      fc
        .tuple(valid, fc.nat(), fc.nat(20), fc.string({ maxLength: 4 }))
        .map(([frame, at, length, piece]) => {
          const text = JSON.stringify(frame);
          const from = at % text.length;
          return text.slice(0, from) + piece + text.slice(from + length);
        })
        .filter((text) => !isFrame(text)),
      fc
        .record({
          type: fc.oneof(
            fc.constant(""),
            fc.integer(),
            fc.string({ minLength: 257, maxLength: 300 }),
          ),
        })
        .map((frame) => JSON.stringify(frame)),
      fc
        .record({
          type: fc.constant("note"),
          channel: fc.oneof(fc.integer(), fc.constant(null), fc.array(fc.integer())),
        })
        .map((frame) => JSON.stringify(frame)),
      fc
        .record({
          type: fc.constant("note"),
          id: fc.oneof(
            fc.constant(""),
            fc.integer(),
            fc.string({ minLength: 129, maxLength: 140 }),
          ),
        })
        .map((frame) => JSON.stringify(frame)),
      fc.integer({ min: 1, max: 20_000 }).map((depth) => `${"[".repeat(depth)}`),
      fc
        .integer({ min: 1, max: 8_000 })
        .map(
          (depth) =>
            `{"type":"note","data":{"__proto__":${"[".repeat(depth)}${"]".repeat(depth)}}}`,
        ),
      fc.uint8Array({ maxLength: 50 }).map((bytes) => bytes.slice().buffer),
    );
    const frames = fc.sample(malformed, { numRuns: 10_000, seed: 20_261_121 });
    // A socket may send 100 at once.
    for (let from = 0; from < frames.length; from += 100) {
      const batch = frames.slice(from, from + 100);
      bystander.send('{"type":"ping"}');
      const socket = await connect(stub, "/ws?v=2&channels=none");
      for (const frame of batch) socket.send(frame);
      const errors = () => socket.received.filter(({ event }) => event === "error");
      await socket.until(() => errors().length === batch.length, `${batch.length} errors`);
      expect(errors().every(({ data }) => data.code === "bad_frame")).toBe(true);
      await socket.close();
    }
    expect((await bystander.ask("notes")).type).toBe("ack");
    const noticed = bystander.events.filter((event) => event !== "left" && event !== "pong");
    expect(noticed).toEqual(["hello", "welcome", "ack"]);
    expect(await stub.getSessionCount()).toBe(1);
  });
});

/** Whether the server is right to take the text as a frame. */
function isFrame(text: string): boolean {
  try {
    const value: unknown = JSON.parse(text);
    return (
      typeof value === "object" &&
      value !== null &&
      "type" in value &&
      typeof value.type === "string"
    );
  } catch {
    return false;
  }
}
