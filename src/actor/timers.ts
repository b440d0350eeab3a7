import { log } from "../log.ts";
import { afterCommit, outsideTransaction } from "./transaction.ts";

/** Storage key of the deadlines, a `Record<name, ms>`. */
const KEY = "rollcall:timers";
/**
 * The farthest that an alarm is set ahead, in ms: a token may expire in a year that the runtime
 * cannot count to, and an alarm that comes early only sets the next one.
 */
const FARTHEST_MS = 30 * 24 * 3_600_000;

/** What the row holds of handlers that throw, by their names. Not a number, so no deadline. */
const FAILING_KEY = "rollcall:failing";
/** The wait after the first failure of a handler, in ms; each later one doubles it. */
const RETRY_MS = 5_000;
const LONGEST_RETRY_MS = 3_600_000;
/** A handler that has failed for so long is given up, in ms. */
const GIVE_UP_MS = 24 * 3_600_000;
/** An alarm that would come so much too early, in ms, is moved. */
const MOVE_MS = 3_600_000;
/** The wait before the alarm is set again where that failed, in ms. */
const RESET_MS = 1_000;
/** A handler may keep the other deadlines waiting for so long, in ms. It runs on meanwhile. */
const HANDLER_MS = 5_000;

/** A handler that throws. */
export interface Failing {
  /** The first failure in a row, in ms. */
  sinceMs: number;
  failures: number;
  /** Not before, in ms; Infinity when it is given up. */
  notBeforeMs: number;
}

function isFailing(value: unknown): value is Failing {
  const { sinceMs, failures, notBeforeMs } = (value ?? {}) as Partial<Failing>;
  return [sinceMs, failures, notBeforeMs].every((one) => typeof one === "number" && one >= 0);
}

/** Waits for `promise`, but not for long: a handler that hangs must not stop the others. */
export async function waitShortly(promise: Promise<void>): Promise<void> {
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, HANDLER_MS);
  await Promise.race([promise, late]);
  clearTimeout(timer);
}

/**
 * Many named deadlines on the actor's one alarm. All names share one storage row; the alarm is moved
 * only when it must come earlier and deleted when nothing is left, since each move is a row as well.
 * A deadline set inside a transaction counts from the commit on, and not at all after a rollback.
 */
export class Timers {
  readonly #storage: DurableObjectStorage;
  /** Earliest deadline that is stored nowhere: a socket's, or the room's `dueAt`. */
  readonly #unstored: () => number | undefined;
  readonly #deadlines = new Map<string, number>();
  /** Deadlines whose handlers run now: they stay in storage until then, in case the actor dies. */
  readonly #ringing = new Map<string, number>();
  readonly #failing = new Map<string, Failing>();
  /** What the row holds besides deadlines: another release may have written it, and gets it back. */
  readonly #unknown = new Map<string, unknown>();
  /** How often this instance has set and deleted the alarm: each is a row written. */
  readonly stats = { alarmsSet: 0, alarmsDeleted: 0 };
  #alarmAt: number | null = null;

  constructor(storage: DurableObjectStorage, unstored: () => number | undefined) {
    this.#storage = storage;
    this.#unstored = unstored;
    const row: unknown = storage.kv.get(KEY);
    // The row has no version: every release takes a number in it for a deadline. So a later release
    // can add only values that are no numbers, which stay in the row.
    if (typeof row !== "object" || row === null || Array.isArray(row)) return;
    for (const [name, value] of Object.entries(row)) {
      if (name === FAILING_KEY && typeof value === "object") {
        for (const [failed, how] of Object.entries(value ?? {})) {
          if (isFailing(how)) this.#failing.set(failed, how);
        }
      } else if (typeof value !== "number") this.#unknown.set(name, value);
      else if (!Number.isNaN(value)) this.#deadlines.set(name, value);
    }
  }

  /** Reads where the alarm stands. Once, at the start of the instance. */
  async load(): Promise<void> {
    this.#alarmAt = await this.#storage.getAlarm();
    this.#arm(this.#next());
  }

  /** When the alarm comes, in ms since the epoch, or null. */
  get alarmAt(): number | null {
    return this.#alarmAt;
  }

  /** The deadline of `name`, in ms since the epoch. */
  get(name: string): number | undefined {
    return this.#deadlines.get(name);
  }

  /**
   * Sets the deadline of `name`, in place of any other.
   *
   * @param atMs ms since the epoch; a time that has passed comes at once, Infinity never
   * @throws RangeError when `atMs` is NaN, 0 or negative
   */
  set(name: string, atMs: number): void {
    check(name, atMs);
    afterCommit(() => {
      if (this.#deadlines.get(name) === atMs) return;
      this.#deadlines.set(name, atMs);
      this.#store();
      this.#arm(atMs);
    });
  }

  /** As {@link set}, but leaves an earlier deadline alone: for deadlines that mostly move away. */
  soonest(name: string, atMs: number): void {
    check(name, atMs);
    afterCommit(() => {
      const present = this.#deadlines.get(name);
      if (present === undefined || atMs < present) this.set(name, atMs);
    });
  }

  clear(name: string): void {
    afterCommit(() => {
      if (!this.#deadlines.delete(name)) return;
      this.#store();
      this.release();
    });
  }

  /** A deadline that is stored nowhere, a socket's or the room's `dueAt`, has come nearer. */
  wakeAt(atMs: number): void {
    this.#arm(atMs);
  }

  /**
   * Deadlines that are stored nowhere are over: the alarm is deleted if nothing else is due, and moved
   * if that is far away. Either is a row, as is a wake-up for nothing.
   */
  release(): void {
    if (this.#alarmAt === null) return;
    const next = this.#next();
    if (next === undefined) this.#disarm();
    else if (next - this.#alarmAt >= MOVE_MS) {
      this.#alarmAt = null;
      this.#arm(next);
    }
  }

  /**
   * @internal The alarm rang: runs the handlers of the names that are due at `now`, one by one. A
   * name stays in storage until its handler has run. One that throws is tried again, ever more rarely,
   * and given up after a day; one that hangs is not waited for.
   */
  async ring(now: number, run: (name: string) => Promise<void>): Promise<void> {
    const due = [...this.#deadlines].filter(([name, at]) => at <= now && !this.#ringing.has(name));
    for (const [name, at] of due) {
      this.#deadlines.delete(name);
      this.#ringing.set(name, at);
    }
    for (const [name] of due) {
      const done = run(name).then(
        () => this.succeeded(name),
        (error) => {
          const { notBeforeMs } = this.failed(name, error);
          if (notBeforeMs < Number.POSITIVE_INFINITY) this.soonest(name, notBeforeMs);
        },
      );
      const settled = done.finally(() => {
        this.#ringing.delete(name);
        this.#store();
      });
      await waitShortly(settled);
    }
  }

  /** A handler has thrown. @returns when to try it again */
  failed(name: string, error: unknown): Failing {
    const now = Date.now();
    const { sinceMs, failures } = this.#failing.get(name) ?? { sinceMs: now, failures: 0 };
    const isGivenUp = now - sinceMs >= GIVE_UP_MS;
    const waitMs = Math.min(RETRY_MS * 2 ** failures, LONGEST_RETRY_MS);
    const notBeforeMs = isGivenUp ? Number.POSITIVE_INFINITY : now + waitMs;
    log(isGivenUp ? "timer_given_up" : "timer_failed", { timer: name, failures, error });
    const failing = { sinceMs, failures: failures + 1, notBeforeMs };
    if (isGivenUp) this.#failing.delete(name);
    else this.#failing.set(name, failing);
    this.#store();
    return failing;
  }

  /** How a handler has failed, if its last run did. */
  failing(name: string): Failing | undefined {
    return this.#failing.get(name);
  }

  /** A handler has not thrown. */
  succeeded(name: string): void {
    if (this.#failing.delete(name)) this.#store();
  }

  /** @internal All that was due has run: sets the alarm to the next deadline. */
  rearm(): void {
    this.#alarmAt = null;
    const next = this.#next();
    // An instance that the alarm started found none standing and may have set one itself.
    if (next === undefined) this.#disarm();
    else this.#arm(next);
  }

  #next(): number | undefined {
    let next = this.#unstored() ?? Number.POSITIVE_INFINITY;
    for (const at of this.#deadlines.values()) next = Math.min(next, at);
    return next === Number.POSITIVE_INFINITY ? undefined : next;
  }

  #arm(atMs: number | undefined): void {
    if (atMs === undefined || (this.#alarmAt !== null && this.#alarmAt <= atMs)) return;
    // The runtime takes no alarm at or before 0, which a deadline of a damaged row may be.
    this.#alarmAt = Math.min(Math.max(atMs, 1), Date.now() + FARTHEST_MS);
    this.stats.alarmsSet += 1;
    const alarmAt = this.#alarmAt;
    this.#storage.setAlarm(alarmAt).catch((error: unknown) => {
      log("alarm_not_set", { error });
      // Without it no deadline would ever come again.
      if (this.#alarmAt === alarmAt) this.#alarmAt = null;
      outsideTransaction(() => setTimeout(() => this.#arm(this.#next()), RESET_MS));
    });
  }

  #disarm(): void {
    this.#alarmAt = null;
    this.stats.alarmsDeleted += 1;
    void this.#storage.deleteAlarm();
  }

  #store(): void {
    const all: [string, unknown][] = [...this.#unknown, ...this.#ringing, ...this.#deadlines];
    if (this.#failing.size > 0) all.push([FAILING_KEY, Object.fromEntries(this.#failing)]);
    if (all.length === 0) this.#storage.kv.delete(KEY);
    else this.#storage.kv.put(KEY, Object.fromEntries(all));
  }
}

function check(name: string, atMs: number): void {
  if (atMs > 0) return;
  throw new RangeError(`The deadline of ${name} must be a time in ms since the epoch, not ${atMs}`);
}
