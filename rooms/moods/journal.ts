import { log } from "../../src/log.ts";
import { segmentRecord } from "./contract.ts";
import type { Guest } from "./headcount.ts";

/** The last that is known of a session: its last heartbeat, or its leave with the mood {@link GONE}. */
export type Entry = Readonly<Pick<Guest, "id" | "mood" | "beatAtMs">>;

/** In place of a mood: the session left, whatever older entries contain. */
export const GONE = 255;

/** The storage of a journal; `storage.kv` of an actor fits. */
export interface Rows {
  list<T>(options: { prefix: string }): Iterable<[string, T]>;
  put<T>(key: string, value: T): void;
  delete(key: string): boolean;
}

const PREFIX = "moods:";
/** A row with so many entries is complete, and the next row is begun: this limits what a change rewrites. */
const ROW_COMPLETE_ENTRIES = 128;
/** Entries of one row: 64 characters of two UTF-16 units each come to 1 MB, half the runtime's limit. */
const ROW_ENTRIES = 4_000;
/** Rows that may be written at once for mere heartbeats, and the time in which one is added, in ms. */
const BURST_ROWS = 20;
const ROW_MS = 5_000;
/** The longest time that a mere heartbeat stays unwritten, in ms; at most a third of the ttl. */
const WINDOW_MS = 10_000;

/**
 * Stores in few rows what an eviction must not lose. Sessions expire one ttl (30 s) after their last
 * heartbeat, so nothing needs compaction: one ttl after it was written, a row is overwritten.
 *
 * A new session, a change of mood and a leave are stored before they are answered, and so is a
 * heartbeat that only keeps a session while the budget lasts (20 rows, then one in 5 s). Those that
 * come together share a row. Above the budget, heartbeats are buffered for a window of at most 10 s,
 * which the row before announces. If the instance dies in the window, the next one assumes that every
 * session had a heartbeat in it: no live session is lost, but a silent one may be counted too long,
 * for up to one ttl and the window.
 */
export class Journal {
  /** The sessions that storage knew when this instance started, oldest heartbeat first. */
  readonly restored: readonly Entry[];
  readonly #rows: Rows;
  readonly #ttlMs: number;
  /** By the key of a row, when its last entry is obsolete, in ms. */
  readonly #obsoleteAtMs = new Map<string, number>();
  /** The number of the last row. No key has a higher one, not even that of a row that cannot be read. */
  #order = 0;
  readonly #unwritten = new Map<string, Entry>();
  /** The last row, unless it is complete. */
  #open: { key: string; entries: readonly Entry[] } | undefined;
  #commit: Promise<void> | undefined;
  /** Until then, in ms, heartbeats wait. */
  #windowEndsAtMs = 0;
  #windowTimer: ReturnType<typeof setTimeout> | undefined;
  /** Each row uses up some time: the budget is what is left between this time, in ms, and now. */
  #spentMs = 0;

  /** @param options the time to live, and the number of moods: an entry of another one is no session */
  constructor(rows: Rows, nowMs: number, options: { moodCount: number; ttlMs: number }) {
    this.#rows = rows;
    this.#ttlMs = options.ttlMs;
    this.restored = this.#restore(nowMs, options.moodCount);
  }

  #restore(nowMs: number, moodCount: number): Entry[] {
    const stored = [...this.#rows.list({ prefix: PREFIX })].flatMap(([key, value]) => {
      const segment = segmentRecord.read(value);
      const number = Number(key.slice(PREFIX.length)) || 0;
      this.#order = Math.max(this.#order, number, segment?.order ?? 0);
      return segment ? [{ ...segment, key }] : [];
    });
    stored.sort((a, b) => a.order - b.order);
    const latest = new Map<string, Entry>();
    for (const { key, ids, moods, beats } of stored) {
      this.#obsoleteAtMs.set(key, Math.max(0, ...beats) + this.#ttlMs);
      for (const [i, id] of ids.entries()) {
        latest.set(id, { id, mood: moods[i] ?? GONE, beatAtMs: beats[i] ?? 0 });
      }
    }
    const { writtenAtMs = 0, openUntilMs = 0 } = stored.at(-1) ?? {};
    const isOpen = openUntilMs > writtenAtMs;
    const assumedMs = isOpen ? Math.min(nowMs, openUntilMs) : 0;
    const sinceMs = (isOpen ? writtenAtMs : nowMs) - this.#ttlMs;
    const alive = [...latest.values()]
      .filter(({ mood, beatAtMs }) => mood < moodCount && beatAtMs > sinceMs)
      .map((entry) => ({ ...entry, beatAtMs: Math.max(entry.beatAtMs, assumedMs) }))
      .sort((a, b) => a.beatAtMs - b.beatAtMs);
    // The next row contains all of them with this time, and so closes the window.
    if (isOpen) for (const entry of alive) this.#unwritten.set(entry.id, entry);
    return alive;
  }

  /** Stores a change to a session, in one row with all that come at the same time. */
  commit(entry: Entry): Promise<void> {
    this.#unwritten.set(entry.id, entry);
    this.#commit ??= new Promise((resolve) => setTimeout(resolve, 0)).then(() => {
      this.#commit = undefined;
      this.#write(Date.now());
    });
    return this.#commit;
  }

  /** Stores that a session goes on, as soon as the budget allows. */
  async keep(entry: Entry, nowMs: number): Promise<void> {
    this.#unwritten.set(entry.id, entry);
    if (nowMs >= this.#windowEndsAtMs) await this.commit(entry);
  }

  /** When {@link sweep} will delete the rows, in ms, if nothing else is written until then. */
  get obsoleteAtMs(): number | undefined {
    return this.#obsoleteAtMs.size > 0 ? Math.max(...this.#obsoleteAtMs.values()) : undefined;
  }

  /** Deletes all rows once all are obsolete. To be called only where no session has a heartbeat. */
  sweep(nowMs: number): void {
    if ((this.obsoleteAtMs ?? Number.POSITIVE_INFINITY) > nowMs) return;
    for (const key of this.#obsoleteAtMs.keys()) this.#rows.delete(key);
    this.#obsoleteAtMs.clear();
    this.#unwritten.clear();
    this.#open = undefined;
    this.#openWindow(0, nowMs);
  }

  #write(nowMs: number): void {
    const latest = new Map(this.#open?.entries.map((entry) => [entry.id, entry]));
    for (const [id, entry] of this.#unwritten) latest.set(id, entry);
    const entries = [...latest.values()].filter(({ beatAtMs }) => beatAtMs + this.#ttlMs > nowMs);
    const rows = Math.max(1, Math.ceil(entries.length / ROW_ENTRIES));
    const openUntilMs = this.#spend(rows, nowMs);
    let key = this.#open?.key ?? this.#freeKey(nowMs);
    for (let row = 0; row < rows; row++) {
      if (row > 0) key = this.#freeKey(nowMs);
      const part = entries.slice(row * ROW_ENTRIES, (row + 1) * ROW_ENTRIES);
      this.#order += 1;
      const segment = {
        ...{ order: this.#order, writtenAtMs: nowMs, openUntilMs },
        ids: part.map(({ id }) => id),
        moods: Uint8Array.from(part, ({ mood }) => mood),
        beats: Float64Array.from(part, ({ beatAtMs }) => beatAtMs),
      };
      this.#rows.put(key, segmentRecord.write(segment));
      this.#obsoleteAtMs.set(key, Math.max(0, ...segment.beats) + this.#ttlMs);
    }
    this.#open = entries.length < ROW_COMPLETE_ENTRIES ? { key, entries } : undefined;
    this.#unwritten.clear();
    this.#openWindow(openUntilMs, nowMs);
  }

  /** Spends the budget of `rows`. @returns until when heartbeats must then wait, in ms, or 0 */
  #spend(rows: number, nowMs: number): number {
    this.#spentMs = Math.max(this.#spentMs, nowMs - BURST_ROWS * ROW_MS) + rows * ROW_MS;
    const nextAtMs = this.#spentMs + ROW_MS;
    const longestMs = Math.min(WINDOW_MS, this.#ttlMs / 3);
    return nextAtMs > nowMs ? Math.min(nextAtMs, nowMs + longestMs) : 0;
  }

  #freeKey(nowMs: number): string {
    for (const [key, obsoleteAtMs] of this.#obsoleteAtMs) if (obsoleteAtMs <= nowMs) return key;
    return PREFIX + (this.#order + 1);
  }

  #openWindow(endsAtMs: number, nowMs: number): void {
    if (this.#windowTimer !== undefined) clearTimeout(this.#windowTimer);
    this.#windowEndsAtMs = endsAtMs;
    if (endsAtMs > 0)
      this.#windowTimer = setTimeout(() => this.#closeWindow(nowMs), endsAtMs - nowMs);
  }

  /** Writes the heartbeats since `sinceMs`, or that there are none: else the next start assumes some. */
  #closeWindow(sinceMs: number): void {
    const nowMs = Date.now();
    // Silence settles the debt: the heartbeat that ends it is written at once.
    if (this.#unwritten.size === 0) this.#spentMs = Math.min(this.#spentMs, sinceMs - 2 * ROW_MS);
    try {
      this.#write(nowMs);
    } catch (error) {
      log("moods_not_stored", { error });
      this.#openWindow(nowMs + WINDOW_MS, nowMs);
    }
  }
}
