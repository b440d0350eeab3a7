import type * as z from "zod/mini";
import { type CallableRoom, type CallTarget, call } from "../../src/actor/call.ts";
import { log } from "../../src/log.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { type Others, othersOf, type Report, type ShardCalls } from "./contract.ts";
import { sumTallies, type Tally, totalName } from "./tally.ts";

/** A report, and a shard's count of the others, are at most this old each: together within 1 s. */
export const REPORT_INTERVAL_MS = 500;
/** After a failure, the time until the next attempt, in ms. */
export const RETRY_MS = 1_000;
/** Time for a shard to answer the total, in ms, and for the total, which may ask shards first. */
export const SHARD_TIMEOUT_MS = 2_000;
const TOTAL_TIMEOUT_MS = 2 * SHARD_TIMEOUT_MS;

/** What a count needs of its actor and its deployment. */
export interface CountHost {
  readonly shards: number;
  readonly moodCount: number;
  /** Time from a session's last heartbeat to its end, in ms. */
  readonly ttlMs: number;
  /** Path of the room's upgrade. */
  readonly websocketPath: string;
  /** The actor of this name. */
  stub(name: string): CallTarget & { fetch(request: Request): Promise<Response> };
  /** Whether a socket here receives the count. */
  hasListeners(): boolean;
  /** Keeps the actor awake until `promise` settles. */
  keep(promise: Promise<unknown>): void;
  /** Calls {@link Shard.report} at `atMs`, even if the actor sleeps meanwhile. */
  reportAt(atMs: number): void;
  /** The global count, or {@link GlobalCount.dueAtMs}, may have changed. */
  onNews(): void;
}

/** The count of all shards, as one actor knows it. */
export interface GlobalCount {
  /** As far as it is known now. */
  readonly tally: Tally;
  /** Resolves when {@link tally} is at most a second old. */
  refresh(): Promise<void>;
  /** The own count, or whether a socket here receives it, has changed. */
  changed(): void;
  /** When to call {@link refresh} even if nobody asks, in ms. */
  readonly dueAtMs: number | undefined;
}

/** A tally as a text, to compare. */
export const keyOf = (tally: Tally) => tally.join();

/** The rest of a pause of `intervalMs` since `sinceMs`, in ms; right even if the clock was set back. */
export const remaining = (intervalMs: number, sinceMs: number) =>
  Math.min(Math.max(sinceMs + intervalMs - Date.now(), 0), intervalMs);

/** The calls between the actors. */
export const callShard = (stub: CallTarget) => call<CallableRoom<ShardCalls>>(stub);

/** An answer within `limitMs`: an actor that does not answer must not block those that ask it. */
export function withTimeout<T>(limitMs: number, answer: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const late = () => reject(new RollcallError("timeout", "An actor did not answer in time"));
    const timer = setTimeout(late, limitMs);
    answer.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/** The only shard: its count is the global count. */
export class SingleShard implements GlobalCount {
  readonly tally: Tally;
  readonly dueAtMs = undefined;

  constructor(own: Tally) {
    this.tally = own;
  }

  async refresh(): Promise<void> {}
  changed(): void {}
}

/** One shard of several: its own count, and the count of the others as the total sent it. */
export class Shard implements GlobalCount {
  readonly dueAtMs = undefined;
  readonly #host: CountHost;
  readonly #index: number;
  readonly #own: Tally;
  readonly #schema: z.ZodMiniType<Others>;
  #others: Others | null = null;
  #othersAtMs = 0;
  #reporting: Promise<void> | null = null;
  #reportedAtMs = 0;
  #isUnreported = false;
  #isScheduled = false;

  constructor(host: CountHost, index: number, own: Tally) {
    this.#host = host;
    this.#index = index;
    this.#own = own;
    this.#schema = othersOf(host.moodCount);
  }

  get tally(): Tally {
    return sumTallies(this.#host.moodCount, [this.#own, this.#others?.tally ?? []]);
  }

  /** @throws RollcallError `unavailable` when the total does not answer and never has */
  async refresh(): Promise<void> {
    if (Date.now() - this.#othersAtMs < REPORT_INTERVAL_MS) return;
    try {
      await this.report();
    } catch (error) {
      if (!this.#others) throw new RollcallError("unavailable", "The total does not answer");
      log("moods_total_unreachable", { error });
    }
  }

  changed(): void {
    this.#isUnreported = true;
    if (this.#isScheduled || this.#reporting) return;
    this.#isScheduled = true;
    setTimeout(
      () => {
        this.#isScheduled = false;
        if (this.#isUnreported) this.#host.keep(this.report());
      },
      remaining(REPORT_INTERVAL_MS, this.#reportedAtMs),
    );
  }

  /** Sends the own count to the total, whose answer is the count of the others. A failure is retried. */
  report(): Promise<void> {
    this.#reporting ??= this.#exchange().finally(() => {
      this.#reporting = null;
      if (this.#isUnreported) this.changed();
    });
    return this.#reporting;
  }

  async #exchange(): Promise<void> {
    this.#reportedAtMs = Date.now();
    const total = callShard(this.#host.stub(totalName(this.#host.shards)));
    try {
      const answer = await withTimeout(TOTAL_TIMEOUT_MS, total.report(this.ownReport()));
      this.receive(this.#schema.parse(answer));
    } catch (error) {
      this.#host.reportAt(Date.now() + RETRY_MS);
      throw error;
    }
  }

  ownReport(): Report {
    this.#isUnreported = false;
    const watched = this.#host.hasListeners();
    return { shard: this.#index, tally: [...this.#own], watched, atMs: Date.now() };
  }

  /** The count of the others, from the total. */
  receive(others: Others): void {
    if (this.#others && this.#others.version > others.version) return;
    const isNews = keyOf(others.tally) !== keyOf(this.#others?.tally ?? []);
    this.#others = others;
    this.#othersAtMs = Date.now();
    if (isNews) this.#host.onNews();
  }
}
