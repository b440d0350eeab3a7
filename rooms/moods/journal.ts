import { log } from "../../src/log.ts";
import { type Segment, segmentRecord } from "./contract.ts";

/** The last that is known of a session. */
export interface Entry {
  readonly id: string;
  /** Index of its mood, or {@link GONE}: it left. */
  readonly mood: number;
  /** Time of its last heartbeat, or of its leave, in ms. */
  readonly beatAtMs: number;
}

/** In place of a mood: the session left, whatever older entries contain. */
export const GONE = 255;

/** A storage key, and the time from which its row is obsolete. */
interface Slot {
  key: string;
  freeAtMs: number;
}

/** The storage of a journal; `storage.kv` of an actor fits. */
export interface Rows {
  list<T>(options: { prefix: string }): Iterable<[string, T]>;
  put<T>(key: string, value: T): void;
  delete(key: string): boolean;
}

export interface JournalOptions {
  /** Moods of sessions are below this number. At most {@link GONE}. */
  moodCount: number;
  /** Time from a session's last heartbeat to its end, in ms. */
  ttlMs: number;
}

const PREFIX = "moods:";
/** A row with so many entries is complete, and the next row is begun: this limits what a change rewrites. */
const ROW_COMPLETE_ENTRIES = 128;
/** Entries of one row: 64 characters of two UTF-16 units each come to 1 MB, half the runtime's limit. */
const ROW_ENTRIES = 4_000;
/** Rows that may be written at once for mere heartbeats, and the number that is added per second. */
const BURST_ROWS = 20;
const ROWS_PER_SECOND = 0.2;
/** The longest time that a mere heartbeat stays unwritten, in ms, and as part of the ttl. */
const WINDOW_MS = 10_000;
const WINDOW_OF_TTL = 1 / 3;

/**
 * Stores in few rows what an eviction must not lose. Sessions expire one ttl (30 s) after their last
 * heartbeat, so a log of changes needs no compaction: a row is obsolete one ttl after it was written,
 * and is then overwritten.
 *
 * A new session, a change of mood and a leave are stored before they are answered; those that come
 * together share a row. A heartbeat that only keeps a session is stored at once as well while the
 * budget lasts (20 rows, then one in 5 s). Above it, heartbeats are buffered for a window of at most
 * 10 s, which the row before announces. If the instance dies in the window, the next one assumes that
 * every session had a heartbeat in it. So no live session is lost; in this one case a silent session
 * may be counted for up to one ttl and the window too long.
 */
export class Journal {
  /** The sessions that storage knew when this instance started, oldest heartbeat first. */
  readonly restored: readonly Entry[];
  readonly #rows: Rows;
  readonly #moodCount: number;
  readonly #ttlMs: number;
  readonly #slots: Slot[] = [];
  /** The number of the next new slot: above that of each stored row, readable or not. */
  #nextSlot = 0;
  #order = 0;
  /** The entries of the next row: unwritten ones, and those of the row that is not complete yet. */
  readonly #open = new Map<string, Entry>();
  #openSlot: Slot | null = null;
  #hasUnwritten = false;
  #commit: Promise<void> | null = null;
  #windowEndsAtMs = 0;
  #windowTimer: ReturnType<typeof setTimeout> | null = null;
  #budget = BURST_ROWS;
  #budgetedAtMs: number;

  constructor(rows: Rows, nowMs: number, { moodCount, ttlMs }: JournalOptions) {
    this.#rows = rows;
    this.#moodCount = moodCount;
    this.#ttlMs = ttlMs;
    this.#budgetedAtMs = nowMs;
    this.restored = this.#restore(nowMs);
  }

  #restore(nowMs: number): Entry[] {
    const stored: [string, Segment][] = [];
    for (const [key, value] of this.#rows.list({ prefix: PREFIX })) {
      // A row that this release cannot read keeps its slot: another release may.
      this.#nextSlot = Math.max(this.#nextSlot, Number(key.slice(PREFIX.length)) + 1 || 0);
      const segment = segmentRecord.read(value);
      if (segment) stored.push([key, segment]);
    }
    stored.sort(([, a], [, b]) => a.order - b.order);
    const latest = new Map<string, Entry>();
    for (const [key, { ids, moods, beats }] of stored) {
      this.#slots.push({ key, freeAtMs: this.#freeAtMs(beats) });
      for (const [i, id] of ids.entries()) {
        latest.set(id, { id, mood: moods[i] ?? GONE, beatAtMs: beats[i] ?? 0 });
      }
    }
    const last = stored.at(-1)?.[1];
    this.#order = last?.order ?? 0;
    // Neither gone, nor of a mood that there is no longer.
    const here = [...latest.values()].filter(({ mood }) => mood < this.#moodCount);
    if (last && last.openUntilMs > last.writtenAtMs) {
      const beatAtMs = Math.min(nowMs, last.openUntilMs);
      const alive = here.filter((entry) => entry.beatAtMs + this.#ttlMs > last.writtenAtMs);
      // The next row contains all of them with this time, and so closes the window.
      return alive.map((entry) => {
        const extended = { ...entry, beatAtMs: Math.max(entry.beatAtMs, beatAtMs) };
        this.#open.set(entry.id, extended);
        return extended;
      });
    }
    return here
      .filter((entry) => entry.beatAtMs + this.#ttlMs > nowMs)
      .sort((a, b) => a.beatAtMs - b.beatAtMs);
  }

  /** Stores a change to a session, in one row with all that come at the same time. */
  commit(entry: Entry): Promise<void> {
    this.#open.set(entry.id, entry);
    this.#hasUnwritten = true;
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
    this.#hasUnwritten = true;
    return undefined;
  }

  /** When {@link sweep} will delete the rows, in ms, if nothing else is written until then. */
  get obsoleteAtMs(): number | undefined {
    if (this.#slots.length === 0) return undefined;
    let latest = 0;
    for (const { freeAtMs } of this.#slots) latest = Math.max(latest, freeAtMs);
    for (const { beatAtMs } of this.#open.values()) {
      latest = Math.max(latest, beatAtMs + this.#ttlMs);
    }
    return latest;
  }

  /** Deletes all rows once all are obsolete. */
  sweep(nowMs: number): void {
    const { obsoleteAtMs } = this;
    if (obsoleteAtMs === undefined || obsoleteAtMs > nowMs) return;
    this.#openWindow(0, nowMs);
    this.#hasUnwritten = false;
    for (const { key } of this.#slots) this.#rows.delete(key);
    this.#slots.length = 0;
    this.#open.clear();
    this.#openSlot = null;
  }

  #write(nowMs: number): void {
    const entries = [...this.#open.values()].filter(
      ({ beatAtMs }) => beatAtMs + this.#ttlMs > nowMs,
    );
    const rows = Math.max(1, Math.ceil(entries.length / ROW_ENTRIES));
    const openUntilMs = this.#spend(rows, nowMs);
    for (let row = 0; row < rows; row++) {
      const slot = (row === 0 && this.#openSlot) || this.#freeSlot(nowMs);
      const columns = toColumns(entries.slice(row * ROW_ENTRIES, (row + 1) * ROW_ENTRIES));
      this.#order += 1;
      const segment = { ...columns, order: this.#order, writtenAtMs: nowMs, openUntilMs };
      this.#rows.put(slot.key, segmentRecord.write(segment));
      slot.freeAtMs = this.#freeAtMs(columns.beats);
      this.#openSlot = slot;
    }
    this.#hasUnwritten = false;
    this.#openWindow(openUntilMs, nowMs);
    this.#open.clear();
    if (entries.length >= ROW_COMPLETE_ENTRIES) this.#openSlot = null;
    else for (const entry of entries) this.#open.set(entry.id, entry);
  }

  /** Pays for `rows`. @returns until when heartbeats must then wait, in ms, or 0 */
  #spend(rows: number, nowMs: number): number {
    const earned = (Math.max(0, nowMs - this.#budgetedAtMs) / 1000) * ROWS_PER_SECOND;
    this.#budget = Math.min(BURST_ROWS, this.#budget + earned) - rows;
    this.#budgetedAtMs = nowMs;
    if (this.#budget >= 1) return 0;
    const waitMs = ((1 - this.#budget) / ROWS_PER_SECOND) * 1000;
    return nowMs + Math.min(waitMs, this.#longestWindowMs);
  }

  get #longestWindowMs(): number {
    return Math.min(WINDOW_MS, this.#ttlMs * WINDOW_OF_TTL);
  }

  #openWindow(endsAtMs: number, nowMs: number): void {
    if (this.#windowTimer !== null) clearTimeout(this.#windowTimer);
    this.#windowEndsAtMs = endsAtMs;
    this.#windowTimer =
      endsAtMs > 0 ? setTimeout(() => this.#closeWindow(), endsAtMs - nowMs) : null;
  }

  /** Writes the buffered heartbeats, or that there are none: else the next start would assume some. */
  #closeWindow(): void {
    const nowMs = Date.now();
    try {
      // Silence settles the debt: the heartbeat that ends it is written at once.
      if (!this.#hasUnwritten) this.#budget = Math.max(this.#budget, 2);
      this.#write(nowMs);
    } catch (error) {
      log("moods_not_stored", { error });
      this.#openWindow(nowMs + this.#longestWindowMs, nowMs);
    }
  }

  #freeSlot(nowMs: number): Slot {
    let slot = this.#slots.find(({ freeAtMs }) => freeAtMs <= nowMs);
    if (!slot) {
      slot = { key: PREFIX + this.#nextSlot, freeAtMs: 0 };
      this.#nextSlot += 1;
      this.#slots.push(slot);
    }
    return slot;
  }

  /** When the last of these heartbeats is too long ago to count. */
  #freeAtMs(beats: Float64Array): number {
    return beats.reduce((latest, beat) => Math.max(latest, beat), 0) + this.#ttlMs;
  }
}

function toColumns(entries: readonly Entry[]): Pick<Segment, "ids" | "moods" | "beats"> {
  return {
    ids: entries.map(({ id }) => id),
    moods: Uint8Array.from(entries, ({ mood }) => mood),
    beats: Float64Array.from(entries, ({ beatAtMs }) => beatAtMs),
  };
}
