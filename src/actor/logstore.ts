import type { StandardSchemaV1 } from "@standard-schema/spec";
import { log as report } from "../log.ts";
import type { Entry, Gap, Log, LogOptions, Marks } from "./log.ts";
import { defineRecord } from "./record.ts";
import { outsideTransaction } from "./transaction.ts";

/** Storage keys of the log's rows: a ring, so that rows are written again instead of deleted. */
const PREFIX = "rollcall:log:";
/** Size from which a row is full, in UTF-16 units: each event is written with all before it in its row. */
const ROW_UNITS = 32_768;
/** The most that a row can take, in UTF-16 units: at two bytes each, 2 MB is the runtime's limit. */
const LONGEST_ROW_UNITS = 900_000;
/** Least time between two rows of a log that is not durable, in ms. */
const STORE_MS = 5_000;

/** A row of the log. */
interface Row<L> {
  /** Rows of a log are numbered as they begin. */
  order: number;
  /** It holds all events after this number, and before the next row. */
  from: number;
  entries: Entry[];
  /** What was true when the row was written last. */
  marks: Marks;
  floor: { seq: number; cause: Gap };
  lost: L[];
  generation: string;
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
}

/** What an earlier instance stored. */
export interface Stored<L> {
  entries: Entry[];
  marks: Marks;
  floor: { seq: number; cause: Gap };
  lost: L[];
  sealed: boolean;
  generation: string;
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
    if (!newest) return undefined;
    // A row that is missing, or damaged, ends what is known.
    const known = rows.filter(({ order }, i) => order === newest.order - i);
    const from = known.at(-1)?.from ?? newest.from;
    const { marks, lost, sealed, generation } = newest;
    const floor = from > newest.floor.seq ? { seq: from, cause: "trimmed" as const } : newest.floor;
    const entries = known
      .reverse()
      .flatMap((row) => row.entries)
      .filter(({ seq }) => seq > floor.seq);
    this.#order = newest.order;
    this.#from = newest.from;
    this.#entries = newest.entries;
    this.#units = unitsOf(newest.entries);
    this.#storedSeq = marks.eventSeq;
    return { entries, marks, floor, lost, sealed, generation };
  }

  /** The lost sessions are others now. */
  lostChanged(): void {
    this.#isLostChanged = true;
    this.flush();
  }

  /** Before frames are sent: stores what has to be stored by now. */
  flush(): void {
    const { log, options } = this.#host;
    const isChanged = this.#isLostChanged || log.eventSeq > this.#storedSeq;
    if (!isChanged) return;
    if (!options.durable && !this.#isLostChanged && !this.#host.isNeeded()) return;
    const waitMs = options.durable ? 0 : this.#storedAtMs + STORE_MS - Date.now();
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
        const units = entry.text.length;
        if (this.#units >= ROW_UNITS || this.#units + units > LONGEST_ROW_UNITS) {
          if (this.#units + units > LONGEST_ROW_UNITS) this.#put([]);
          this.#beginRow(this.#storedSeq);
        }
        this.#entries.push(entry);
        this.#units += units;
        this.#storedSeq = entry.seq;
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
    const { floor } = log;
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
    };
    storage.kv.put(PREFIX + (this.#order % this.#slots), record.write(row));
  }

  /** Deletes the rows of a log that nobody can read any more. */
  deleteAll(): void {
    if (this.#order < 0) return;
    for (const [key] of this.#host.storage.kv.list({ prefix: PREFIX })) {
      this.#host.storage.kv.delete(key);
    }
    this.#order = -1;
  }
}

function unitsOf(entries: readonly Entry[]): number {
  return entries.reduce((units, { text }) => units + text.length, 0);
}
