import type { StandardSchemaV1 } from "@standard-schema/spec";
import { log as report } from "../log.ts";
import type { Entry, Floor, Log, LogOptions, Marks } from "./log.ts";
import { defineRecord } from "./record.ts";
import { outsideTransaction } from "./transaction.ts";

/** Storage keys of the log's rows: a ring, so that rows are written again instead of deleted. */
const PREFIX = "rollcall:log:";
/** Size from which a row is full, in UTF-16 units: each event is written with all before it in its row. */
const ROW_UNITS = 8_192;
/** The most that a row can take, in UTF-16 units: at two bytes each, 2 MB is the runtime's limit. */
const LONGEST_ROW_UNITS = 900_000;
/** Least time between two rows of a log that is not durable, in ms. */
const STORE_MS = 5_000;
/** Rows that hold nothing any more are deleted within this time, in ms. */
const DELETE_MS = 24 * 3_600_000;

/** A row of the log. */
interface Row<L> {
  /** Rows of a log are numbered as they begin. */
  order: number;
  /** It holds all events after this number, and before the next row. */
  from: number;
  entries: Entry[];
  /** What was true when the row was written last. */
  marks: Marks;
  floor: Floor;
  lost: L[];
  generation: string;
  /** Other actors had all events up to this number. Absent: all, or the room is one actor. */
  relayed?: number | undefined;
  /**
   * Nothing can have happened since that is not stored: nobody was connected any more, and every
   * event after it would have been written.
   */
  sealed: boolean;
}

function isRow(value: unknown): value is Row<unknown> {
  const { order, from, entries, marks, floor, lost, sealed, generation } = value as Partial<
    Row<unknown>
  >;
  return (
    Number.isSafeInteger(order) &&
    Number.isSafeInteger(from) &&
    Array.isArray(entries) &&
    Array.isArray(lost) &&
    Array.isArray(marks?.channels) &&
    Number.isSafeInteger(floor?.seq) &&
    typeof sealed === "boolean" &&
    typeof generation === "string"
  );
}

const schema: StandardSchemaV1<unknown, Row<unknown>> = {
  "~standard": {
    version: 1,
    vendor: "rollcall",
    validate: (value) =>
      isRow(value) ? { value } : { issues: [{ message: "Not a row of a log" }] },
  },
};
const record = defineRecord<Row<unknown>>({ version: 1, schema });

/** The generation of a durable log that has stored nothing: its numbers begin with 1. */
export const FIRST_GENERATION = "0".repeat(8);

/** What a log that is stored needs of its actor. */
export interface LogStoreHost<L> {
  readonly storage: DurableObjectStorage;
  readonly log: Log;
  readonly options: LogOptions;
  /** The sessions without a socket, as they are stored. */
  lost(): L[];
  /** Whether a session may have to read the log after this instance. */
  isNeeded(): boolean;
  /** Whether a client of protocol 3 is connected. */
  isConnected(): boolean;
  generation(): string;
  /** Events that the room has stored with rows of its own. */
  roomsEntries(): Iterable<Entry>;
  wakeAt(atMs: number): void;
}

/** What an earlier instance stored. */
export interface Stored<L> {
  entries: Entry[];
  marks: Marks;
  floor: Floor;
  lost: L[];
  sealed: boolean;
  generation: string;
  relayed?: number | undefined;
}

/** Keeps a log in storage: all of it if it is durable, else while a session is lost. */
export class LogStore<L> {
  readonly #host: LogStoreHost<L>;
  readonly #slots: number;
  /** The row that is being filled. */
  #order = -1;
  #from = 0;
  #entries: Entry[] = [];
  #units = 0;
  /** Events up to this number are stored. */
  #storedSeq = 0;
  /** When the newest event that was stored happened, in ms. */
  #newestMs = 0;
  /** The rows hold no event. */
  #isEmpty = true;
  #storedAtMs = Number.NEGATIVE_INFINITY;
  /** The lost sessions have changed since. */
  #isLostChanged = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(host: LogStoreHost<L>) {
    this.#host = host;
    this.#slots = Math.ceil(host.options.bytes / ROW_UNITS) + 2;
  }

  /** Reads what the last instance stored; undefined when there is nothing. */
  load(): Stored<L> | undefined {
    const rows: Row<L>[] = [];
    for (const [, value] of this.#host.storage.kv.list({ prefix: PREFIX })) {
      const row = record.read(value) as Row<L> | undefined;
      if (row) rows.push(row);
    }
    const newest = rows.sort((a, b) => b.order - a.order)[0];
    const rooms = [...this.#host.roomsEntries()];
    if (!newest) return rooms.length === 0 ? undefined : merge(FIRST, rooms);
    // A row that is missing, or damaged, ends what is known.
    const known = rows.filter(({ order }, i) => order === newest.order - i);
    const from = known.at(-1)?.from ?? newest.from;
    const { marks, lost, sealed, generation, relayed } = newest;
    const floor = from > newest.floor.seq ? { seq: from, cause: "trimmed" as const } : newest.floor;
    const entries = known.reverse().flatMap((row) => row.entries);
    this.#order = newest.order;
    this.#from = newest.from;
    this.#entries = newest.entries;
    this.#units = unitsOf(newest.entries);
    this.#storedSeq = marks.eventSeq;
    this.#newestMs = newest.entries.at(-1)?.atMs ?? 0;
    this.#isEmpty = entries.length === 0;
    return merge({ entries, marks, floor, lost, sealed, generation, relayed }, rooms);
  }

  /** The lost sessions are others now. */
  lostChanged(): void {
    this.#isLostChanged = true;
    this.flush();
  }

  /** Before frames are sent: stores what has to be stored by now. */
  flush(): void {
    const { log, options, isConnected } = this.#host;
    const isChanged = this.#isLostChanged || log.ownSeq > this.#storedSeq;
    if (!isChanged) return;
    if (!options.durable && !this.#isLostChanged && !this.#host.isNeeded()) return;
    // A row that is sealed promises that what follows is stored as well.
    const isAtOnce = options.durable || !isConnected();
    const waitMs = isAtOnce ? 0 : this.#storedAtMs + STORE_MS - Date.now();
    if (waitMs <= 0) {
      this.#store();
      return;
    }
    this.#timer ??= outsideTransaction(() =>
      setTimeout(() => this.#store(), Math.min(waitMs, STORE_MS)),
    );
  }

  #store(): void {
    if (this.#timer !== undefined) clearTimeout(this.#timer);
    this.#timer = undefined;
    const { log } = this.#host;
    this.#isLostChanged = false;
    this.#storedAtMs = Date.now();
    try {
      if (log.floor.seq > this.#storedSeq || this.#order < 0) this.#beginRow(log.floor.seq);
      for (const entry of log.after(this.#storedSeq)) {
        if (entry.isRooms) continue;
        const units = entry.text.length;
        if (this.#units >= ROW_UNITS || this.#units + units > LONGEST_ROW_UNITS) {
          if (this.#units + units > LONGEST_ROW_UNITS) this.#put([]);
          this.#beginRow(this.#storedSeq);
        }
        this.#entries.push(entry);
        this.#units += units;
        this.#storedSeq = entry.seq;
        this.#newestMs = entry.atMs;
      }
      this.#put(this.#host.lost());
    } catch (error) {
      // Sessions that need what was not stored get the reason `restarted`.
      report("log_not_stored", { error });
    }
  }

  #beginRow(from: number): void {
    this.#order += 1;
    this.#from = from;
    this.#entries = [];
    this.#units = 0;
    this.#storedSeq = Math.max(this.#storedSeq, from);
  }

  #put(lost: L[]): void {
    const { log, storage, isConnected, generation } = this.#host;
    const floor = log.storedFloor;
    if (this.#entries[0] && this.#entries[0].seq <= floor.seq) {
      this.#entries = this.#entries.filter(({ seq }) => seq > floor.seq);
    }
    const row: Row<L> = {
      order: this.#order,
      from: this.#from,
      entries: this.#entries,
      marks: log.marks(),
      floor,
      lost,
      sealed: !isConnected(),
      generation: generation(),
      ...(log.relayedSeq !== undefined && { relayed: log.relayedSeq }),
    };
    storage.kv.put(PREFIX + (this.#order % this.#slots), record.write(row));
    if (this.#entries.length === 0) return;
    this.#isEmpty = false;
    this.#host.wakeAt(this.deleteAtMs);
  }

  /** When rows that hold nothing any more are to be deleted, in ms; Infinity where there are none. */
  get deleteAtMs(): number {
    if (this.#order < 0 || this.#isEmpty) return Number.POSITIVE_INFINITY;
    return this.#newestMs + Math.max(DELETE_MS, this.#host.options.ageMs);
  }

  /** Deletes what has expired. What a durable log needs for its numbers stays: an empty row. */
  sweep(now: number): void {
    if (now >= this.deleteAtMs && this.#host.lost().length === 0) this.clear();
  }

  /** Deletes all events. */
  clear(): void {
    const { storage, log, options } = this.#host;
    log.clear();
    for (const [key] of storage.kv.list({ prefix: PREFIX })) storage.kv.delete(key);
    this.#order = -1;
    this.#isEmpty = true;
    if (!options.durable) return;
    this.#beginRow(log.seq);
    this.#put(this.#host.lost());
  }
}

const FIRST: Stored<never> = {
  entries: [],
  marks: { seq: 0, eventSeq: 0, rest: 0, channels: [] },
  floor: { seq: 0, cause: "trimmed" },
  lost: [],
  sealed: false,
  generation: FIRST_GENERATION,
};

/** Adds what the room has stored. An event that is missing between two ends what is known. */
function merge<L>(stored: Stored<L>, rooms: readonly Entry[]): Stored<L> {
  const all = [...stored.entries, ...rooms].sort((a, b) => a.seq - b.seq);
  let { floor } = stored;
  for (const [i, { prev }] of all.entries()) {
    const before = Math.max(all[i - 1]?.seq ?? 0, floor.seq);
    if (prev !== undefined && prev > before) floor = { seq: prev, cause: "trimmed" };
  }
  const lastSeq = all.at(-1)?.seq ?? 0;
  const seq = Math.max(stored.marks.seq, lastSeq);
  const eventSeq = Math.max(stored.marks.eventSeq, lastSeq);
  const entries = all.filter((entry) => entry.seq > floor.seq);
  return { ...stored, entries, floor, marks: { ...stored.marks, seq, eventSeq } };
}

function unitsOf(entries: readonly Entry[]): number {
  return entries.reduce((units, { text }) => units + text.length, 0);
}
