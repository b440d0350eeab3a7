import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { afterEach, describe, expect, it, vi } from "vitest";
import { openStream } from "../http/fanout-stream.ts";
import { post, publish, Subscriber, sign } from "./fanout-client.ts";
import { freshName } from "./socket.ts";

const stubOf = (user: string) => env.FANOUT.getByName(user);
const HOUR_MS = 3_600_000;

afterEach(() => {
  vi.useRealTimers();
});

/** Publishes without waiting for acks. @returns the cursor that the publisher is given */
async function send(user: string, payload: unknown, headers: Record<string, string> = {}) {
  const { body } = await publish(user, { type: "a", payload, ackTimeoutMs: 0 }, headers);
  return body.cursor as string;
}

/** Connects, and asks for what came after `since`. */
async function resume(user: string, since: string, ...filters: unknown[]): Promise<Subscriber> {
  const one = await Subscriber.connect(user);
  one.send({ type: "subscribe", filters: filters.length ? filters : [{ type: "a" }], since });
  await one.settle();
  return one;
}

const payloadsOf = ({ received }: Subscriber) => received.map(({ payload }) => payload);
const rowsOf = (user: string) =>
  runInDurableObject(stubOf(user), (_, { storage }) => Object.fromEntries(storage.kv.list()));
const changesOf = (user: string) =>
  runInDurableObject(stubOf(user), (_, { storage }) =>
    Number(storage.sql.exec("SELECT total_changes() AS n").one().n),
  );

describe("a subscriber with a cursor", () => {
  it("receives later envelopes that match, in order and once, then live ones", async () => {
    const user = freshName();
    const cursor = await send(user, { n: "1" });
    for (const n of ["2", "3", "2"]) await send(user, { n });
    const one = await resume(user, cursor, { type: "a", n: "2" });
    await send(user, { n: "2", live: true });
    await send(user, { n: "3" });
    await one.settle();
    expect(payloadsOf(one)).toEqual([{ n: "2" }, { n: "2" }, { n: "2", live: true }]);
    const cursors = one.received.map((envelope) => Number(envelope.cursor.split(":")[1]));
    expect(cursors).toEqual([...cursors].sort((a, b) => a - b));
  });

  it("receives what was published while nobody was connected, after a sleep and after a crash", async () => {
    const user = freshName();
    const cursor = await send(user, 0);
    await send(user, 1);
    await evictDurableObject(stubOf(user));
    await send(user, 2);
    await runInDurableObject(stubOf(user), (_, state) => state.abort("gone")).catch(() => {});
    await send(user, 3, { "Idempotency-Key": crypto.randomUUID() });
    await runInDurableObject(stubOf(user), (_, state) => state.abort("gone")).catch(() => {});
    await send(user, 4);
    expect(payloadsOf(await resume(user, cursor))).toEqual([1, 2, 3, 4]);
  });

  it("has a cursor before the first envelope: it asks with now", async () => {
    const user = freshName();
    const one = await Subscriber.connect(user);
    one.send({ type: "subscribe", filters: [{ type: "a" }], since: "now" });
    await one.settle();
    const [answer] = one.received;
    expect(answer).toEqual({ type: "cursor", cursor: expect.any(String) });
    one.socket.close();
    // The actor sleeps, and nothing of it is in storage.
    await evictDurableObject(stubOf(user), { webSockets: "close" });
    await send(user, "first");
    expect(payloadsOf(await resume(user, answer?.cursor ?? ""))).toEqual(["first"]);
  });

  it("receives a gap for a cursor that cannot be served, and then live envelopes", async () => {
    const user = freshName();
    const envelope = await (async () => {
      const one = await Subscriber.connect(user);
      await one.subscribe({ type: "a" });
      await send(user, 1);
      return one.next();
    })();
    const [epoch, seq] = envelope.cursor.split(":") as [string, string];
    const gaps = {
      [envelope.envelopeId]: "unknown",
      "": "unknown",
      [`${epoch}:x`]: "unknown",
      [`deadbeef:${seq}`]: "restarted",
      [`${epoch}:${Number(seq) + 1}`]: "restarted",
    };
    for (const [since, reason] of Object.entries(gaps)) {
      const one = await resume(user, since);
      expect(one.received).toEqual([{ type: "gap", reason, cursor: envelope.cursor }]);
      one.socket.close();
    }
    const late = await resume(user, "deadbeef:1");
    await send(user, 2);
    await late.settle();
    expect(late.received.at(-1)?.payload).toBe(2);
  });

  it("receives a gap when the log was trimmed by age, by count or by size, also after a sleep", async () => {
    const byAge = freshName();
    const old = await send(byAge, 1);
    await send(byAge, 2);
    vi.useFakeTimers({ now: Date.now() + 121_000, toFake: ["Date"] });
    await evictDurableObject(stubOf(byAge));
    expect((await resume(byAge, old)).received).toMatchObject([{ type: "gap", reason: "trimmed" }]);
    vi.useRealTimers();

    const bySize = freshName();
    const first = await send(bySize, 0);
    const second = await send(bySize, "x".repeat(200_000));
    for (let i = 0; i < 5; i++) await send(bySize, "y".repeat(200_000));
    await evictDurableObject(stubOf(bySize));
    expect((await resume(bySize, first)).received).toMatchObject([{ reason: "trimmed" }]);
    expect((await resume(bySize, second)).received).toHaveLength(5);

    const byCount = freshName();
    const messages = Array.from({ length: 100 }, () => ({
      ...{ userId: byCount, type: "a", ackTimeoutMs: 0 },
    }));
    const start = await send(byCount, 0);
    const next = await send(byCount, 1);
    for (let i = 0; i < 10; i++) await post("/publish/batch", { messages });
    expect((await resume(byCount, start)).received).toMatchObject([{ reason: "trimmed" }]);
    const whole = await resume(byCount, next);
    expect(whole.received).toHaveLength(1_000);
  });

  it("gives up to 500 filters in one message, and only 50 without a cursor", async () => {
    const user = freshName();
    const filters = Array.from({ length: 500 }, (_, i) => ({ type: "a", n: `${i}` }));
    const cursor = await send(user, {});
    await send(user, { n: "499" });
    const one = await resume(user, cursor, ...filters);
    expect(payloadsOf(one)).toEqual([{ n: "499" }]);
    const other = await Subscriber.connect(user);
    await other.subscribe(...filters);
    await send(user, { n: "499" });
    await send(user, { n: "49" });
    await other.settle();
    expect(payloadsOf(other)).toEqual([{ n: "49" }]);
  });

  it("receives no envelope a second time that an earlier filter has brought, also after a sleep", async () => {
    const user = freshName();
    const cursor = await send(user, { n: "0" });
    await send(user, { n: "1", m: "1" });
    const one = await resume(user, cursor, { type: "a", n: "1" });
    await send(user, { n: "1", m: "2" });
    await send(user, { n: "2", m: "1" });
    await evictDurableObject(stubOf(user));
    one.send({ type: "subscribe", filters: [{ type: "a", m: "1" }], since: cursor });
    await one.settle();
    expect(payloadsOf(one)).toEqual([
      { n: "1", m: "1" },
      { n: "1", m: "2" },
      { n: "2", m: "1" },
    ]);
  });

  it("gets rate_limited when it asks too often, and stays connected", async () => {
    const user = freshName();
    const cursor = await send(user, 0);
    const one = await Subscriber.connect(user);
    for (let i = 0; i < 30; i++) {
      one.send({ type: "subscribe", filters: [{ type: "a" }], since: cursor });
    }
    await one.settle();
    expect(one.received).toContainEqual(
      expect.objectContaining({ type: "error", code: "rate_limited" }),
    );
  });
});

describe("a stream", () => {
  it("goes on where its last event was, by header and by query, and has an id before the first", async () => {
    const user = freshName();
    const token = await sign({ userId: user });
    const first = await openStream(`type=a&token=${token}`);
    const begin = await first.until("id: ");
    first.close();
    const id = /id: (\S+)\n\n/.exec(`${begin}\n\n`)?.[1] ?? "";
    await send(user, 1);
    await evictDurableObject(stubOf(user), { webSockets: "close" });
    const byHeader = await openStream(`type=a&token=${token}`, { "Last-Event-ID": id });
    const text = await byHeader.until('"payload":1}');
    const next = /id: (\S+)\ndata: /.exec(text)?.[1] ?? "";
    await send(user, 2);
    await byHeader.until('"payload":2}');
    byHeader.close();
    const byQuery = await openStream(`type=a&token=${token}&lastEventId=${next}`);
    expect(await byQuery.until('"payload":2}')).not.toContain('"payload":1}');
    byQuery.close();
  });

  it("sends a gap for an id that cannot be served, such as an envelope's", async () => {
    const user = freshName();
    const token = await sign({ userId: user });
    const cursor = await send(user, 1);
    const stream = await openStream(`type=a&token=${token}`, {
      "Last-Event-ID": crypto.randomUUID(),
    });
    const text = await stream.until("event: gap");
    const data = JSON.stringify({ type: "gap", reason: "unknown", cursor });
    expect(await stream.until("}\n\n")).toContain(`event: gap\nid: ${cursor}\ndata: ${data}\n\n`);
    expect(text).not.toContain("payload");
    stream.close();
  });
});

describe("the log of a user's envelopes", () => {
  it("takes a row for a publish, and none for one with a key, whose answer has a row anyway", async () => {
    const user = freshName();
    await send(user, 0, { "Idempotency-Key": crypto.randomUUID() });
    const before = await changesOf(user);
    for (let i = 0; i < 5; i++) await send(user, i);
    const between = await changesOf(user);
    for (let i = 0; i < 5; i++) await send(user, i, { "Idempotency-Key": crypto.randomUUID() });
    expect(between - before).toBe(5);
    expect((await changesOf(user)) - between).toBe(5);
  });

  it("keeps what came with a key as long as the rest, and knows when one is missing", async () => {
    const user = freshName();
    const cursor = await send(user, 0);
    const key = crypto.randomUUID();
    await send(user, 1, { "Idempotency-Key": key });
    await send(user, 2);
    await runInDurableObject(stubOf(user), (_, { storage }) => {
      storage.kv.delete(`answer:0:${key}`);
    });
    await evictDurableObject(stubOf(user));
    const one = await resume(user, cursor);
    expect(one.received).toMatchObject([{ type: "gap", reason: "trimmed" }]);
  });

  it("deletes what has expired within a day, by one alarm, and its numbers go on", async () => {
    const user = freshName();
    const cursor = await send(user, "secret");
    expect(JSON.stringify(await rowsOf(user))).toContain("secret");
    vi.useFakeTimers({ now: Date.now() + 25 * HOUR_MS, toFake: ["Date"] });
    await runDurableObjectAlarm(stubOf(user));
    expect(JSON.stringify(await rowsOf(user))).not.toContain("secret");
    expect(await runDurableObjectAlarm(stubOf(user))).toBe(false);
    await evictDurableObject(stubOf(user));
    const next = await send(user, "later");
    expect(next).not.toBe(cursor);
    expect(payloadsOf(await resume(user, cursor))).toEqual(["later"]);
  });

  it("is deleted with its user", async () => {
    const user = freshName();
    const cursor = await send(user, "secret");
    await send(user, "secret", { "Idempotency-Key": crypto.randomUUID() });
    await stubOf(user).ingest("deleteUser", undefined);
    expect(JSON.stringify(await rowsOf(user))).not.toContain("secret");
    expect((await resume(user, cursor)).received).toMatchObject([{ reason: "trimmed" }]);
  });

  it("brings each subscriber everything once and in order, or a gap, under random publishes, cuts, sleeps and crashes", async () => {
    const step = fc.oneof(
      { weight: 6, arbitrary: fc.constantFrom("publish", "keyed", "other") },
      { weight: 3, arbitrary: fc.constantFrom("cut", "back") },
      { weight: 1, arbitrary: fc.constantFrom("sleep", "crash", "late") },
    );
    const play = async (steps: readonly string[]) => {
      vi.useFakeTimers({ now: Date.now(), toFake: ["Date"] });
      const user = freshName();
      let n = 0;
      let one: Subscriber | undefined;
      let cursor = "";
      let isOld = false;
      let mayMiss = false;
      let before = 0;
      const expected: number[] = [];
      const got: number[] = [];
      const read = () => {
        for (const message of (one?.received ?? []) as unknown as Record<string, unknown>[]) {
          if (message.type === "gap") {
            // Only what is too old may be missing, and then all before counts for nothing.
            expect(mayMiss).toBe(true);
            expected.splice(0, before);
            got.length = 0;
          } else if (typeof message.payload === "number") got.push(message.payload);
          cursor = String(message.cursor);
        }
      };
      const back = async () => {
        if (one) return;
        mayMiss = isOld;
        isOld = false;
        before = expected.length;
        one = await resume(user, cursor || "now");
      };
      const cut = async () => {
        await one?.settle();
        read();
        one?.socket.close();
        one = undefined;
        expect(got).toEqual(expected);
      };
      await back();
      for (const what of [...steps, "back", "cut"]) {
        if (what === "publish" || what === "keyed") {
          n += 1;
          await send(user, n, what === "keyed" ? { "Idempotency-Key": `${n}` } : {});
          expected.push(n);
        } else if (what === "other") {
          await publish(user, { type: "b", ackTimeoutMs: 0 });
        } else if (what === "back") await back();
        else if (what === "cut") {
          if (one) await cut();
        } else if (what === "late") {
          vi.setSystemTime(Date.now() + 130_000);
          isOld = true;
        } else {
          await one?.settle();
          if (what === "crash" && one) await cut();
          await evictDurableObject(stubOf(user), {
            webSockets: what === "sleep" ? "hibernate" : "close",
          }).catch(() => {});
        }
      }
    };
    const plays = Number((env as { PLAYS?: string }).PLAYS ?? 50);
    await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 25 }), play), {
      numRuns: Math.min(plays, 100),
    });
  });
});
