import { log } from "../../src/log.ts";
import { SESSION_TTL_MS } from "./tally.ts";

/** The last that is known of a session. */
export interface Entry {
  readonly id: string;
  /** Index of its mood, or {@link GONE}: it left. */
  readonly mood: number;
  /** Time of its last heartbeat, or of its leave, in ms. */
  readonly beatAtMs: number;
}

/** Instead of a mood: the session left, whatever older entries say. */
export const GONE = 255;

/** One row: what became known since the row before. */
interface Segment {
  /** Rows are read in this order: later ones win. */
  order: number;
  writtenAtMs: number;
  /** Up to then heartbeats may have come that no row knows of; 0: none has. */
  openUntilMs: number;
  ids: string[];
  moods: Uint8Array;
  beats: Float64Array;
}

/** A storage key, and when nothing in its row matters any more. */
interface Slot {
  key: string;
  freeAtMs: number;
}

/** What the journal needs of an actor's storage; `storage.kv` fits. */
export interface Rows {
  list<T>(options: { prefix: string }): Iterable<[string, T]>;
  put<T>(key: string, value: T): void;
  delete(key: string): boolean;
}

const PREFIX = "moods:";
/** Entries after which a row is left alone and the next one begun: bounds what a change rewrites. */
const SEALED_ENTRIES = 128;
/** Entries of one row: 64 characters of two UTF-16 units each come to 1 MB, half the runtime's limit. */
const ROW_ENTRIES = 4_000;
/** Rows that may be written at once for mere heartbeats, and how many more per second. */
const BURST_ROWS = 20;
const ROWS_PER_SECOND = 0.2;
/** The longest that a mere heartbeat stays unwritten, in ms. */
const LONGEST_WINDOW_MS = 10_000;

/**
 * What an eviction must not lose, in few rows. Sessions expire 30 s after their last heartbeat, so a
 * log of what changed needs no compaction: a row is worthless 30 s after it was written, and is then
 * written over.
 *
 * A new session, a mood, a leave are in storage before their answer; those that come together share
 * a row. A heartbeat that only keeps a session here is, too, while the budget lasts (20 rows, then one
 * in 5 s). Beyond it, heartbeats gather in memory for a window of at most 10 s, which the row
 * before announces: should the instance die in it, the next one knows that any session may have
 * beaten meanwhile, and gives all of them the time they would have had. So nobody living is lost;
 * who was silent may stay up to 30 s and the window too long, in that case alone.
 */
export class Journal {
  /** What storage knew when this instance started: sessions that may live, oldest heartbeat first. */
  readonly restored: readonly Entry[];
  readonly #rows: Rows;
  readonly #slots: Slot[] = [];
  #order = 0;
  /** What the next row holds: all that is unwritten, and what the unsealed row already says. */
  readonly #open = new Map<string, Entry>();
  #openSlot: Slot | null = null;
  #dirty = false;
  #commit: Promise<void> | null = null;
  #windowEndsAtMs = 0;
  #windowTimer: ReturnType<typeof setTimeout> | null = null;
  #budget = BURST_ROWS;
  #budgetedAtMs: number;

  constructor(rows: Rows, nowMs: number) {
    this.#rows = rows;
    this.#budgetedAtMs = nowMs;
    this.restored = this.#restore(nowMs);
  }

  #restore(nowMs: number): Entry[] {
    const stored = [...this.#rows.list<Segment>({ prefix: PREFIX })].sort(
      ([, a], [, b]) => a.order - b.order,
    );
    const latest = new Map<string, Entry>();
    for (const [key, { ids, moods, beats }] of stored) {
      this.#slots.push({ key, freeAtMs: freeAtMs(beats) });
      for (const [i, id] of ids.entries()) {
        latest.set(id, { id, mood: moods[i] ?? GONE, beatAtMs: beats[i] ?? 0 });
      }
    }
    const last = stored.at(-1)?.[1];
    this.#order = last?.order ?? 0;
    const here = [...latest.values()].filter(({ mood }) => mood !== GONE);
    if (last && last.openUntilMs > last.writtenAtMs) {
      const beatAtMs = Math.min(nowMs, last.openUntilMs);
      const alive = here.filter((entry) => entry.beatAtMs + SESSION_TTL_MS > last.writtenAtMs);
      // The next row says this of all of them, and closes the window for good.
      return alive.map((entry) => {
        const extended = { ...entry, beatAtMs: Math.max(entry.beatAtMs, beatAtMs) };
        this.#open.set(entry.id, extended);
        return extended;
      });
    }
    return here
      .filter((entry) => entry.beatAtMs + SESSION_TTL_MS > nowMs)
      .sort((a, b) => a.beatAtMs - b.beatAtMs);
  }

  /** Stores what changed about a session, in one row with all that comes at the same time. */
  commit(entry: Entry): Promise<void> {
    this.#open.set(entry.id, entry);
    this.#dirty = true;
    this.#commit ??= new Promise((resolve, reject) => {
      setTimeout(() => {
        this.#commit = null;
        try {
          this.#write(Date.now());
          resolve();
        } catch (error) {
          reject(error);
        }
      }, 0);
    });
    return this.#commit;
  }

  /** Stores that a session goes on, as soon as the budget allows. */
  keep(entry: Entry, nowMs: number): Promise<void> | undefined {
    if (nowMs >= this.#windowEndsAtMs) return this.commit(entry);
    this.#open.set(entry.id, entry);
    this.#dirty = true;
    return undefined;
  }

  /** When {@link sweep} has something to do, in ms, if nothing else is written until then. */
  get obsoleteAtMs(): number | undefined {
    if (this.#slots.length === 0) return undefined;
    let latest = 0;
    for (const { freeAtMs } of this.#slots) latest = Math.max(latest, freeAtMs);
    for (const { beatAtMs } of this.#open.values()) {
      latest = Math.max(latest, beatAtMs + SESSION_TTL_MS);
    }
    return latest;
  }

  /** Deletes all rows once none of them matters. */
  sweep(nowMs: number): void {
    const { obsoleteAtMs } = this;
    if (obsoleteAtMs === undefined || obsoleteAtMs > nowMs) return;
    this.#openWindow(0, nowMs);
    this.#dirty = false;
    for (const { key } of this.#slots) this.#rows.delete(key);
    this.#slots.length = 0;
    this.#open.clear();
    this.#openSlot = null;
  }

  #write(nowMs: number): void {
    const entries = [...this.#open.values()].filter(
      ({ beatAtMs }) => beatAtMs + SESSION_TTL_MS > nowMs,
    );
    const rows = Math.max(1, Math.ceil(entries.length / ROW_ENTRIES));
    const openUntilMs = this.#spend(rows, nowMs);
    for (let row = 0; row < rows; row++) {
      const slot = (row === 0 && this.#openSlot) || this.#freeSlot(nowMs);
      const segment = toSegment(entries.slice(row * ROW_ENTRIES, (row + 1) * ROW_ENTRIES));
      this.#order += 1;
      this.#rows.put(slot.key, {
        ...segment,
        order: this.#order,
        writtenAtMs: nowMs,
        openUntilMs,
      } satisfies Segment);
      slot.freeAtMs = freeAtMs(segment.beats);
      this.#openSlot = slot;
    }
    this.#dirty = false;
    this.#openWindow(openUntilMs, nowMs);
    this.#open.clear();
    if (entries.length >= SEALED_ENTRIES) this.#openSlot = null;
    else for (const entry of entries) this.#open.set(entry.id, entry);
  }

  /** Pays for `rows`; says until when heartbeats must then wait, or 0. */
  #spend(rows: number, nowMs: number): number {
    const earned = (Math.max(0, nowMs - this.#budgetedAtMs) / 1000) * ROWS_PER_SECOND;
    this.#budget = Math.min(BURST_ROWS, this.#budget + earned) - rows;
    this.#budgetedAtMs = nowMs;
    if (this.#budget >= 1) return 0;
    const waitMs = ((1 - this.#budget) / ROWS_PER_SECOND) * 1000;
    return nowMs + Math.min(waitMs, LONGEST_WINDOW_MS);
  }

  #openWindow(endsAtMs: number, nowMs: number): void {
    if (this.#windowTimer !== null) clearTimeout(this.#windowTimer);
    this.#windowEndsAtMs = endsAtMs;
    this.#windowTimer =
      endsAtMs > 0 ? setTimeout(() => this.#closeWindow(), endsAtMs - nowMs) : null;
  }

  /** Writes what has gathered, or that nothing has: without it the next start would not know. */
  #closeWindow(): void {
    const nowMs = Date.now();
    try {
      // Silence settles the debt: the heartbeat that ends it is to be written at once.
      if (!this.#dirty) this.#budget = Math.max(this.#budget, 2);
      this.#write(nowMs);
    } catch (error) {
      log("moods_not_stored", { error });
      this.#openWindow(nowMs + LONGEST_WINDOW_MS, nowMs);
    }
  }

  #freeSlot(nowMs: number): Slot {
    let slot = this.#slots.find(({ freeAtMs }) => freeAtMs <= nowMs);
    if (!slot) {
      slot = { key: `${PREFIX}${this.#slots.length}`, freeAtMs: 0 };
      this.#slots.push(slot);
    }
    return slot;
  }
}

/** When the youngest of these heartbeats is too long ago to count. */
function freeAtMs(beats: Float64Array): number {
  return beats.reduce((latest, beat) => Math.max(latest, beat), 0) + SESSION_TTL_MS;
}

function toSegment(entries: readonly Entry[]): Pick<Segment, "ids" | "moods" | "beats"> {
  return {
    ids: entries.map(({ id }) => id),
    moods: Uint8Array.from(entries, ({ mood }) => mood),
    beats: Float64Array.from(entries, ({ beatAtMs }) => beatAtMs),
  };
}
