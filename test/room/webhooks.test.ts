import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env, exports } from "cloudflare:workers";
import fc from "fast-check";
import { describe, expect, inject, it, vi } from "vitest";
import type { Change } from "../../rooms/presence/index.ts";
import type { Untyped } from "../../src/wire/frames.ts";
import { type Answer, CONSUMER, type Delivered } from "./consumer.ts";
import { connect, freshName, type TestSocket } from "./socket.ts";

const worker = exports.default as { fetch(url: string, init: RequestInit): Promise<Response> };

/** Clients of protocol 1 need not ping, and so live as long as a test takes. */
function enter(room: string, user: string, query = "v=1"): Promise<TestSocket> {
  return connect(null, `/ws/presence?room=${room}&${query}&token=user:${user}`);
}

async function plan(room: string, answers: Answer[]): Promise<void> {
  await fetch(`${CONSUMER}?room=${room}`, { method: "PUT", body: JSON.stringify(answers) });
}

async function delivered(room: string): Promise<Delivered[]> {
  return (await fetch(`${CONSUMER}?room=${room}`)).json();
}

/** The changes that a consumer has, which applies each offset once, and never one before another. */
async function applied(room: string, path = "/all"): Promise<Change[]> {
  const changes: Change[] = [];
  for (const { body, path: at, answer } of await delivered(room)) {
    if (at !== path || answer !== 204) continue;
    for (const change of JSON.parse(body) as Change[]) {
      if (change.offset > (changes.at(-1)?.offset ?? 0)) changes.push(change);
    }
  }
  return changes;
}

const summary = ({ type, userId, sessions, reason }: Change) =>
  [type, userId, sessions, reason].filter((part) => part !== undefined).join(" ");

async function changesOf(room: string, after?: string) {
  const query = after === undefined ? "" : `?after=${after}`;
  const response = await worker.fetch(
    `https://rollcall.test/api/v1/rooms/${room}/changes${query}`,
    { headers: { Authorization: "Bearer user:backend" } },
  );
  return { status: response.status, body: (await response.json()) as Untyped };
}

/** Waits until the consumer has as many changes. */
async function untilApplied(room: string, count: number, path?: string): Promise<Change[]> {
  await vi.waitFor(
    async () => expect((await applied(room, path)).length).toBeGreaterThanOrEqual(count),
    { timeout: 15_000, interval: 30 },
  );
  return applied(room, path);
}

/** Evicts an actor, if it runs. */
async function evict(stub: ReturnType<typeof stubOf>, webSockets: "hibernate" | "close") {
  await stub.inspect();
  await evictDurableObject(stub, { webSockets });
}

/** Ends an actor's instance at once, with what it is waiting for. An eviction waits for that. */
async function crash(stub: ReturnType<typeof stubOf>) {
  const end = (_: unknown, state: DurableObjectState) => state.abort("A crash");
  await expect(runInDurableObject(stub as never, end)).rejects.toThrow("A crash");
}

const stubOf = (room: string) => env.PRESENCE.getByName(room);

describe.concurrent("a webhook", () => {
  it("receives who came and left, signed by Standard Webhooks, with offsets that grow by one", async () => {
    const room = `hook-${freshName()}`;
    const anna = await enter(room, "anna");
    const again = await enter(room, "anna");
    const berta = await enter(room, "berta");
    await untilApplied(room, 3);
    await anna.close();
    await again.close();
    await untilApplied(room, 4);
    await berta.close();
    const changes = await untilApplied(room, 6);
    expect(changes.map(summary)).toEqual([
      "room.occupied 1",
      "user.joined anna 1",
      "user.joined berta 1",
      "user.left anna 0 left",
      "user.left berta 0 left",
      "room.vacated 0",
    ]);
    expect(changes.map(({ offset }) => offset)).toEqual([1, 2, 3, 4, 5, 6]);
    const [first] = changes;
    expect(first).toEqual({
      ...{ room, epoch: expect.stringMatching(/^[0-9a-f]{12}$/), offset: 1, type: "room.occupied" },
      ...{ sessions: 1, at: expect.any(Number) },
    });
    expect(new Set(changes.map(({ epoch }) => epoch)).size).toBe(1);
    for (const { isSigned } of await delivered(room)) expect(isSigned).toBe(true);
  });

  it("receives a batch that failed again, unchanged, and nothing else before", async () => {
    const room = `hook-${freshName()}`;
    await plan(room, [500, "break", "redirect"]);
    await enter(room, "anna");
    await vi.waitFor(async () => expect(await delivered(room)).toHaveLength(1));
    await enter(room, "berta");
    const changes = await untilApplied(room, 3);
    expect(changes.map(summary)).toEqual([
      "room.occupied 1",
      "user.joined anna 1",
      "user.joined berta 1",
    ]);
    const requests = await delivered(room);
    expect(requests.map(({ answer }) => answer)).toEqual([500, "break", "redirect", 204, 204]);
    expect(new Set(requests.slice(0, 4).map(({ id, body }) => id + body)).size).toBe(1);
    expect(requests.some(({ path }) => path === "/moved")).toBe(false);
  });

  it("is sent what is due after a sleep, a crash in the middle of an attempt, and in a room that is empty", async () => {
    const room = `hook-${freshName()}`;
    await plan(room, [500]);
    const anna = await enter(room, "anna");
    await vi.waitFor(async () => expect(await delivered(room)).toHaveLength(1));
    await evictDurableObject(stubOf(room));
    await runDurableObjectAlarm(stubOf(room));
    await untilApplied(room, 2);
    const before = (await delivered(room)).length;
    await plan(room, [500]);
    await anna.close();
    await vi.waitFor(
      async () => expect((await delivered(room)).length).toBeGreaterThan(before),
      5_000,
    );
    await evictDurableObject(stubOf(room), { webSockets: "close" });
    await vi.waitFor(async () => {
      await runDurableObjectAlarm(stubOf(room));
      expect(await applied(room)).toHaveLength(4);
    }, 10_000);
    const bodies = (await delivered(room)).filter(({ answer }) => answer !== 204);
    expect(bodies).toHaveLength(2);
  });

  it("is sent what is due by an alarm where the room is empty and a crash ends the second attempt", async () => {
    const room = `hook-${freshName()}`;
    await plan(room, [500, "hang"]);
    const anna = await enter(room, "anna");
    await vi.waitFor(async () => expect(await delivered(room)).toHaveLength(1));
    await anna.close();
    await vi.waitFor(
      async () => {
        await runDurableObjectAlarm(stubOf(room));
        expect(await delivered(room)).toHaveLength(2);
      },
      { timeout: 5_000, interval: 100 },
    );
    await crash(stubOf(room));
    const alarm = await runInDurableObject(
      stubOf(room) as never,
      (_, { storage }: DurableObjectState) => storage.getAlarm(),
    );
    expect(alarm).not.toBeNull();
    expect(Number(alarm) - Date.now()).toBeLessThanOrEqual(30_000);
    expect(await runDurableObjectAlarm(stubOf(room))).toBe(true);
    const changes = await untilApplied(room, 4);
    expect(changes.map(summary)).toEqual([
      "room.occupied 1",
      "user.joined anna 1",
      "user.left anna 0 left",
      "room.vacated 0",
    ]);
  });

  it("takes as long as it likes, answers without end, and harms nobody", async () => {
    const room = `hook-two-${freshName()}`;
    await plan(room, ["endless", "endless", "endless", "endless"]);
    const anna = await enter(room, "anna");
    await vi.waitFor(async () => expect(await delivered(room)).toHaveLength(1));
    await enter(room, "berta");
    await anna.close();
    await vi.waitFor(async () => {
      const requests = await delivered(room);
      expect(requests.filter(({ path }) => path === "/left")).toHaveLength(1);
      expect(requests.filter(({ path }) => path === "/all").length).toBeGreaterThanOrEqual(2);
    }, 10_000);
  });

  it("that hangs delays no other, and is sent its batch again after ten seconds", async () => {
    const room = `hook-two-${freshName()}`;
    await plan(room, ["hang"]);
    const anna = await enter(room, "anna");
    await vi.waitFor(async () => expect(await delivered(room)).toHaveLength(1));
    await anna.close();
    await untilApplied(room, 1, "/left");
    expect(await applied(room)).toEqual([]);
    const changes = await untilApplied(room, 4);
    expect(changes.map(({ offset }) => offset)).toEqual([1, 2, 3, 4]);
  });

  it("gets the types only that it asks for, with the offsets of the log", async () => {
    const room = `hook-two-${freshName()}`;
    const anna = await enter(room, "anna");
    const berta = await enter(room, "berta");
    await untilApplied(room, 3);
    await anna.close();
    await berta.close();
    const left = await untilApplied(room, 2, "/left");
    expect(left.map(({ offset, userId }) => [offset, userId])).toEqual([
      [4, "anna"],
      [5, "berta"],
    ]);
  });

  it("is given up after a day, and then receives what follows", async () => {
    const room = `hook-${freshName()}`;
    await plan(room, [500, 500, 500]);
    await enter(room, "anna");
    const key = `webhook:${CONSUMER}/all`;
    const attempts = () =>
      runInDurableObject(
        stubOf(room) as never,
        (_, { storage }: DurableObjectState) => (storage.kv.get(key) as Untyped)?.batch?.attempts,
      );
    await vi.waitFor(async () => expect(await attempts()).toBe(3), 20_000);
    await plan(room, [500]);
    await runInDurableObject(stubOf(room) as never, (_, { storage }: DurableObjectState) => {
      const row = storage.kv.get(key) as Untyped;
      row.batch.firstAtMs -= 24 * 3_600_000;
      row.batch.nextAtMs = Date.now();
      storage.kv.put(key, row);
    });
    await evictDurableObject(stubOf(room));
    await enter(room, "berta");
    const changes = await untilApplied(room, 1);
    expect(changes.map(summary)).toEqual(["user.joined berta 1"]);
  });
});

describe("a crash that takes the sockets", () => {
  it("is followed by the leaves at once when anything wakes the room, and by an alarm within ten minutes", async () => {
    const room = `hook-${freshName()}`;
    await enter(room, "anna");
    await enter(room, "berta");
    await untilApplied(room, 3);
    const alarm = await runInDurableObject(
      stubOf(room) as never,
      (_, { storage }: DurableObjectState) => storage.getAlarm(),
    );
    expect(alarm).not.toBeNull();
    expect(Number(alarm) - Date.now()).toBeLessThanOrEqual(600_000);
    await evictDurableObject(stubOf(room), { webSockets: "close" });
    expect(await runDurableObjectAlarm(stubOf(room))).toBe(true);
    const changes = await untilApplied(room, 6);
    expect(changes.slice(3).map(summary).sort()).toEqual([
      "room.vacated 0",
      "user.left anna 0 lost",
      "user.left berta 0 lost",
    ]);
    expect(changes.at(-1)?.type).toBe("room.vacated");
  });

  it("never has a late leave override a newer join", async () => {
    const room = `hook-${freshName()}`;
    await enter(room, "anna");
    await enter(room, "berta");
    await untilApplied(room, 3);
    await evictDurableObject(stubOf(room), { webSockets: "close" });
    await enter(room, "berta");
    const changes = await untilApplied(room, 4);
    await scheduler.wait(400);
    const present = new Set<string>();
    for (const { type, userId = "" } of await applied(room)) {
      if (type === "user.joined") present.add(userId);
      if (type === "user.left") present.delete(userId);
    }
    expect(changes.length).toBeGreaterThanOrEqual(4);
    expect([...present]).toEqual(["berta"]);
  });

  it("is none for those whose sockets closed while the room slept: they leave once, as they left", async () => {
    const room = `pull-${freshName()}`;
    const anna = await enter(room, "anna");
    const berta = await enter(room, "berta");
    await enter(room, "carla");
    await vi.waitFor(async () =>
      expect((await changesOf(room, "x:0")).body.snapshot).toHaveLength(3),
    );
    const { cursor } = (await changesOf(room)).body;
    await evictDurableObject(stubOf(room));
    await Promise.all([anna.close(), berta.close()]);
    await scheduler.wait(400);
    const { changes } = (await changesOf(room, cursor)).body;
    expect(changes.map(summary).sort()).toEqual([
      "user.left anna 0 left",
      "user.left berta 0 left",
    ]);
  });
});

describe("a room whose storage fails", () => {
  it("goes on with presence, and logs each join once and in order when its storage works again", async () => {
    const room = `pull-${freshName()}`;
    const anna = await enter(room, "anna");
    await vi.waitFor(async () => expect((await changesOf(room)).body.snapshot).toHaveLength(1));
    const { cursor } = (await changesOf(room)).body;
    let failures = 0;
    await runInDurableObject(stubOf(room) as never, (_, { storage }: DurableObjectState) => {
      const { kv } = storage;
      const put = kv.put.bind(kv);
      kv.put = (key, value) => {
        if (!key.startsWith("changes:at:") || ++failures > 2) return put(key, value);
        throw new Error("Not now");
      };
    });
    await enter(room, "berta");
    await anna.event("presence.online", ({ userId }) => userId === "berta");
    await enter(room, "carla");
    await anna.event("presence.online", ({ userId }) => userId === "carla");
    await enter(room, "dora");
    await vi.waitFor(async () => expect((await changesOf(room)).body.snapshot).toHaveLength(4));
    expect(failures).toBeGreaterThan(2);
    const { changes } = (await changesOf(room, cursor)).body;
    expect(changes.map(({ userId }: Change) => userId).sort()).toEqual(["berta", "carla", "dora"]);
    expect(changes.map(({ offset }: Change) => offset)).toEqual([3, 4, 5]);
  });
});

describe("the change feed", () => {
  it("has pages after a cursor, and a snapshot without one or for one that is not known", async () => {
    const room = `pull-${freshName()}`;
    const empty = await changesOf(room);
    expect(empty.body).toEqual({ snapshot: [], cursor: expect.stringMatching(/^[0-9a-f]{12}:0$/) });
    await enter(room, "anna");
    await enter(room, "anna");
    await enter(room, "berta", "v=1&listed=0");
    await vi.waitFor(async () =>
      expect((await changesOf(room, empty.body.cursor)).body.changes).toHaveLength(2),
    );
    const page = (await changesOf(room, empty.body.cursor)).body;
    expect(page.changes.map(summary)).toEqual(["room.occupied 1", "user.joined anna 1"]);
    expect(page.more).toBe(false);
    expect((await changesOf(room, page.cursor)).body).toEqual({
      ...{ changes: [], cursor: page.cursor, more: false },
    });
    const epoch = page.cursor.split(":")[0];
    for (const unknown of ["rubbish", "000000000000:1", `${epoch}:99`]) {
      const { body } = await changesOf(room, unknown);
      expect(body).toEqual({ snapshot: [{ userId: "anna", sessions: 2 }], cursor: page.cursor });
    }
  });

  it("is a snapshot where what follows is not stored any more, and goes on from its cursor", async () => {
    const room = `pull-${freshName()}`;
    const { cursor } = (await changesOf(room)).body;
    for (let i = 0; i < 30; i++) {
      const socket = await enter(room, `user-${i}`);
      await socket.event("presence.sync");
      await socket.close();
      await scheduler.wait(30);
    }
    await enter(room, "anna");
    await vi.waitFor(async () => expect((await changesOf(room)).body.snapshot).toHaveLength(1));
    expect((await changesOf(room, cursor)).body.changes.length).toBeGreaterThan(60);
    await runInDurableObject(stubOf(room) as never, (_, { storage }: DurableObjectState) => {
      const [oldest] = storage.kv.list({ prefix: "changes:at:", limit: 1 });
      storage.kv.delete(oldest?.[0] ?? "");
    });
    const late = (await changesOf(room, cursor)).body;
    expect(late.snapshot).toEqual([{ userId: "anna", sessions: 1 }]);
    await enter(room, "berta");
    await vi.waitFor(async () =>
      expect((await changesOf(room, late.cursor)).body.changes.map(summary)).toEqual([
        "user.joined berta 1",
      ]),
    );
  });

  it("exists only in rooms that are selected, and for those that may watch", async () => {
    expect((await changesOf(freshName())).status).toBe(404);
    const room = `pull-${freshName()}`;
    const response = await worker.fetch(`https://rollcall.test/api/v1/rooms/${room}/changes`, {
      headers: { Authorization: "Bearer rubbish" },
    });
    expect(response.status).toBe(401);
  });
});

describe("a consumer that applies each offset once", () => {
  it("has the room's roster, whatever sockets, sleeps, crashes and its own failures do", async () => {
    const step = fc.oneof(
      { weight: 5, arbitrary: fc.record({ do: fc.constant("enter"), who: fc.nat(4) }) },
      { weight: 3, arbitrary: fc.record({ do: fc.constant("leave"), who: fc.nat(4) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant("cut"), who: fc.nat(4) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant("sleep"), who: fc.constant(0) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant("crash"), who: fc.constant(0) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant("pause"), who: fc.constant(0) }) },
    );
    const answers = fc.array(fc.constantFrom<Answer>(204, 204, 500, "break"), { maxLength: 2 });
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { minLength: 3, maxLength: 14 }),
        answers,
        async (steps, first) => {
          const room = `hook-${freshName()}`;
          const stub = stubOf(room);
          await plan(room, first);
          let sockets: { who: number; socket: TestSocket }[] = [];
          for (const { do: what, who } of steps) {
            const own = sockets.find((one) => one.who === who);
            if (what === "enter") {
              sockets.push({ who, socket: await enter(room, `user-${who}`) });
            } else if ((what === "leave" || what === "cut") && own) {
              await own.socket.close(what === "leave" ? 1000 : 4000);
              sockets = sockets.filter((one) => one !== own);
            } else if (what === "sleep") await evict(stub, "hibernate");
            else if (what === "crash") {
              await evict(stub, "close");
              sockets = [];
            } else if (what === "pause") await scheduler.wait(250);
          }
          const expected = [...new Set(sockets.map(({ who }) => `user-${who}`))].sort();
          await vi.waitFor(
            async () => {
              await runDurableObjectAlarm(stub);
              const present = new Set<string>();
              let offset = 0;
              for (const change of await applied(room)) {
                expect(change.offset).toBe(offset + 1);
                offset = change.offset;
                const { type, userId = "" } = change;
                if (type === "user.joined") {
                  expect(present.has(userId)).toBe(false);
                  present.add(userId);
                }
                if (type === "user.left") expect(present.delete(userId)).toBe(true);
                if (type === "room.vacated") expect(present.size).toBe(0);
              }
              expect([...present].sort()).toEqual(expected);
            },
            { timeout: 20_000, interval: 50 },
          );
        },
      ),
      { numRuns: Math.ceil(inject("plays") / 10) },
    );
  });
});
