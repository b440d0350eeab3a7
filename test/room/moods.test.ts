import { reset } from "cloudflare:test";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { MOODS, type Mood, type MoodState, shardName, shardOf } from "../../src/moods.ts";
import { Deployment, holdClock } from "./moods.ts";
import type { TestSocket } from "./socket.ts";

afterEach(async () => {
  vi.useRealTimers();
  await reset();
});

const plain = ({ count, moods }: MoodState) => ({ count, moods });

describe("exact", () => {
  for (const shards of [1, 8] as const) {
    test(`500 sessions that come 64 at a time are 500, with ${shards} shards`, async () => {
      const house = new Deployment(shards);
      const watcher = await house.watch();
      await watcher.until(({ count }) => count === 0);
      const waiting = Array.from({ length: 500 }, (_, i) => i);
      const answers: MoodState[] = [];
      await Promise.all(
        Array.from({ length: 64 }, async () => {
          for (let i = waiting.pop(); i !== undefined; i = waiting.pop()) {
            answers.push(await house.heartbeat(crypto.randomUUID(), MOODS[i % 4]));
          }
        }),
      );
      const all = {
        count: 500,
        moods: { gratitude: 125, presence: 125, release: 125, connection: 125 },
      };
      if (shards === 1) {
        expect(plain(answers.at(-1) as MoodState)).toEqual(all);
        expect(plain(await house.look())).toEqual(all);
      } else {
        expect(Math.max(...answers.map(({ count }) => count))).toBeLessThanOrEqual(500);
        const lastAt = performance.now();
        expect(plain(await house.lookUntil(({ count }) => count === 500))).toEqual(all);
        expect(performance.now() - lastAt).toBeLessThan(1_000);
      }
      expect(plain(await watcher.until(({ count }) => count === 500))).toEqual(all);
      watcher.leave();
    });
  }
});

/** What a user would expect, written down the naive way. */
class Model {
  readonly beats = new Map<string, { mood: Mood; atMs: number }>();
  readonly sockets = new Map<string, { socket: TestSocket; seenAtMs: number }[]>();
  readonly moods = new Map<string, Mood>();

  /** Forgets what time has ended. */
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
  | { do: "beat" | "connect" | "say"; who: number; mood: Mood }
  | { do: "beat again" | "leave" | "hang up"; who: number }
  | { do: "pass"; seconds: number }
  | { do: "evict"; which: number; webSockets: "hibernate" | "close" };

/** Names of `Object.prototype`, and 64 characters of scripts that take more than a byte or a unit. */
const IDS = [
  "__proto__",
  "constructor",
  "ß".repeat(64),
  "猫".repeat(64),
  "🦊".repeat(64),
  "a",
  "b",
];
// Mostly the same few: what goes wrong takes several steps with one of them.
const who = fc.oneof(fc.constant(0), fc.nat(IDS.length - 1));
const mood = fc.constantFrom(...MOODS);
const webSockets = fc.constantFrom("hibernate", "close");
const step = fc.oneof<fc.WeightedArbitrary<Step>[]>(
  { weight: 3, arbitrary: fc.record({ do: fc.constant("beat"), who, mood }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("beat again"), who }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom("connect", "say"), who, mood }) },
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

describe("the count is the model's, whatever happens in whatever order", () => {
  beforeEach(holdClock);

  async function run(house: Deployment, steps: readonly Step[]): Promise<void> {
    const shards = house.names.filter((name) => name.startsWith("shard")).length;
    const model = new Model();
    for (const one of steps) {
      // Whole seconds, so that nothing is on the edge; each also lets a shard report.
      await house.pass(1_000);
      const now = Date.now();
      model.settle(now);
      const id = "who" in one ? (IDS[one.who] as string) : "";
      const sockets = model.sockets.get(id) ?? [];
      if (one.do === "beat" || one.do === "beat again") {
        const mood = one.do === "beat" ? one.mood : (model.moods.get(id) ?? "presence");
        const answer = await house.heartbeat(id, mood);
        model.beats.set(id, { mood, atMs: now });
        model.moods.set(id, mood);
        if (shards === 1) expect(plain(answer)).toEqual(model.state());
      } else if (one.do === "connect") {
        const socket = await house.connect(id, one.mood);
        model.keep(id, [...sockets, { socket, seenAtMs: now }]);
        model.moods.set(id, one.mood);
      } else if (one.do === "say" && sockets[0]) {
        sockets[0].socket.emit("mood.set", { mood: one.mood });
        sockets[0].seenAtMs = now;
        await sockets[0].socket.caughtUp();
        model.moods.set(id, one.mood);
      } else if (one.do === "hang up" && sockets[0]) {
        await sockets[0].socket.close();
        model.keep(id, sockets.slice(1));
      } else if (one.do === "leave") {
        await house.leave(id);
        model.beats.delete(id);
        model.sockets.delete(id);
        for (const { socket } of sockets)
          expect(await socket.ended()).toMatchObject({ code: 1000 });
      } else if (one.do === "pass") {
        await house.pass(one.seconds * 1_000);
        model.settle(Date.now());
      } else if (one.do === "evict") {
        const names =
          one.which < house.names.length ? [house.names[one.which] as string] : house.names;
        await house.evict(names, one.webSockets);
        for (const id of [...model.sockets.keys()]) {
          const isGone =
            one.webSockets === "close" && names.includes(shardName(shardOf(id, shards)));
          if (isGone) model.sockets.delete(id);
        }
      }
      const expected = model.state();
      if (shards === 1) expect(plain(await house.look())).toEqual(expected);
      else
        await house.lookUntil((state) => JSON.stringify(plain(state)) === JSON.stringify(expected));
    }
    for (const { socket } of [...model.sockets.values()].flat()) await socket.close();
    // Longer than anybody lives, and until every actor has its budget again.
    await house.pass(70_000);
    expect((await house.look()).count).toBe(0);
  }

  for (const [shards, numRuns] of [
    [1, 120],
    [4, 10],
  ] as const) {
    test(`${shards} shards`, { timeout: 60_000 }, async () => {
      const house = new Deployment(shards);
      const steps = fc.array(step, { minLength: 5, maxLength: 18, size: "max" });
      await fc.assert(
        fc.asyncProperty(steps, (list) => run(house, list)),
        { numRuns },
      );
    });
  }
});
