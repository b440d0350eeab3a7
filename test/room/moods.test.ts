import {
  abortAllDurableObjects,
  reset,
  runDurableObjectAlarm,
  runInDurableObject,
} from "cloudflare:test";
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { moods } from "../../rooms/moods/index.ts";
import { MOODS, type Mood, type MoodState, shardName } from "../../rooms/moods/tally.ts";
import { shardOf } from "../../src/shards/layout.ts";
import { Deployment, FourMoodShards, focus, stopClock } from "./moods.ts";
import { connect, type TestSocket } from "./socket.ts";

afterEach(async () => {
  vi.useRealTimers();
  await reset();
});

const plain = ({ count, moods }: MoodState) => ({ count, moods });

describe("the count is exact", () => {
  for (const shards of [1, 8] as const) {
    test(`for 500 sessions that come 64 at a time, with ${shards} shards`, async () => {
      const deployment = new Deployment(shards);
      const watcher = await deployment.watch();
      await watcher.until(({ count }) => count === 0);
      const waiting = Array.from({ length: 500 }, (_, i) => i);
      const answers: MoodState[] = [];
      await Promise.all(
        Array.from({ length: 64 }, async () => {
          for (let i = waiting.pop(); i !== undefined; i = waiting.pop()) {
            answers.push(await deployment.heartbeat(crypto.randomUUID(), MOODS[i % 4]));
          }
        }),
      );
      const all = {
        count: 500,
        moods: { gratitude: 125, presence: 125, release: 125, connection: 125 },
      };
      if (shards === 1) {
        expect(plain(answers.at(-1) as MoodState)).toEqual(all);
        expect(plain(await deployment.state())).toEqual(all);
      } else {
        expect(Math.max(...answers.map(({ count }) => count))).toBeLessThanOrEqual(500);
        const lastAt = performance.now();
        expect(plain(await deployment.stateWhen(({ count }) => count === 500))).toEqual(all);
        expect(performance.now() - lastAt).toBeLessThan(1_000);
      }
      expect(plain(await watcher.until(({ count }) => count === 500))).toEqual(all);
      watcher.leave();
    });
  }
});

/** The count that a user would expect, in the simplest code. */
class Model {
  readonly beats = new Map<string, { mood: Mood; atMs: number }>();
  readonly sockets = new Map<string, { socket: TestSocket; seenAtMs: number }[]>();
  readonly moods = new Map<string, Mood>();

  /** Removes what has expired. */
  settle(now: number): void {
    for (const [id, { atMs }] of this.beats) if (now - atMs >= 30_000) this.beats.delete(id);
    for (const [id, sockets] of this.sockets) {
      this.keep(
        id,
        sockets.filter(({ seenAtMs }) => now - seenAtMs < 30_000),
      );
    }
  }

  keep(id: string, sockets: { socket: TestSocket; seenAtMs: number }[]): void {
    if (sockets.length > 0) this.sockets.set(id, sockets);
    else this.sockets.delete(id);
  }

  state(): { count: number; moods: Record<string, number> } {
    const here = [...new Set([...this.beats.keys(), ...this.sockets.keys()])];
    const moods = MOODS.map((mood) => [
      mood,
      here.filter((id) => this.moods.get(id) === mood).length,
    ]);
    return { count: here.length, moods: Object.fromEntries(moods) };
  }
}

type Step =
  | { do: "beat" | "connect" | "set"; who: number; mood: Mood }
  | { do: "beat again" | "leave" | "hang up"; who: number }
  | { do: "pass"; seconds: number }
  | { do: "evict"; which: number; webSockets: "hibernate" | "close" };

/** Names of `Object.prototype`, and 64 characters of scripts that take more than a byte or a unit. */
const IDS = ["__proto__", "猫".repeat(64), "🦊".repeat(64), "a"];
// Mostly the same few: a fault takes several steps with one of them.
const who = fc.oneof(fc.constant(0), fc.nat(IDS.length - 1));
const mood = fc.constantFrom(...MOODS);
const webSockets = fc.constantFrom("hibernate", "close");
const step = fc.oneof<fc.WeightedArbitrary<Step>[]>(
  { weight: 3, arbitrary: fc.record({ do: fc.constant("beat"), who, mood }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("beat again"), who }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom("connect", "set"), who, mood }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom("leave", "hang up"), who }) },
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constant("pass"), seconds: fc.integer({ min: 5, max: 25 }) }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constant("evict"), which: fc.nat(7), webSockets }),
  },
);

describe("the count equals that of a simple model after any steps in any order", () => {
  beforeEach(stopClock);

  async function run(deployment: Deployment, steps: readonly Step[]): Promise<void> {
    const shards = deployment.names.filter((name) => name.startsWith("shard")).length;
    const model = new Model();
    for (const one of steps) {
      // Steps are whole seconds apart, and reads 600 ms after them: expiries share wake-ups of 500 ms.
      await deployment.pass(400);
      const now = Date.now();
      model.settle(now);
      const id = "who" in one ? (IDS[one.who] as string) : "";
      const sockets = model.sockets.get(id) ?? [];
      if (one.do === "beat" || one.do === "beat again") {
        const mood = one.do === "beat" ? one.mood : (model.moods.get(id) ?? "presence");
        const answer = await deployment.heartbeat(id, mood);
        model.beats.set(id, { mood, atMs: now });
        model.moods.set(id, mood);
        if (shards === 1) expect(plain(answer)).toEqual(model.state());
      } else if (one.do === "connect") {
        const socket = await deployment.connect(id, one.mood);
        model.keep(id, [...sockets, { socket, seenAtMs: now }]);
        model.moods.set(id, one.mood);
      } else if (one.do === "set" && sockets[0]) {
        sockets[0].seenAtMs = now;
        // Only the ack shows that it is stored.
        await sockets[0].socket.ask("mood.set", { mood: one.mood });
        model.moods.set(id, one.mood);
      } else if (one.do === "hang up" && sockets[0]) {
        await sockets[0].socket.close();
        model.keep(id, sockets.slice(1));
      } else if (one.do === "leave") {
        await deployment.leave(id);
        model.beats.delete(id);
        model.sockets.delete(id);
        for (const { socket } of sockets)
          expect(await socket.ended()).toMatchObject({ code: 1000 });
      } else if (one.do === "pass") {
        await deployment.pass(one.seconds * 1_000);
        model.settle(Date.now());
      } else if (one.do === "evict") {
        const names =
          one.which < deployment.names.length
            ? [deployment.names[one.which] as string]
            : deployment.names;
        await deployment.evict(names, one.webSockets);
        for (const id of [...model.sockets.keys()]) {
          const isGone =
            one.webSockets === "close" && names.includes(shardName(shardOf(id, shards)));
          if (isGone) model.sockets.delete(id);
        }
      }
      await deployment.pass(600);
      model.settle(Date.now());
      const expected = model.state();
      // The actor learns of a closed socket by an event of its own, which may come a moment later.
      const isEvent = one.do === "hang up" || (one.do === "evict" && one.webSockets === "close");
      if (shards === 1 && !isEvent) expect(plain(await deployment.state())).toEqual(expected);
      else
        await deployment.stateWhen(
          (state) => JSON.stringify(plain(state)) === JSON.stringify(expected),
        );
    }
    for (const { socket } of [...model.sockets.values()].flat()) await socket.close();
    // Longer than any session lives, and until every actor has its budget again.
    await deployment.pass(70_000);
    expect((await deployment.state()).count).toBe(0);
  }

  for (const [shards, numRuns] of [
    [1, 25],
    [4, 5],
  ] as const) {
    test(`with ${shards} shards`, { timeout: 60_000 }, async () => {
      const deployment = new Deployment(shards);
      const steps = fc.array(step, { minLength: 5, maxLength: 18, size: "max" });
      await fc.assert(
        fc.asyncProperty(steps, (list) => run(deployment, list)),
        // A failed run leaves sessions behind: a replay, or a smaller case, would begin among them.
        { numRuns, endOnFailure: true },
      );
    });
  }
});

test("a stream shows within a second that a session expired, even if nobody asks", async () => {
  const deployment = new Deployment(1);
  const watcher = await deployment.watch();
  // A heartbeat of 29 s ago; then the clock goes on, and the runtime's own alarm does the rest.
  stopClock();
  vi.setSystemTime(Date.now() - 29_000);
  await deployment.heartbeat("silent", "release");
  const expiresAtMs = performance.now() + 1_000;
  vi.useRealTimers();
  await watcher.until(({ count }) => count === 1);
  await watcher.until(({ count }) => count === 0);
  const lateMs = performance.now() - expiresAtMs;
  expect(lateMs).toBeGreaterThan(-100);
  // A second, and one of slack for machines that stall.
  expect(lateMs).toBeLessThan(2_000);
  watcher.leave();
});

describe("a crash that closes a shard's sockets", () => {
  const away = shardName(shardOf("away", 4));
  const here = ["a", "b", "c"].find((id) => shardName(shardOf(id, 4)) !== away) as string;

  test("shows at other shards when the shard's alarm brings it back, even if nobody asks", async () => {
    stopClock();
    const deployment = new Deployment(4);
    await deployment.connect("away");
    const socket = await deployment.connect(here);
    await socket.event("mood.state", ({ count }) => count === 2);
    await deployment.evict([away], "close");
    await deployment.pass(20_000);
    socket.emit("mood.set", { mood: "release" });
    await deployment.pass(11_000);
    await socket.event("mood.state", ({ count }) => count === 1);
    await socket.close();
  });

  test("shows within 2 s of the shard's return", async () => {
    const deployment = new Deployment(4);
    await deployment.connect("away");
    const watcher = await deployment.watch();
    await watcher.until(({ count }) => count === 1);
    await deployment.evict([away], "close");
    const backAtMs = performance.now();
    await deployment.stub(away).inspect();
    await runDurableObjectAlarm(deployment.stub(away));
    await watcher.until(({ count }) => count === 0);
    // Two seconds, and one of slack for machines that stall.
    expect(performance.now() - backAtMs).toBeLessThan(3_000);
    watcher.leave();
  });
});

describe("while nothing happens", () => {
  test("neither the total nor a shard wakes, and the total knows the count after a sleep without asking", async () => {
    stopClock();
    const deployment = new Deployment(4);
    const socket = await deployment.connect("a");
    const watcher = await deployment.watch();
    await watcher.until(({ count }) => count === 1);
    await deployment.pass(1_000);
    // The total stores what it knows before it sleeps.
    await vi.waitFor(async () => {
      const rows = await runInDurableObject(deployment.stub("total"), (_, { storage }) =>
        storage.kv.get<unknown[]>("rollcall:reports"),
      );
      expect(rows?.length).toBeGreaterThan(0);
    }, 5_000);
    const wakeUpsOf = async () =>
      Promise.all(
        deployment.names.map(async (name) => (await deployment.stub(name).inspect()).wakeUps),
      );
    const before = await wakeUpsOf();
    await deployment.pass(20_000);
    expect(await wakeUpsOf()).toEqual(before);

    await deployment.evict(["total"], "hibernate");
    const rpcs = async () => (await wakeUpsOf()).slice(0, 4).map(({ rpc }) => rpc);
    const asked = await rpcs();
    expect((await deployment.state()).count).toBe(1);
    expect(await rpcs()).toEqual(asked);
    watcher.leave();
    await socket.close();
  });
});

test("a socket in one of several shards has the right count when a session expires just as it is sent", async () => {
  stopClock();
  const deployment = new Deployment(4);
  const ids = Array.from({ length: 100 }, (_, i) => `at${i}`).filter((id) => shardOf(id, 4) === 0);
  const [own, a, b, c, d] = ids as [string, string, string, string, string];
  const socket = await deployment.connect(own);
  await deployment.heartbeat(a, "release");
  await socket.event("mood.state", ({ count }) => count === 2);
  vi.setSystemTime(Date.now() + 5_000);
  await deployment.heartbeat(b, "release");
  await socket.event("mood.state", ({ count }) => count === 3);
  // These are sent a second later, when the first has expired meanwhile.
  await deployment.heartbeat(c, "release");
  await deployment.heartbeat(d, "release");
  vi.setSystemTime(Date.now() + 25_500);
  await socket.event("mood.state", ({ count }) => count === 4);
  await socket.close();
});

test("a stream sends many changes at most once a second", async () => {
  const deployment = new Deployment(1);
  const watcher = await deployment.watch();
  await watcher.until(({ count }) => count === 0);
  for (let i = 0; i < 120; i++) {
    await deployment.heartbeat(`s${i}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  await watcher.until(({ count }) => count === 120);
  const later = watcher.states.slice(1).map(({ timestamp }) => timestamp);
  for (const [i, at] of later.slice(1).entries()) expect(at - (later[i] ?? 0)).toBeGreaterThan(950);
  watcher.leave();
});

test("a change that was about to be sent when the actor fell asleep is sent by its next instance", async () => {
  const deployment = new Deployment(1);
  const socket = await deployment.connect("watching");
  await socket.event("mood.state", ({ count }) => count === 1);
  await deployment.heartbeat("a");
  await deployment.heartbeat("b");
  await deployment.evict(deployment.names, "hibernate");
  await deployment.state();
  await socket.event("mood.state", ({ count }) => count === 3);
  await socket.close();
});

describe("a session with sockets", () => {
  test("counts once, however many it has, until the last one has closed", async () => {
    const deployment = new Deployment(1);
    const first = await deployment.connect("many", "release");
    const second = await deployment.connect("many", "gratitude");
    const state = await deployment.state();
    expect(plain(state)).toMatchObject({ count: 1, moods: { gratitude: 1, release: 0 } });
    await first.close();
    expect((await deployment.state()).count).toBe(1);
    await second.close();
    expect((await deployment.state()).count).toBe(0);
  });

  test("loses its sockets when it leaves", async () => {
    const deployment = new Deployment(4);
    const socket = await deployment.connect("leaver");
    await deployment.heartbeat("leaver");
    await deployment.leave("leaver");
    expect(await socket.ended()).toEqual({ code: 1000, reason: "Left" });
    await deployment.stateWhen(({ count }) => count === 0);
  });

  test("is closed with 4408 and gone after 30 s of silence; a ping keeps it without waking the actor", async () => {
    const deployment = new Deployment(1);
    const stub = deployment.stub("shard:0");
    // The runtime answers pings, and notes the time by its own clock: by ours, both connect 25 s earlier.
    const pingedAtMs = Date.now();
    stopClock();
    vi.setSystemTime(pingedAtMs - 25_000);
    const silent = await deployment.connect("silent");
    const pinging = await deployment.connect("pinging", "release");
    await deployment.stateWhen(({ count }) => count === 2);
    const { wakeUps } = await stub.inspect();
    pinging.send('{"type":"ping"}');
    await pinging.next(({ frame }) => frame.type === "pong");
    expect((await stub.inspect()).wakeUps).toEqual(wakeUps);

    await deployment.pass(31_000);
    expect(await silent.ended()).toMatchObject({ code: 4408 });
    expect(await deployment.state()).toMatchObject({ count: 1, moods: { release: 1 } });
    // An actor that slept knows of the ping only by the runtime.
    await deployment.evict(deployment.names, "hibernate");
    await deployment.pass(23_000);
    expect((await deployment.state()).count).toBe(1);
    expect(pinging.closed).toBeNull();

    // Generous: this machine may have stalled before the ping.
    await deployment.pass(6_000);
    expect(await pinging.ended()).toMatchObject({ code: 4408 });
    expect((await deployment.state()).count).toBe(0);
  });

  test("receives the count of the other shards' sessions too", async () => {
    const deployment = new Deployment(4);
    const socket = await deployment.connect("here");
    await Promise.all(["a", "b", "c", "d", "e", "f"].map((id) => deployment.heartbeat(id)));
    await socket.event("mood.state", ({ count }) => count === 7);
    await deployment.evict(["total"], "hibernate");
    await deployment.leave("a");
    await socket.event("mood.state", ({ count }) => count === 6);
    await socket.close();
  });
});

describe("an actor that does not answer", () => {
  beforeEach(stopClock);
  afterEach(() => vi.restoreAllMocks());

  /** Makes calls to an actor fail, or wait without an answer, until the result is disposed of. */
  function breakDown(broken: string, how: "fails" | "is silent"): Disposable {
    const { ingest } = FourMoodShards.prototype;
    const repaired = Promise.withResolvers<void>();
    const spy = vi.spyOn(FourMoodShards.prototype, "ingest");
    spy.mockImplementation(async function (this: object, name: string, data: unknown) {
      if ((this as { name: string }).name === broken) {
        if (how === "fails") throw new Error("The actor is out of order");
        await repaired.promise;
      }
      return ingest.call(this as InstanceType<typeof FourMoodShards>, name, data);
    });
    return {
      [Symbol.dispose]() {
        repaired.resolve();
        spy.mockRestore();
      },
    };
  }

  const ids = Array.from({ length: 12 }, (_, i) => `p${i}`);
  const broken = "shard:1";
  const isThere = (id: string) => shardName(shardOf(id, 4)) === broken;
  const there = ids.filter(isThere);
  const elsewhere = ids.filter((id) => !isThere(id));
  const beatAll = (deployment: Deployment, ids: readonly string[]) =>
    Promise.all(ids.map((id) => deployment.heartbeat(id)));

  for (const how of ["fails", "is silent"] as const) {
    test(`is a shard that ${how}: the others go on, and it counts again when it is back`, async () => {
      const deployment = new Deployment(4);
      await beatAll(deployment, ids);
      await deployment.stateWhen(({ count }) => count === ids.length);
      {
        using _ = breakDown(broken, how);
        // The total does not know the shards, and must ask.
        await deployment.evict(["total"], "close");
        expect((await deployment.state()).count).toBe(elsewhere.length);
        const answer = await deployment.heartbeat(elsewhere[0] as string);
        expect(answer.count).toBeLessThanOrEqual(ids.length);
        if (how === "fails") {
          const refused = await deployment.post("/api/heartbeat", { sessionId: there[0] });
          expect(refused.status).toBe(503);
          expect(await refused.json()).toEqual({ error: expect.stringContaining("try again") });
        }
      }
      await deployment.pass(1_000);
      await beatAll(deployment, ids);
      await deployment.stateWhen(({ count }) => count === ids.length);
    });
  }

  test("is the total: a shard repeats its report by itself", async () => {
    const deployment = new Deployment(4);
    await beatAll(deployment, ids);
    await deployment.stateWhen(({ count }) => count === ids.length);
    await deployment.pass(1_000);
    {
      using _ = breakDown("total", "fails");
      // The shard knows the count of the others from before.
      expect((await deployment.heartbeat(`late ${there[0]}`)).count).toBeGreaterThan(0);
      const answer = await deployment.request("/api/presence");
      expect(answer.status).toBe(503);
      expect(await answer.json()).toEqual({ error: expect.any(String) });
    }
    await deployment.pass(1_000);
    await deployment.stateWhen(({ count }) => count === ids.length + 1);
  });
});

/**
 * Counts what is billed as a written row: every put and delete, and every time the alarm is set. The
 * alarm is deleted by the ringing of these tests alone, as long as anybody is here.
 */
async function countRows(deployment: Deployment): Promise<() => number> {
  let rows = 0;
  await runInDurableObject(deployment.stub(deployment.names[0] as string), (_, { storage }) => {
    for (const [target, names] of [
      [Object.getPrototypeOf(storage.kv), ["put", "delete"]],
      [Object.getPrototypeOf(storage), ["put", "delete", "setAlarm", "deleteAll"]],
    ] as [Record<string, unknown>, string[]][]) {
      for (const name of names) {
        const own = target[name] as (...args: unknown[]) => unknown;
        vi.spyOn(target as Record<string, () => unknown>, name).mockImplementation(function (
          this: unknown,
          ...args: unknown[]
        ) {
          rows += 1;
          return own.apply(this, args);
        });
      }
    }
  });
  return () => rows;
}

describe("at most 0.05 rows are written per heartbeat", () => {
  beforeEach(stopClock);
  afterEach(() => vi.restoreAllMocks());

  for (const arrival of ["together", "one after another"]) {
    test(`of 100 people who came ${arrival}, every 10 s, for 5 minutes`, async () => {
      const deployment = new Deployment(1);
      await deployment.state();
      const rows = await countRows(deployment);
      const before = (await deployment.stub("shard:0").inspect()).wakeUps;
      let requests = 0;
      if (arrival === "together") {
        await Promise.all(Array.from({ length: 100 }, (_, i) => deployment.heartbeat(`p${i}`)));
        requests += 100;
      }
      for (let tick = 0; tick < 3_000; tick++) {
        await deployment.heartbeat(`p${tick % 100}`);
        requests += 1;
        vi.setSystemTime(Date.now() + 100);
        if (tick % 5 === 0) await deployment.pass(0);
      }
      const { wakeUps } = await deployment.stub("shard:0").inspect();
      expect((await deployment.state()).count).toBe(100);
      const perHeartbeat = rows() / requests;
      console.log(
        `came ${arrival}: ${requests} requests, ${rows()} rows (${perHeartbeat.toFixed(4)} per heartbeat), ` +
          `wake-ups: ${wakeUps.rpc - before.rpc} calls, ${wakeUps.alarm - before.alarm} alarms`,
      );
      expect(perHeartbeat).toBeLessThanOrEqual(0.05);
      expect(rows()).toBeGreaterThan(0);
    });
  }
});

describe("when there are more heartbeats than the budget of rows allows", () => {
  beforeEach(stopClock);

  test("a crash loses no live session, and counts none more than 40 s too long", async () => {
    const deployment = new Deployment(1);
    await Promise.all(Array.from({ length: 50 }, (_, i) => deployment.heartbeat(`p${i}`)));
    for (let second = 0; second < 43; second++) {
      await deployment.pass(1_000);
      for (let i = second % 5; i < 50; i += 5) await deployment.heartbeat(`p${i}`);
    }
    const written = await runInDurableObject(deployment.stub("shard:0"), (_, { storage }) =>
      [...storage.kv.list<{ writtenAtMs: number }>({ prefix: "moods:" })].map(([, row]) => row),
    );
    const unwrittenMs = Date.now() - Math.max(...written.map(({ writtenAtMs }) => writtenAtMs));
    // The rest would prove nothing if all were written.
    expect(unwrittenMs).toBeGreaterThanOrEqual(2_000);
    // A crash: an orderly eviction would wait until the window is written.
    await abortAllDurableObjects();
    expect((await deployment.state()).count).toBe(50);
    // All beat within the last 5 s: each has 25 s left at least, written or not.
    await deployment.pass(24_500);
    expect((await deployment.state()).count).toBe(50);
    await deployment.pass(45_500);
    expect((await deployment.state()).count).toBe(0);
  });
});

describe("a mood count with options", () => {
  const worker = {
    fetch: (url: string, init: RequestInit = {}) =>
      Promise.resolve(focus.routes().request(url, init, env as Env)),
  };
  const heartbeat = (body: object) =>
    worker.fetch("https://rollcall.test/api/heartbeat", {
      method: "POST",
      body: JSON.stringify(body),
    });
  const state = async () => (await worker.fetch("https://rollcall.test/api/presence")).json();

  test("has its own moods, default, path and ttl", async () => {
    stopClock();
    expect(await (await heartbeat({ sessionId: "a", mood: "deep" })).json()).toMatchObject({
      count: 1,
      moods: { deep: 1, light: 0 },
    });
    expect(await (await heartbeat({ sessionId: "b" })).json()).toMatchObject({
      count: 2,
      moods: { deep: 1, light: 1 },
    });
    const refused = await heartbeat({ sessionId: "a", mood: "presence" });
    expect(await refused.json()).toEqual({ error: "mood must be one of deep, light" });

    const socket = await connect(worker, "/focus/socket?sessionId=c&mood=deep&v=2");
    expect((await socket.next(({ frame }) => frame.type === "hello")).data).toMatchObject({
      pingMs: 1_666,
    });
    expect((await socket.ask("mood.set", { mood: "gratitude" })).type).toBe("nack");
    await socket.close();

    vi.setSystemTime(Date.now() + 4_900);
    expect(await state()).toMatchObject({ count: 2 });
    vi.setSystemTime(Date.now() + 200);
    expect(await state()).toMatchObject({ count: 0 });
  });

  test("is refused at construction when an option is out of its range", () => {
    expect(() => moods({ moods: ["a", "a"] })).toThrow(RangeError);
    // @ts-expect-error none
    expect(() => moods({ moods: [] })).toThrow(RangeError);
    // @ts-expect-error no such mood
    expect(() => moods({ moods: ["a", "b"], defaultMood: "c" })).toThrow(RangeError);
    for (const ttlMs of [0, 2_999, Number.NaN]) expect(() => moods({ ttlMs })).toThrow(RangeError);
  });
});
