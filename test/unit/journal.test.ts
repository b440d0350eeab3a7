import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { type Entry, GONE, Journal, type Rows } from "../../rooms/moods/journal.ts";
import { MOODS, SESSION_TTL_MS } from "../../rooms/moods/tally.ts";

/** The longest time that heartbeats may stay unwritten, in ms: after a crash they are assumed. */
const WINDOW_MS = 10_000;
const STEADY_ROWS_PER_SECOND = 0.2;
const BURST_ROWS = 20;
const OPTIONS = { moodCount: MOODS.length, ttlMs: SESSION_TTL_MS };

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

/** Storage as an actor has it: values are copied. */
class Storage implements Rows {
  rows = new Map<string, unknown>();
  puts = 0;
  fails = false;

  /** The same storage for the next instance; timers of the last one may fire, but reach nothing. */
  after(): Storage {
    const next = new Storage();
    next.rows = this.rows;
    this.rows = new Map();
    return next;
  }

  *list<T>({ prefix }: { prefix: string }): Generator<[string, T]> {
    for (const [key, value] of this.rows) {
      if (key.startsWith(prefix)) yield [key, structuredClone(value) as T];
    }
  }

  put<T>(key: string, value: T): void {
    if (this.fails) throw new Error("The disk is full");
    this.puts += 1;
    this.rows.set(key, structuredClone(value));
  }

  delete(key: string): boolean {
    return this.rows.delete(key);
  }
}

/** The room's part: it knows the sessions, and calls the journal for them. */
class Room {
  storage = new Storage();
  readonly truth = new Map<string, Entry>();
  /** The sessions that this instance knows: after a crash it may assume heartbeats that never came. */
  known = new Map<string, Entry>();
  journal = new Journal(this.storage, Date.now(), OPTIONS);

  async pass(ms: number): Promise<void> {
    await vi.advanceTimersByTimeAsync(ms);
    const now = Date.now();
    for (const entries of [this.truth, this.known]) {
      for (const [id, { beatAtMs }] of entries) {
        if (beatAtMs + SESSION_TTL_MS <= now) entries.delete(id);
      }
    }
    if (this.known.size === 0) this.journal.sweep(now);
  }

  async beat(id: string, mood: number): Promise<void> {
    const entry = { id, mood, beatAtMs: Date.now() };
    const isNews = this.known.get(id)?.mood !== mood;
    this.truth.set(id, entry);
    this.known.set(id, entry);
    await this.#answered(
      isNews ? this.journal.commit(entry) : this.journal.keep(entry, entry.beatAtMs),
    );
  }

  async leave(id: string): Promise<void> {
    this.truth.delete(id);
    if (!this.known.delete(id)) return;
    await this.#answered(this.journal.commit({ id, mood: GONE, beatAtMs: Date.now() }));
  }

  async #answered(stored: Promise<void> | undefined): Promise<void> {
    await Promise.all([stored, vi.advanceTimersByTimeAsync(0)]);
  }

  /** Memory is lost, with all that was not written. */
  crash(): void {
    this.storage = this.storage.after();
    this.journal = new Journal(this.storage, Date.now(), OPTIONS);
    this.known = new Map(this.journal.restored.map((entry) => [entry.id, entry]));
  }
}

type Step =
  | { do: "beat"; who: number; mood: number }
  | { do: "beat again" | "leave"; who: number }
  | { do: "pass"; ms: number }
  | { do: "crash" };

const who = fc.nat(5);
const step = fc.oneof<fc.WeightedArbitrary<Step>[]>(
  { weight: 2, arbitrary: fc.record({ do: fc.constant("beat"), who, mood: fc.nat(3) }) },
  { weight: 8, arbitrary: fc.record({ do: fc.constant("beat again"), who }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("leave"), who }) },
  {
    weight: 8,
    arbitrary: fc.record({ do: fc.constant("pass"), ms: fc.integer({ min: 1, max: 6_000 }) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("crash") }) },
);

describe("after a crash", () => {
  /** @returns whether everything was exact */
  function check(room: Room, before: ReadonlyMap<string, Entry>): boolean {
    const now = Date.now();
    for (const [id, { mood, beatAtMs }] of room.truth) {
      const entry = room.known.get(id);
      expect(entry, `${id} lives`).toMatchObject({ id, mood });
      expect(entry?.beatAtMs).toBeGreaterThanOrEqual(beatAtMs);
    }
    let isExact = true;
    for (const [id, { beatAtMs, mood }] of room.known) {
      const older = before.get(id);
      isExact &&= older?.beatAtMs === beatAtMs;
      if (!older) {
        // It had expired; to storage this looks like a heartbeat in the window.
        expect(room.truth.has(id)).toBe(false);
        expect(mood).not.toBe(GONE);
      } else {
        expect(beatAtMs).toBeLessThanOrEqual(Math.max(older.beatAtMs, now));
        expect(beatAtMs - older.beatAtMs).toBeLessThan(SESSION_TTL_MS + WINDOW_MS);
      }
    }
    return isExact;
  }

  test("live sessions are here, in the right mood; sessions that left are not; none stays 40 s too long", async () => {
    let inexact = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 150, size: "max" }), async (steps) => {
        const room = new Room();
        const left = new Set<string>();
        for (const one of [...steps, { do: "crash" } as const]) {
          const id = "who" in one ? `s${one.who}` : "";
          if (one.do === "pass") await room.pass(one.ms);
          else if (one.do === "leave") {
            // An expired session that leaves is no news: it may come back like any silent one.
            if (room.known.has(id)) left.add(id);
            await room.leave(id);
          } else if (one.do === "crash") {
            const before = room.known;
            room.crash();
            if (!check(room, before)) inexact += 1;
            for (const id of left) expect(room.known.has(id)).toBe(false);
          } else {
            await room.beat(id, one.do === "beat" ? one.mood : (room.known.get(id)?.mood ?? 1));
            left.delete(id);
          }
        }
        // Nothing is left behind.
        await room.pass(SESSION_TTL_MS + 2 * WINDOW_MS);
        await room.pass(SESSION_TTL_MS + WINDOW_MS);
        expect(room.storage.rows.size).toBe(0);
      }),
      { numRuns: 150 },
    );
    // Else the bounds above were never tested.
    expect(inexact).toBeGreaterThan(0);
  });

  test("everything is exact while the budget of rows lasts", async () => {
    const room = new Room();
    for (let beat = 0; beat < BURST_ROWS - 1; beat++) {
      await room.beat(`s${beat % 5}`, 0);
      await room.pass(1_500);
      const before = new Map(room.known);
      expect(check(room, before)).toBe(true);
    }
    const before = room.known;
    room.crash();
    expect([...room.known.values()].sort((a, b) => (a.id < b.id ? -1 : 1))).toEqual(
      [...before.values()].sort((a, b) => (a.id < b.id ? -1 : 1)),
    );
  });
});

test("heartbeats that only keep sessions cost rows by the time, not by their number", async () => {
  const room = new Room();
  for (let i = 0; i < 200; i++) await room.beat(`s${i}`, 0);
  const before = room.storage.puts;
  for (let tick = 0; tick < 1_200; tick++) {
    await room.beat(`s${tick % 200}`, 0);
    await room.pass(100);
  }
  const rows = room.storage.puts - before;
  expect(rows).toBeGreaterThan(0);
  expect(rows).toBeLessThanOrEqual(BURST_ROWS + 120 * STEADY_ROWS_PER_SECOND);
});

test("sessions that come at the same time share a row", async () => {
  const storage = new Storage();
  const journal = new Journal(storage, Date.now(), OPTIONS);
  const entries = Array.from({ length: 100 }, (_, i) => ({
    id: `s${i}`,
    mood: i % 4,
    beatAtMs: Date.now(),
  }));
  const stored = Promise.all(entries.map((entry) => journal.commit(entry)));
  await vi.advanceTimersByTimeAsync(0);
  await stored;
  expect(storage.puts).toBe(1);
  expect(new Journal(storage, Date.now(), OPTIONS).restored).toEqual(entries);
});

test("a change that could not be stored is refused, and stored with the next one", async () => {
  const storage = new Storage();
  const journal = new Journal(storage, Date.now(), OPTIONS);
  storage.fails = true;
  const refused = expect(
    journal.commit({ id: "a", mood: 0, beatAtMs: Date.now() }),
  ).rejects.toThrow("full");
  await vi.advanceTimersByTimeAsync(0);
  await refused;
  storage.fails = false;
  const stored = journal.commit({ id: "b", mood: 1, beatAtMs: Date.now() });
  await vi.advanceTimersByTimeAsync(0);
  await stored;
  const restored = new Journal(storage, Date.now(), OPTIONS).restored.map(({ id }) => id);
  expect(restored).toEqual(["a", "b"]);
});

describe("rows of other releases", () => {
  const row = (order: number, id: string) => ({
    order,
    writtenAtMs: Date.now(),
    openUntilMs: 0,
    ids: [id],
    moods: Uint8Array.of(1),
    beats: Float64Array.of(Date.now()),
  });
  const restoredFrom = (storage: Storage) =>
    new Journal(storage, Date.now(), OPTIONS).restored.map(({ id }) => id);

  test("without a version, and with a later one, are read", () => {
    const storage = new Storage();
    storage.put("moods:0", row(1, "before"));
    storage.put("moods:1", { ...row(2, "later"), v: 2, note: "unknown" });
    expect(restoredFrom(storage)).toEqual(["before", "later"]);
  });

  test("that cannot be read are skipped, and neither overwritten nor deleted", async () => {
    const storage = new Storage();
    const damaged = { ...row(1, "damaged"), beats: new Float64Array(2) };
    const timeless = { ...row(4, "timeless"), beats: Float64Array.of(Number.NaN) };
    const other = { v: 2, order: 3, entries: "in another shape" };
    storage.put("moods:0", damaged);
    storage.put("moods:1", row(2, "a"));
    storage.put("moods:2", other);
    storage.put("moods:x", "no row");
    storage.put("moods:y", timeless);
    expect(restoredFrom(storage)).toEqual(["a"]);

    const journal = new Journal(storage, Date.now(), OPTIONS);
    for (let i = 0; i < 300; i += 150) {
      const beatAtMs = Date.now();
      const commits = Array.from({ length: 150 }, (_, n) =>
        journal.commit({ id: `s${i + n}`, mood: 0, beatAtMs }),
      );
      await vi.advanceTimersByTimeAsync(0);
      await Promise.all(commits);
    }
    expect(new Set(restoredFrom(storage)).size).toBe(301);
    await vi.advanceTimersByTimeAsync(2 * SESSION_TTL_MS);
    journal.sweep(Date.now());
    expect(storage.rows).toEqual(
      new Map<string, unknown>([
        ["moods:0", damaged],
        ["moods:2", other],
        ["moods:x", "no row"],
        ["moods:y", timeless],
      ]),
    );
  });

  test("lose the sessions of a mood that there is no longer", () => {
    const storage = new Storage();
    storage.put("moods:0", row(1, "a"));
    const journal = new Journal(storage, Date.now(), { ...OPTIONS, moodCount: 1 });
    expect(journal.restored).toEqual([]);
  });
});
