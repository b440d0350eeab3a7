import type { StandardSchemaV1 } from "@standard-schema/spec";
import type { Entry } from "./log.ts";
import { defineRecord } from "./record.ts";

/** A key answers with the first result for so long, in ms. */
const IDEMPOTENCY_MS = 600_000;
/** Least time between two clean-ups of old keys by publishes, in ms. */
const CLEAN_UP_MS = 60_000;
/** Storage key of the answer to an idempotency key. */
const PREFIX = "answer:";
/**
 * UTF-16 units of an answer in one row; a longer one takes several. At two bytes each, the first row has
 * place for the envelope as well: 2 MB are the runtime's limit.
 */
const ANSWER_UNITS = 600_000;

/** The answer under an idempotency key, in storage: one row, or the first of several. */
interface Answer {
  digest: string;
  answer: string;
  /** Whose key it is; absent in rows of earlier releases. */
  publisher?: string;
  /** Rows that the answer takes. */
  rows: number;
  expiresAtMs: number;
  /** The envelope, in the first row, with its number in the log and that of the event before. */
  envelope?: { seq: number; prev: number; atMs: number; text: string };
}

const schema: StandardSchemaV1<unknown, Answer> = {
  "~standard": {
    version: 1,
    vendor: "rollcall",
    validate(value) {
      const { digest, answer, publisher, rows, expiresAtMs, envelope } = value as Partial<Answer>;
      const { seq, prev, atMs, text } = envelope ?? { seq: 0, prev: 0, atMs: 0, text: "" };
      const isValid =
        [digest, answer, publisher ?? "", text].every((one) => typeof one === "string") &&
        [rows, seq, prev].every(Number.isSafeInteger) &&
        [expiresAtMs, atMs].every((one) => typeof one === "number");
      return isValid ? { value: value as Answer } : { issues: [{ message: "Not an answer" }] };
    },
  },
};
const answerRecord = defineRecord<Answer>({ version: 1, schema });

/** A key under which a publisher sends a message once. */
export interface IdempotencyKey {
  key: string;
  /** Differs when the same key comes with another body. */
  digest: string;
  /** Whose key it is. Absent from a Worker of an earlier release, whose publishers shared all keys. */
  publisher?: string | undefined;
}

function rowOf(key: string, row: number): string {
  return `${PREFIX}${row}:${key}`;
}

/** The first publish with a key. */
export interface Published extends Omit<IdempotencyKey, "key"> {
  expiresAtMs: number;
  /** Its envelope, which takes no row of its own that way; undefined where none are kept. */
  envelope: Entry | undefined;
}

/** The answers to publishes with idempotency keys, in storage. */
export class Answers {
  readonly #storage: DurableObjectStorage;
  readonly #historyMs: number;
  #cleanedUpMs = 0;

  /** @param historyMs how long an envelope is kept */
  constructor(storage: DurableObjectStorage, historyMs: number) {
    this.#storage = storage;
    this.#historyMs = historyMs;
  }

  /** When a key that is used at `now` (ms) counts as new again, in ms. */
  expiryOf(now: number): number {
    if (now - this.#cleanedUpMs >= CLEAN_UP_MS) this.forgetOld(now);
    return now + IDEMPOTENCY_MS;
  }

  /**
   * The name under which a publisher's key is stored: the key itself, which earlier releases find too,
   * unless another publisher has used it.
   */
  nameOf(key: string, publisher: string | undefined): string {
    if (publisher === undefined) return key;
    const now = Date.now();
    const own = `${key}\0${publisher}`;
    // It may outlive the other publisher's answer.
    const second = this.#read(own, 0);
    if (second && second.expiresAtMs > now) return own;
    const first = this.#read(key, 0);
    const isOthers =
      first?.publisher !== undefined && first.publisher !== publisher && first.expiresAtMs > now;
    return isOthers ? own : key;
  }

  #read(name: string, row: number) {
    return answerRecord.read(this.#storage.kv.get(rowOf(name, row)));
  }

  keep(name: string, { publisher, envelope, ...kept }: Published, answer: string): void {
    const rows = Math.ceil(answer.length / ANSWER_UNITS);
    this.#storage.transactionSync(() => {
      for (let row = 0; row < rows; row++) {
        const part = answer.slice(row * ANSWER_UNITS, (row + 1) * ANSWER_UNITS);
        const stored = answerRecord.write({
          ...kept,
          answer: part,
          rows,
          ...(publisher !== undefined && { publisher }),
          ...(row === 0 && envelope && { envelope: toStored(envelope) }),
        });
        this.#storage.kv.put(rowOf(name, row), stored);
      }
    });
  }

  recall(name: string): { digest: string; answer: string } | undefined {
    const first = this.#read(name, 0);
    if (!first || first.expiresAtMs <= Date.now()) return undefined;
    let { answer } = first;
    for (let row = 1; row < first.rows; row++) {
      const next = this.#read(name, row);
      // Half an answer is none: the key counts as new.
      if (!next) return undefined;
      answer += next.answer;
    }
    return { digest: first.digest, answer };
  }

  /** Deletes what has expired. Rows that are no answers stay. @returns whether any answer is left */
  forgetOld(now: number): boolean {
    this.#cleanedUpMs = now;
    return this.#storage.transactionSync(() => {
      let isAnyLeft = false;
      for (const [row, stored] of this.#storage.kv.list({ prefix: PREFIX })) {
        const kept = answerRecord.read(stored);
        if (!kept) continue;
        const envelopeEndsMs = (kept.envelope?.atMs ?? Number.NEGATIVE_INFINITY) + this.#historyMs;
        if (Math.max(kept.expiresAtMs, envelopeEndsMs) <= now) this.#storage.kv.delete(row);
        else isAnyLeft = true;
      }
      return isAnyLeft;
    });
  }

  deleteAll(): void {
    const { kv } = this.#storage;
    for (const [row] of kv.list({ prefix: PREFIX })) kv.delete(row);
  }
}

function toStored({ seq, prev = 0, atMs, text }: Entry) {
  return { seq, prev, atMs, text };
}

/** The envelopes that were stored with their publishers' keys. */
export function* storedEnvelopes(storage: DurableObjectStorage): Iterable<Entry> {
  for (const [, stored] of storage.kv.list({ prefix: rowOf("", 0) })) {
    const envelope = answerRecord.read(stored)?.envelope;
    if (envelope) yield { ...envelope, target: { only: [] }, isRooms: true };
  }
}
