import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { CallTarget } from "../../src/actor/call.ts";
import type { Room, VeraniActor } from "../../src/actor/room.ts";
import { countTogether, createTotals, type Tally, type Totals } from "../../src/shards/totals.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

type Handler = (actor: unknown, data: unknown) => unknown;
/** `lost`: the next answer does not arrive. `down`: no call arrives. */
type Fault = "lost" | "down";

/** A room whose actors count one number each, in this isolate. The total is `null`. */
function createRoom(shards: number) {
  const actors = new Map<number | null, { totals: Totals; own: Tally }>();
  const faults = new Map<number | null, Fault>();
  const handlers = new Map<string, Handler>();
  const room = {
    timer: (name: string, handler: Handler) => handlers.set(name, handler),
    call: (name: string, _: unknown, handler: Handler) => {
      handlers.set(name, handler);
      return room;
    },
  };
  countTogether(room as unknown as Room, 1, (actor) => (actor as unknown as Actor).totals());

  type Actor = { totals(): Totals | undefined; name: string };
  const actorOf = (index: number | null): Actor => ({
    totals: () => actors.get(index)?.totals,
    name: `${index}`,
  });
  const stub = (index: number | null): CallTarget => ({
    async ingest(name, data) {
      if (faults.get(index) === "down") throw new Error("This actor cannot be reached");
      const answer = await handlers.get(name)?.(actorOf(index), structuredClone(data));
      if (faults.delete(index)) throw new Error("The answer was lost");
      return { ok: true, value: structuredClone(answer) };
    },
  });

  for (const index of [null, ...Array.from({ length: shards }, (_, shard) => shard)]) {
    const own: Tally = [0];
    const rows = new Map<string, unknown>();
    const timers = {
      alarmAt: null,
      soonest: (name: string, atMs: number) =>
        setTimeout(() => handlers.get(name)?.(actorOf(index), undefined), atMs - Date.now()),
    };
    const totals = createTotals(index, {
      actor: {
        keep: (promise: Promise<unknown>) => void promise.catch(() => {}),
        timers,
        getStorage: () => ({
          kv: {
            get: (key: string) => rows.get(key),
            put: (key: string, value: unknown) => void rows.set(key, value),
          },
        }),
      } as unknown as VeraniActor,
      shards,
      width: 1,
      stub,
      own: () => own,
      isWatched: () => true,
      onChange() {},
    });
    actors.set(index, { totals, own });
  }

  return {
    faults,
    count(index: number, n: number) {
      const actor = actors.get(index);
      if (!actor) throw new RangeError(`No shard ${index}`);
      actor.own[0] = n;
      actor.totals.changed();
    },
    seen: () => [...actors.values()].map(({ totals }) => totals.tally[0]),
  };
}

test("a count that changed just before the total asked for it is reported also when that answer was lost", async () => {
  const room = createRoom(3);
  // The total sends what changed at most each 500 ms, and a shard reports as seldom.
  room.count(1, 1);
  await vi.advanceTimersByTimeAsync(100);
  room.count(0, 1);
  await vi.advanceTimersByTimeAsync(100);
  room.count(2, 1);
  await vi.advanceTimersByTimeAsync(200);
  // The shard's next report is due after the total's question, whose answer has the new count as well.
  room.count(0, 5);
  room.faults.set(0, "lost");
  await vi.advanceTimersByTimeAsync(5_000);
  expect(room.faults.size).toBe(0);
  expect(room.seen()).toEqual([7, 7, 7, 7]);
});

test("a shard that cannot be reached when the count changes gets it once it is back", async () => {
  const room = createRoom(3);
  for (const shard of [0, 1, 2]) room.count(shard, 1);
  await vi.advanceTimersByTimeAsync(5_000);
  expect(room.seen()).toEqual([3, 3, 3, 3]);
  room.faults.set(2, "down");
  room.count(0, 4);
  await vi.advanceTimersByTimeAsync(20_000);
  expect(room.seen()).toEqual([6, 6, 6, 3]);
  room.faults.delete(2);
  await vi.advanceTimersByTimeAsync(2_000);
  expect(room.seen()).toEqual([6, 6, 6, 6]);
});
