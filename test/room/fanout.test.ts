import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, describe, expect, it, vi } from "vitest";
import { type Envelope, post, publish, Subscriber, sign } from "./fanout-client.ts";
import { freshName, upgrade } from "./socket.ts";

const stubOf = (userId: string) => env.FANOUT.getByName(userId);

async function evict(userId: string): Promise<void> {
  await evictDurableObject(stubOf(userId));
}

/** Keys of what the user's actor has stored. */
function stored(userId: string): Promise<string[]> {
  return runInDurableObject(stubOf(userId), (_, state) =>
    [...state.storage.kv.list()].map(([key]) => key),
  );
}

afterEach(() => {
  vi.useRealTimers();
});

describe("filters", () => {
  it("delivers an envelope as the contract words it, to who asked for it", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    await alice.subscribe({ type: "chat_message", questId: "q1" });
    const payload = { questId: "q1", text: "hi", deep: [1, { __proto__: null }] };
    const answer = publish(user, { type: "chat_message", payload });
    const envelope = await alice.next();
    expect(envelope).toEqual({
      envelopeId: expect.stringMatching(/^\S+$/),
      type: "chat_message",
      userId: user,
      timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
      cursor: expect.stringMatching(/^[0-9a-f]{8}:\d+$/),
      publisher: "backend",
      payload: { questId: "q1", text: "hi", deep: [1, {}] },
    });
    alice.ack(envelope, { read: true });
    expect((await answer).body).toMatchObject({ clientCount: 1, results: [{ read: true }] });
  });

  it("gives two sockets with different filters only what each asked for", async () => {
    const user = freshName();
    const [one, two] = await Promise.all([Subscriber.connect(user), Subscriber.connect(user)]);
    await one.subscribe({ type: "chat", room: "a" });
    await two.subscribe({ type: "chat", room: "b" });
    const first = publish(user, { type: "chat", payload: { room: "a" } });
    one.ack(await one.next(), "one");
    expect((await first).body).toMatchObject({ clientCount: 1, results: ["one"] });
    const second = publish(user, { type: "chat", payload: { room: "b" } });
    two.ack(await two.next(), "two");
    expect((await second).body).toMatchObject({ clientCount: 1, results: ["two"] });
    expect((await publish(user, { type: "chat", payload: { room: "c" } })).body).toMatchObject({
      clientCount: 0,
      results: [],
    });
    await Promise.all([one.settle(), two.settle()]);
    expect([one.received.length, two.received.length]).toEqual([1, 1]);
  });

  it("sends nothing to a socket without a filter, and another user's envelopes to nobody", async () => {
    const user = freshName();
    const idle = await Subscriber.connect(user);
    const other = await Subscriber.connect(freshName());
    await other.subscribe({ type: "message" });
    expect((await publish(user, { payload: {} })).body).toMatchObject({
      clientCount: 0,
      results: [],
    });
    await Promise.all([idle.settle(), other.settle()]);
    expect([...idle.received, ...other.received]).toEqual([]);
  });

  it("takes type message where none is given, and sends no payload where none came", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user, "/ws/fanout");
    await alice.subscribe({ type: "message" });
    await publish(user, { ackTimeoutMs: 0 });
    const envelope = await alice.next();
    const fields = ["envelopeId", "type", "userId", "timestamp", "cursor", "publisher"];
    expect(Object.keys(envelope)).toEqual(fields);
    expect(envelope.type).toBe("message");
    await publish(user, { payload: null, ackTimeoutMs: 0 });
    expect((await alice.next()).payload).toBeNull();
  });

  it("delivers once to a socket of which several filters match", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    await alice.subscribe({ type: "t" }, { type: "t", a: "1" }, { a: "1", type: "t" });
    const message = { type: "t", payload: { a: "1" }, ackTimeoutMs: 0 };
    expect((await publish(user, message)).body.clientCount).toBe(1);
    await alice.settle();
    expect(alice.received).toHaveLength(1);
    await alice.unsubscribe({ a: "1", type: "t" });
    expect((await publish(user, message)).body.clientCount).toBe(1);
    await alice.unsubscribe({ type: "t" });
    expect((await publish(user, message)).body.clientCount).toBe(0);
  });

  it("skips what is no filter, and treats __proto__ like any other key", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    const odd = '{"type":"odd","__proto__":"x","constructor":"y"}';
    alice.send(`{"type":"subscribe","filters":[null,1,"a",[],{},{"type":""},{"type":"odd","n":1},
      {"type":["odd"]},{"a":"odd"},${odd}]}`);
    await alice.settle();
    const body = (payload: string) =>
      `{"userId":"${user}","type":"odd","ackTimeoutMs":0,"payload":${payload}}`;
    const count = async (payload: string) =>
      (await post("/publish", body(payload))).body.clientCount;
    expect(await count('{"__proto__":"x"}')).toBe(0);
    expect(await count('{"n":1}')).toBe(0);
    expect(await count("{}")).toBe(0);
    expect(await count('{"__proto__":{"constructor":"y"},"constructor":"y"}')).toBe(0);
    expect(await count('{"__proto__":"x","constructor":"y"}')).toBe(1);
    expect(alice.socket.messages.at(-1)).toContain('"payload":{"__proto__":"x","constructor":"y"}');
    alice.send(`{"type":"unsubscribe","filters":[${odd}]}`);
    await alice.settle();
    expect(await count('{"__proto__":"x","constructor":"y"}')).toBe(0);
  });

  it("looks at the first 50 of a message, holds 500, and refuses the rest", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    const filters = (from: number, count: number) =>
      Array.from({ length: count }, (_, i) => ({ type: "t", n: `${from + i}` }));
    await alice.subscribe(...filters(0, 51));
    const count = async (n: number) =>
      (await publish(user, { type: "t", payload: { n: `${n}` }, ackTimeoutMs: 0 })).body
        .clientCount;
    expect([await count(49), await count(50)]).toEqual([1, 0]);
    for (let from = 50; from < 450; from += 50) await alice.subscribe(...filters(from, 50));
    await alice.subscribe(...filters(450, 49));
    // One place is left; what is there already takes none.
    await alice.subscribe({ type: "t", n: "0" }, { type: "last" }, { type: "late" });
    await alice.settle();
    const errors = alice.received.filter(({ type }) => type === "error");
    expect(errors).toEqual([{ type: "error", code: "too_many_filters" }]);
    expect([await count(0), await count(498)]).toEqual([1, 1]);
    expect((await publish(user, { type: "last", ackTimeoutMs: 0 })).body.clientCount).toBe(1);
    expect((await publish(user, { type: "late" })).body.clientCount).toBe(0);
    await alice.unsubscribe({ type: "last" });
    await alice.subscribe({ type: "late" });
    expect((await publish(user, { type: "late", ackTimeoutMs: 0 })).body.clientCount).toBe(1);
  });
});

describe("hibernation", () => {
  it("delivers to who subscribed before, and unsubscribes only what is named after", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    await alice.subscribe({ type: "a" }, { type: "b" });
    await evict(user);
    const answer = publish(user, { type: "a" });
    alice.ack(await alice.next(), 1);
    expect((await answer).body).toMatchObject({ clientCount: 1, results: [1] });
    await evict(user);
    await alice.unsubscribe({ type: "a" });
    await evict(user);
    expect((await publish(user, { type: "a" })).body.clientCount).toBe(0);
    expect((await publish(user, { type: "b", ackTimeoutMs: 0 })).body.clientCount).toBe(1);
  });

  it("keeps 500 filters of a socket over it, and nothing of them once the socket has left", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    const filters = Array.from({ length: 500 }, (_, i) => ({
      type: "t",
      quest: `quest-${i}`,
      i: "x".repeat(40),
    }));
    for (let i = 0; i < 500; i += 50) await alice.subscribe(...filters.slice(i, i + 50));
    await evict(user);
    const payload = filters[499];
    expect((await publish(user, { type: "t", payload, ackTimeoutMs: 0 })).body.clientCount).toBe(1);
    expect(await stored(user)).toContainEqual(expect.stringContaining("session:"));
    await alice.socket.close();
    expect((await publish(user, { type: "t", payload })).body.clientCount).toBe(0);
    expect(await stored(user)).not.toContainEqual(expect.stringContaining("session:"));
  });

  it("writes a row for a publish and none for an ack, however many filters a socket has", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    const filters = Array.from({ length: 500 }, (_, i) => ({
      type: "t",
      quest: `${i}`.repeat(30),
    }));
    for (let i = 0; i < 500; i += 50) await alice.subscribe(...filters.slice(i, i + 50));
    const rowsWritten = () =>
      runInDurableObject(stubOf(user), (_, state) => {
        const [row] = state.storage.sql.exec("SELECT total_changes() AS n").toArray();
        return Number(row?.n);
      });
    const before = await rowsWritten();
    for (let i = 0; i < 20; i++) {
      const answer = publish(user, { type: "t", payload: filters[0] });
      alice.ack(await alice.next(), i);
      expect((await answer).body.results).toEqual([i]);
    }
    await alice.subscribe(filters[3]);
    expect((await rowsWritten()) - before).toBe(20);
  });

  it("answers the publisher at once when the actor is thrown away before the ack", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    await alice.subscribe({ type: "a" });
    const answer = publish(user, { type: "a" });
    await alice.next();
    // As by a deployment or a crash: nothing is waited for, and the sockets are gone.
    await runInDurableObject(stubOf(user), (_, state) => state.abort("gone")).catch(() => {});
    expect((await answer).status).toBe(503);
    expect((await publish(user, { type: "a" })).body).toMatchObject({
      clientCount: 0,
      results: [],
    });
    const back = await Subscriber.connect(user);
    await back.subscribe({ type: "a" });
    const next = publish(user, { type: "a" });
    back.ack(await back.next(), "back");
    expect((await next).body).toMatchObject({ clientCount: 1, results: ["back"] });
  });

  it("gives the publisher the acks that come while an eviction waits for them", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    await alice.subscribe({ type: "a" });
    const answer = publish(user, { type: "a" });
    const envelope = await alice.next();
    const gone = evict(user);
    alice.ack(envelope, "here");
    await gone;
    expect(await answer).toMatchObject({
      status: 200,
      body: { clientCount: 1, results: ["here"] },
    });
    const next = publish(user, { type: "a" });
    alice.ack(await alice.next(), "again");
    expect((await next).body).toMatchObject({ clientCount: 1, results: ["again"] });
  });
});

describe("acks", () => {
  it("that come after an eviction for what nobody waits for any more disturb nothing", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    await alice.subscribe({ type: "a" });
    await publish(user, { type: "a", payload: 1, ackTimeoutMs: 0 });
    const envelope = await alice.next();
    await evict(user);
    alice.ack(envelope, "too late");
    await alice.settle();
    const answer = publish(user, { type: "a", payload: 2 });
    const second = await alice.next();
    expect(second.payload).toBe(2);
    alice.ack(second, "in time");
    expect((await answer).body).toMatchObject({ clientCount: 1, results: ["in time"] });
  });

  it("waits for all, counts the first ack of a socket, and takes null for a missing result", async () => {
    const user = freshName();
    const [one, two] = await Promise.all([Subscriber.connect(user), Subscriber.connect(user)]);
    await Promise.all([one.subscribe({ type: "a" }), two.subscribe({ type: "a" })]);
    const outsider = await Subscriber.connect(user);
    const answer = publish(user, { type: "a" });
    const envelope = await one.next();
    outsider.ack(envelope, "not asked");
    await outsider.settle();
    one.ack(envelope, "first");
    one.ack(envelope, "second");
    await one.settle();
    two.ack(await two.next());
    expect((await answer).body).toMatchObject({ clientCount: 2, results: ["first", null] });
  });

  it("stops waiting after ackTimeoutMs with what there is; 0 does not wait", async () => {
    const user = freshName();
    const [one, mute] = await Promise.all([Subscriber.connect(user), Subscriber.connect(user)]);
    await Promise.all([one.subscribe({ type: "a" }), mute.subscribe({ type: "a" })]);
    const answer = publish(user, { type: "a", ackTimeoutMs: 300 });
    one.ack(await one.next(), 1);
    expect((await answer).body).toMatchObject({ clientCount: 2, results: [1] });
    const begun = Date.now();
    expect((await publish(user, { type: "a", ackTimeoutMs: 0 })).body).toMatchObject({
      clientCount: 2,
      results: [],
    });
    expect(Date.now() - begun).toBeLessThan(4_000);
  });

  it("costs the publisher 5 s, and no more, when a socket never acks", async () => {
    const user = freshName();
    const mute = await Subscriber.connect(user);
    await mute.subscribe({ type: "a" });
    const begun = Date.now();
    expect((await publish(user, { type: "a" })).body).toMatchObject({
      clientCount: 1,
      results: [],
    });
    const took = Date.now() - begun;
    expect(took).toBeGreaterThan(4_900);
    expect(took).toBeLessThan(8_500);
  });

  it("does not wait for a socket that closes before it acked", async () => {
    const user = freshName();
    const [one, dying] = await Promise.all([Subscriber.connect(user), Subscriber.connect(user)]);
    await Promise.all([one.subscribe({ type: "a" }), dying.subscribe({ type: "a" })]);
    const begun = Date.now();
    const answer = publish(user, { type: "a" });
    one.ack(await one.next(), "alive");
    await dying.next();
    await dying.socket.close();
    expect((await answer).body).toMatchObject({ clientCount: 2, results: ["alive"] });
    expect(Date.now() - begun).toBeLessThan(4_500);
  });

  it("brings results of any kind as they are", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    await alice.subscribe({ type: "a" });
    for (const result of [0, "", false, [], { a: [null] }, "\ud83d\ude00", 1e21]) {
      const answer = publish(user, { type: "a" });
      alice.ack(await alice.next(), result);
      expect((await answer).body.results).toEqual([result]);
    }
  });
});

describe("order and limits", () => {
  it("brings 100 envelopes published in a row in order to each socket", async () => {
    const user = freshName();
    const sockets = await Promise.all(Array.from({ length: 5 }, () => Subscriber.connect(user)));
    await Promise.all(sockets.map((socket) => socket.subscribe({ type: "n" })));
    const answering = sockets.map((socket) => socket.answerNext(100, ({ payload }) => payload));
    const messages = Array.from({ length: 100 }, (_, n) => ({
      userId: user,
      type: "n",
      payload: n,
    }));
    const batch = await post("/publish/batch", { messages });
    await Promise.all(answering);
    const numbers = Array.from({ length: 100 }, (_, n) => n);
    for (const { received } of sockets) {
      expect(received.map(({ payload }) => payload)).toEqual(numbers);
    }
    expect(batch.body.results).toMatchObject(
      numbers.map((n) => ({ status: 200, clientCount: 5, results: [n, n, n, n, n] })),
    );
  });

  it("answers ping in any case, ignores what it cannot read, and closes only for 64 KiB", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    for (const text of ["ping", "Ping", "\n PING\t"]) alice.send(text);
    await alice.socket.until(() => alice.socket.messages.length === 3, "three pongs");
    const junk = [
      "",
      "{",
      "[]",
      "null",
      '"x"',
      '{"type":"ping"}',
      '{"type":"subscribe"}',
      "\u0000",
    ];
    for (const text of junk) alice.send(text);
    alice.send('{"type":"subscribe","filters":{"0":{"type":"a"}}}');
    alice.send('{"type":"ack"}');
    alice.send(
      `{"type":"ack","envelopeId":"x","result":${"[".repeat(30_000)}${"]".repeat(30_000)}}`,
    );
    alice.socket.send(new Uint8Array([0xff, 0xfe, 0x00]).buffer);
    alice.send("x".repeat(65_536));
    const other = await Subscriber.connect(user);
    alice.send("PING");
    await alice.socket.until(() => alice.socket.messages.length === 4, "a fourth pong");
    expect(alice.received).toEqual([]);
    alice.send("x".repeat(65_537));
    expect((await alice.socket.ended()).code).toBe(1009);
    other.socket.send(new ArrayBuffer(65_537));
    expect((await other.socket.ended()).code).toBe(1009);
  });

  it("closes a live socket with 4401 when its token expires", async () => {
    const user = freshName();
    const exp = Math.floor(Date.now() / 1000) + 2;
    const token = await sign({ userId: user, exp });
    const response = await upgrade(null, `/?token=${token}`);
    const socket = response.webSocket as WebSocket;
    const closed = new Promise<number>((resolve) => {
      socket.addEventListener("close", ({ code }) => resolve(code));
    });
    socket.accept();
    expect(await closed).toBe(4401);
  });

  it("lets a token live whose expiry lies beyond what a date can hold", async () => {
    const user = freshName();
    const token = await sign({ userId: user, exp: Number.MAX_SAFE_INTEGER });
    expect((await upgrade(null, `/?token=${token}`)).status).toBe(101);
    await runDurableObjectAlarm(stubOf(user));
    expect(await stubOf(user).getSessionCount()).toBe(1);
  });

  it("keeps a user's socket out of another user's actor", async () => {
    const token = await sign({ userId: freshName() });
    const response = await upgrade(stubOf(freshName()), `/ws/fanout?token=${token}`);
    const socket = response.webSocket as WebSocket;
    const closed = new Promise<number>((resolve) => {
      socket.addEventListener("close", ({ code }) => resolve(code));
    });
    socket.accept();
    expect(await closed).toBe(4403);
  });
});

describe("idempotency", () => {
  const key = () => ({ "Idempotency-Key": crypto.randomUUID() });

  it("delivers 20 parallel publishes with one key once, and gives all the same answer", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    await alice.subscribe({ type: "a" });
    const headers = key();
    const answers = Array.from({ length: 20 }, () => publish(user, { type: "a" }, headers));
    alice.ack(await alice.next(), "once");
    for (const { status, body } of await Promise.all(answers)) {
      expect({ status, body }).toMatchObject({
        status: 200,
        body: { clientCount: 1, results: ["once"] },
      });
    }
    await alice.settle();
    expect(alice.received).toHaveLength(1);
  });

  it("gives the first answer again after an eviction, and 422 for another body", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    await alice.subscribe({ type: "a" });
    const headers = key();
    const answer = publish(user, { type: "a", payload: { n: 1 } }, headers);
    alice.ack(await alice.next(), "once");
    await answer;
    await evict(user);
    const repeats = Array.from({ length: 20 }, () =>
      publish(user, { type: "a", payload: { n: 1 } }, headers),
    );
    for (const { body } of await Promise.all(repeats)) {
      expect(body).toMatchObject({ clientCount: 1, results: ["once"] });
    }
    expect((await publish(user, { type: "a", payload: { n: 2 } }, headers)).status).toBe(422);
    expect((await publish(freshName(), { type: "a" }, headers)).status).toBe(200);
    await alice.settle();
    expect(alice.received).toHaveLength(1);
  });

  it("delivers no second time when the actor ended while acks were awaited", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    await alice.subscribe({ type: "a" });
    const headers = key();
    const answers = [1, 2, 3].map(() => publish(user, { type: "a" }, headers));
    await alice.next();
    await runInDurableObject(stubOf(user), (_, state) => state.abort("gone")).catch(() => {});
    for (const { status, body } of await Promise.all(answers)) {
      expect({ status, body }).toMatchObject({
        status: 200,
        body: { clientCount: 1, results: [] },
      });
    }
    expect((await publish(user, { type: "a" }, headers)).body).toMatchObject({
      clientCount: 1,
      results: [],
    });
  });

  it("a publisher's retry delivers no second envelope after another publisher's same key has expired", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    await alice.subscribe({ type: "a" });
    const headers = key();
    const mallory = { ...headers, Authorization: `Bearer ${await sign({ userId: "mallory" })}` };
    const message = { type: "a", ackTimeoutMs: 0 };
    await publish(user, message, mallory);
    vi.useFakeTimers({ now: Date.now() + 9 * 60_000, toFake: ["Date"] });
    await publish(user, message, headers);
    vi.setSystemTime(Date.now() + 2 * 60_000);
    await publish(user, message, headers);
    await alice.settle();
    expect(alice.received).toHaveLength(2);
  });

  it("keeps an answer that is larger than a row of storage", async () => {
    const user = freshName();
    const sockets = await Promise.all(Array.from({ length: 16 }, () => Subscriber.connect(user)));
    await Promise.all(sockets.map((socket) => socket.subscribe({ type: "a" })));
    const headers = key();
    const answer = publish(user, { type: "a" }, headers);
    const result = "x".repeat(30_000);
    await Promise.all(sockets.map((socket) => socket.answerNext(1, () => result + result)));
    const again = publish(user, { type: "a" }, headers);
    const { body } = await answer;
    expect(body.results).toHaveLength(16);
    expect((await again).body).toEqual(body);
    await evict(user);
    expect((await publish(user, { type: "a" }, headers)).body).toEqual(body);
  });

  it("forgets a key after ten minutes, and leaves nothing behind", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    await alice.subscribe({ type: "a" });
    const headers = key();
    const message = { type: "a", ackTimeoutMs: 0 };
    await publish(user, message, headers);
    expect(await stored(user)).toContainEqual(expect.stringContaining(headers["Idempotency-Key"]));
    vi.useFakeTimers({ now: Date.now() + 9.9 * 60_000, toFake: ["Date"] });
    await publish(user, message, headers);
    vi.setSystemTime(Date.now() + 0.2 * 60_000);
    await publish(user, message, headers);
    await alice.settle();
    expect(alice.received).toHaveLength(2);
    const held = expect.stringContaining(headers["Idempotency-Key"]);
    vi.setSystemTime(Date.now() + 11 * 60_000);
    const later = key();
    await publish(user, message, later);
    expect(await stored(user)).not.toContainEqual(held);
    // Nobody publishes any more: what is left goes on the next day.
    vi.setSystemTime(Date.now() + 24 * 3_600_000);
    await runDurableObjectAlarm(stubOf(user));
    expect(await stored(user)).not.toContainEqual(
      expect.stringContaining(later["Idempotency-Key"]),
    );
  });
});

it("does not wait for the ack of a socket that pinged and has fallen silent, and closes it", async () => {
  const user = freshName();
  const [dead, quiet] = [await Subscriber.connect(user), await Subscriber.connect(user)];
  await dead.subscribe({ type: "a" });
  await quiet.subscribe({ type: "a" });
  dead.send("ping");
  const pongs = () => dead.socket.messages.filter((message) => message === "pong").length;
  await dead.socket.until(() => pongs() === 2, "the runtime's pong");
  await evict(user);
  vi.useFakeTimers({ now: Date.now() + 101_000, toFake: ["Date"] });
  const answer = publish(user, { type: "a" });
  // It never pinged, which is allowed.
  quiet.ack(await quiet.next(), "here");
  expect((await answer).body).toMatchObject({ clientCount: 1, results: ["here"] });
  expect((await dead.socket.ended()).code).toBe(4408);
});

describe("a socket that looks open although its client is gone", () => {
  const sessionsOf = async (user: string) => (await stubOf(user).inspect()).sessions;
  const passTo = (nowMs: number) => vi.useFakeTimers({ now: nowMs, toFake: ["Date"] });

  it("and that never sent anything ends with the first publish after 100 s; one that subscribed stays", async () => {
    const user = freshName();
    const [gone, quiet] = [await Subscriber.connect(user), await Subscriber.connect(user)];
    await quiet.subscribe({ type: "a" });
    const start = Date.now();
    await evict(user);
    passTo(start + 90_000);
    await publish(user, { type: "other" });
    expect(await sessionsOf(user)).toBe(2);
    passTo(start + 101_000);
    const answer = publish(user, { type: "a" });
    quiet.ack(await quiet.next(), "here");
    expect((await answer).body).toMatchObject({ clientCount: 1, results: ["here"] });
    expect((await gone.socket.ended()).code).toBe(4408);
    expect(await sessionsOf(user)).toBe(1);
  });

  it("and that never sent anything ends by an alarm within 10 minutes, at no alarm more than before", async () => {
    const user = freshName();
    const start = Date.now();
    const gone = await Subscriber.connect(user);
    const { alarm } = await stubOf(user).inspect();
    const alarmAtMs = Date.parse(alarm ?? "");
    expect(alarmAtMs - start).toBeGreaterThan(9 * 60_000);
    expect(alarmAtMs - start).toBeLessThan(11 * 60_000);
    await evict(user);
    passTo(alarmAtMs);
    await runDurableObjectAlarm(stubOf(user));
    expect((await gone.socket.ended()).code).toBe(4408);
    expect(await stubOf(user).inspect()).toMatchObject({ sessions: 0, alarm: null });
  });

  it("and that pinged ends with a publish that is not for it", async () => {
    const user = freshName();
    const gone = await Subscriber.connect(user);
    await gone.subscribe({ type: "a" });
    gone.send("ping");
    const pongs = () => gone.socket.messages.filter((message) => message === "pong").length;
    await gone.socket.until(() => pongs() === 2, "the runtime's pong");
    passTo(Date.now() + 102_000);
    expect((await publish(user, { type: "b" })).body).toMatchObject({ clientCount: 0 });
    expect((await gone.socket.ended()).code).toBe(4408);
    expect(await sessionsOf(user)).toBe(0);
  });

  it("does not use up the connections of its user once it counts as dead", async () => {
    const user = freshName();
    const start = Date.now();
    for (let n = 0; n < 256; n++) await Subscriber.connect(user);
    const token = await sign({ userId: user });
    const connect = async () =>
      (await upgrade(null, "/", { Authorization: `Bearer ${token}` })).status;
    expect(await connect()).toBe(429);
    passTo(start + 120_000);
    expect(await connect()).toBe(101);
    expect(await sessionsOf(user)).toBe(1);
  });
});

it("frees what a publisher waited for once it has hung up", async () => {
  const user = freshName();
  const mute = await Subscriber.connect(user);
  await mute.subscribe({ type: "a" });
  const controller = new AbortController();
  const { exports } = await import("cloudflare:workers");
  const worker = exports.default as { fetch(url: string, init: RequestInit): Promise<Response> };
  const token = await sign({ userId: "backend" });
  const hanging = worker.fetch("https://rollcall.test/publish", {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify({ userId: user, type: "a", ackTimeoutMs: 500 }),
    signal: controller.signal,
  });
  const envelope: Envelope = await mute.next();
  controller.abort();
  await expect(hanging).rejects.toThrow();
  mute.ack(envelope, "to nobody");
  const answer = publish(user, { type: "a" });
  mute.ack(await mute.next(), "to somebody");
  expect((await answer).body).toMatchObject({ clientCount: 1, results: ["to somebody"] });
});
