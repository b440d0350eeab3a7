import type { Gap, Reader } from "./log.ts";

/** Answers of a session that are kept. */
const ANSWERS = 100;
/** UTF-16 units of all of them. */
const ANSWER_UNITS = 262_144;
/** Channels that a session has left and whose events it may still have to receive. */
const LEFT_CHANNELS = 100;

/** What is kept with a session of protocol 3, beside its socket. */
export interface StoredReader {
  /** Has 128 random bits; a resume repeats it. */
  epoch: string;
  openSeq: number;
  directSeq: number;
  /** The number of the last answer to one of its emits. */
  answerSeq: number;
  /** The number of the last frame that is not kept, since the client needs only the newest. */
  snapshotSeq: number;
  joined?: Record<string, number>;
  left?: [channel: string, from: number, to: number][];
  /** The ids of emits whose handlers ran when it was stored. */
  running?: string[];
}

/** An answer that was sent, or null while the handler runs. */
type KeptAnswer = { seq: number; text: string } | null;

/** Digits of the parts of an epoch: random ones, the log's generation, and a check sum. */
const RANDOM_DIGITS = 32;
const PART_DIGITS = 8;

export function randomDigits(count: number): string {
  return (crypto.randomUUID() + crypto.randomUUID()).replaceAll("-", "").slice(0, count);
}

/** FNV-1a as eight digits. It proves nothing: it tells a name of ours from one that was made up. */
function checkSum(text: string): string {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) {
    hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193) >>> 0;
  }
  return hash.toString(16).padStart(PART_DIGITS, "0");
}

/** @param generation differs whenever the actor has lost its log */
export function makeEpoch(actor: string, session: string, generation: string): string {
  const epoch = randomDigits(RANDOM_DIGITS) + generation;
  return epoch + checkSum(actor + session + epoch);
}

/** The generation of an epoch that this actor gave to this session; undefined for any other text. */
export function generationOf(actor: string, session: string, epoch: string): string | undefined {
  const body = epoch.slice(0, -PART_DIGITS);
  if (checkSum(actor + session + body) !== epoch.slice(-PART_DIGITS)) return undefined;
  return body.slice(RANDOM_DIGITS);
}

/** What a session of protocol 3 has been sent, as far as a resume needs it. */
export class SessionReader implements Reader {
  readonly id: string;
  readonly epoch: string;
  openSeq: number;
  directSeq: number;
  restoredSeq = 0;
  answerSeq: number;
  snapshotSeq: number;
  joined: Record<string, number> | undefined;
  left: [channel: string, from: number, to: number][] | undefined;
  channels: readonly string[] = [];
  /**
   * Until then (ms) an emit with an unknown id may be one that ran before a crash, so that it cannot be
   * run again.
   */
  unsureUntilMs = 0;
  /** Emits whose handlers ran in an earlier instance, which may have ended them or not. */
  readonly #interrupted: ReadonlySet<string>;
  readonly #answers = new Map<string, KeptAnswer>();
  #answerUnits = 0;
  /** Up to this number it cannot be known what the client missed, and why. */
  #floor: { seq: number; cause: Gap };

  private constructor(id: string, stored: StoredReader) {
    this.id = id;
    this.epoch = stored.epoch;
    this.openSeq = stored.openSeq;
    this.directSeq = stored.directSeq;
    this.answerSeq = stored.answerSeq;
    this.snapshotSeq = stored.snapshotSeq;
    this.joined = stored.joined;
    this.left = stored.left;
    this.#interrupted = new Set(stored.running);
    this.#floor = { seq: stored.answerSeq, cause: "restarted" };
  }

  /** @param seq the last number before it connected */
  static create(id: string, epoch: string, seq: number): SessionReader {
    return new SessionReader(id, {
      epoch,
      openSeq: seq,
      directSeq: seq,
      answerSeq: 0,
      snapshotSeq: 0,
    });
  }

  /** Undefined when `stored` is damaged: the session then ends with its socket. */
  static restore(id: string, stored: unknown): SessionReader | undefined {
    const { epoch, openSeq, directSeq, answerSeq, snapshotSeq, running } = (stored ??
      {}) as Partial<StoredReader>;
    const numbers = [openSeq, directSeq, answerSeq, snapshotSeq];
    const isValid =
      typeof epoch === "string" &&
      numbers.every(Number.isSafeInteger) &&
      (running === undefined || Array.isArray(running));
    if (!isValid) return undefined;
    const reader = new SessionReader(id, stored as StoredReader);
    reader.restoredSeq = reader.directSeq;
    return reader;
  }

  toStored(): StoredReader {
    const { epoch, openSeq, directSeq, answerSeq, snapshotSeq, joined, left } = this;
    const running = [...this.#interrupted];
    for (const [id, answer] of this.#answers) if (answer === null) running.push(id);
    return {
      ...{ epoch, openSeq, directSeq, answerSeq, snapshotSeq },
      ...(joined && { joined }),
      ...(left && { left }),
      ...(running.length > 0 && { running }),
    };
  }

  /** Events after `seq` are for it. */
  opened(seq: number): void {
    this.openSeq = seq;
    this.joined = undefined;
    this.left = undefined;
  }

  /** Its page is new, and knows nothing of the answers before. */
  reload(): void {
    this.#answers.clear();
    this.#answerUnits = 0;
  }

  /** Its channels change after the event number `seq`. */
  moveTo(channels: readonly string[], seq: number): void {
    const before = new Set(this.channels);
    const after = new Set(channels);
    for (const channel of before) {
      if (after.has(channel)) continue;
      const from = this.joined?.[channel] ?? this.openSeq;
      this.left = [...(this.left ?? []), [channel, from, seq]];
      if (this.joined) delete this.joined[channel];
    }
    for (const channel of after) {
      if (!before.has(channel)) this.joined = { ...this.joined, [channel]: seq };
    }
    if (this.left && this.left.length > LEFT_CHANNELS) {
      const [, , to] = this.left.shift() as [string, number, number];
      this.#floor = { seq: Math.max(this.#floor.seq, to), cause: "trimmed" };
    }
    this.channels = channels;
  }

  /** Whether `epoch` is this session's, in a time that does not depend on where they differ. */
  hasEpoch(epoch: string): boolean {
    let difference = epoch.length ^ this.epoch.length;
    for (let i = 0; i < this.epoch.length; i++) {
      difference |= this.epoch.charCodeAt(i) ^ epoch.charCodeAt(i);
    }
    return difference === 0;
  }

  // ── Answers to its emits ────────────────────────────────────────────────────────────────────

  /**
   * An emit with this id came in.
   *
   * @returns undefined when it is new; null while its handler runs; else the answer it was given
   */
  begin(id: string): KeptAnswer | undefined {
    const known = this.#answers.get(id);
    if (known === undefined) this.#answers.set(id, null);
    return known;
  }

  /** Whether an emit with an id that is not known may have run before, at `now` (ms). */
  mayHaveRun(id: string, now: number): boolean {
    return now < this.unsureUntilMs || this.#interrupted.has(id);
  }

  isAnswered(id: string): boolean {
    return Boolean(this.#answers.get(id));
  }

  /** The answers after the number `seq` are in the log, and will be given to {@link answer} now. */
  answersSince(seq: number): void {
    if (seq < this.#floor.seq) this.#floor = { seq, cause: "trimmed" };
  }

  /** Keeps the answer to the emit `id`: a frame that has the number `seq`. */
  answer(id: string, seq: number, text: string): void {
    this.answerSeq = seq;
    const old = this.#answers.get(id);
    if (old) this.#answerUnits -= old.text.length;
    this.#answers.delete(id);
    this.#answers.set(id, { seq, text });
    this.#answerUnits += text.length;
    for (const [oldest, kept] of this.#answers) {
      if (this.#answers.size <= ANSWERS && this.#answerUnits <= ANSWER_UNITS) break;
      if (kept === null) continue;
      this.#answers.delete(oldest);
      this.#answerUnits -= kept.text.length;
      this.#floor = { seq: kept.seq, cause: "trimmed" };
    }
  }

  /** The answers after the number `after`, oldest first; or why they are not all known. */
  answersAfter(after: number): { seq: number; text: string }[] | Gap {
    const { seq, cause } = this.#floor;
    if (after < seq) return cause;
    return [...this.#answers.values()].filter((kept) => kept !== null && kept.seq > after) as {
      seq: number;
      text: string;
    }[];
  }
}
