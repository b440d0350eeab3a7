import { type Change, type ChangeDraft, type Chunk, chunkRecord, headRecord } from "./contract.ts";

const HEAD_KEY = "changes:head";
const CHUNK_PREFIX = "changes:at:";
/** Sorts behind all keys of chunks. */
const CHUNK_END = "changes:at;";
/** Changes in one row. */
const CHUNK = 50;
/** Rows that are kept, and for how long, in ms. */
const CHUNKS = 200;
const AGE_MS = 7 * 24 * 3_600_000;
const OFFSET_DIGITS = 16;

function keyOf(first: number): string {
  return CHUNK_PREFIX + `${first}`.padStart(OFFSET_DIGITS, "0");
}

/** A cursor of {@link Change}s as text: `<epoch>:<offset>`. */
export interface ChangeCursor {
  epoch: string;
  offset: number;
}

/** @returns undefined for a text that is none */
export function parseChangeCursor(text: string): ChangeCursor | undefined {
  const [, epoch = "", digits = ""] = /^([0-9a-z]{1,64}):(\d{1,15})$/.exec(text) ?? [];
  return epoch === "" ? undefined : { epoch, offset: Number(digits) };
}

/**
 * The changes of a room's roster, in storage, each with its offset: 1, 2, 3 … They are written in packed
 * rows, in the transaction that changes the roster.
 */
export class ChangeLog {
  readonly #storage: DurableObjectStorage;
  readonly #room: string;
  readonly epoch: string;
  /** Whether it has just begun. */
  readonly isNew: boolean;
  #newest: Chunk = { index: 0, first: 1, changes: [] };

  constructor(storage: DurableObjectStorage, room: string) {
    this.#storage = storage;
    this.#room = room;
    const head = headRecord.read(storage.kv.get(HEAD_KEY));
    const [last] = storage.kv.list({
      start: CHUNK_PREFIX,
      end: CHUNK_END,
      reverse: true,
      limit: 1,
    });
    const chunk = last && chunkRecord.read(last[1]);
    // Offsets must not be given twice: where they cannot be known, they begin anew.
    this.isNew = head === undefined || (last !== undefined && chunk === undefined);
    if (!this.isNew && head) {
      this.epoch = head.epoch;
      if (chunk) this.#newest = chunk;
      return;
    }
    ChangeLog.drop(storage);
    this.epoch = crypto.randomUUID().replaceAll("-", "").slice(0, 12);
    storage.kv.put(HEAD_KEY, headRecord.write({ epoch: this.epoch }));
  }

  /** Deletes what is stored: it does not follow the roster any more. */
  static drop(storage: DurableObjectStorage): void {
    const { kv } = storage;
    if (kv.get(HEAD_KEY) === undefined) return;
    for (const [key] of kv.list({ start: CHUNK_PREFIX, end: CHUNK_END })) kv.delete(key);
    kv.delete(HEAD_KEY);
  }

  /** The offset of the newest change; 0 before the first. */
  get offset(): number {
    return this.#newest.first + this.#newest.changes.length - 1;
  }

  get cursor(): string {
    return `${this.epoch}:${this.offset}`;
  }

  /** Adds changes. To be called within the transaction that changes the roster. */
  append(drafts: readonly ChangeDraft[]): void {
    const before = this.#newest;
    try {
      this.#append(drafts);
    } catch (thrown) {
      // The transaction is rolled back.
      this.#newest = before;
      throw thrown;
    }
  }

  #append(drafts: readonly ChangeDraft[]): void {
    for (let from = 0; from < drafts.length; ) {
      if (this.#newest.changes.length >= CHUNK) this.#beginRow();
      const { changes, first } = this.#newest;
      const part = drafts.slice(from, from + CHUNK - changes.length);
      this.#newest = { ...this.#newest, changes: [...changes, ...part] };
      this.#storage.kv.put(keyOf(first), chunkRecord.write(this.#newest));
      from += part.length;
    }
  }

  #beginRow(): void {
    const index = this.#newest.index + 1;
    this.#newest = { index, first: this.offset + 1, changes: [] };
    const { kv } = this.#storage;
    const oldest = [...kv.list({ start: CHUNK_PREFIX, end: CHUNK_END, limit: 2 })];
    for (const [key, stored] of oldest) {
      const chunk = chunkRecord.read(stored);
      const isYoung = (chunk?.changes.at(-1)?.at ?? 0) > Date.now() - AGE_MS;
      if (chunk && isYoung && index - chunk.index < CHUNKS) return;
      kv.delete(key);
    }
  }

  /** The offset of the oldest change that is stored. */
  get firstOffset(): number {
    const [oldest] = this.#storage.kv.list({ start: CHUNK_PREFIX, end: CHUNK_END, limit: 1 });
    return (oldest && chunkRecord.read(oldest[1])?.first) ?? this.#newest.first;
  }

  /**
   * The changes after an offset, oldest first.
   *
   * @param limit how many at most
   * @returns undefined where they are not all stored
   */
  after(offset: number, limit: number): Change[] | undefined {
    if (offset > this.offset) return undefined;
    if (offset === this.offset) return [];
    const { kv } = this.#storage;
    const options = { start: CHUNK_PREFIX, end: keyOf(offset + 2), reverse: true, limit: 1 };
    const [at] = kv.list(options);
    if (!at) return undefined;
    const changes: Change[] = [];
    for (const [, stored] of kv.list({ start: at[0], end: CHUNK_END })) {
      const chunk = chunkRecord.read(stored);
      if (!chunk) return undefined;
      for (const [i, draft] of chunk.changes.entries()) {
        if (chunk.first + i > offset) changes.push(this.#toChange(chunk.first + i, draft));
      }
      if (changes.length >= limit) break;
    }
    return changes.slice(0, limit);
  }

  #toChange(offset: number, draft: ChangeDraft): Change {
    return { ...draft, room: this.#room, epoch: this.epoch, offset };
  }
}
