import { log } from "../log.ts";
import { Failures, isSettledSoon, PATIENCE_MS } from "./retry.ts";
import { afterCommit, outsideTransaction } from "./transaction.ts";

/** Storage key of the deadlines, a `Record<name, ms>`. */
const KEY = "rollcall:timers";
/** What the row holds of handlers that fail, by their names. Not a number, so no deadline. */
const FAILING_KEY = "rollcall:failing";
/** The name of `onDue` among handlers that run or fail. No timer can have it. */
const DUE = "";
/** Length of a timer's name: a row has little room for many. */
const NAME_LENGTH = 256;
/**
 * The farthest that an alarm is set ahead, in ms: a token may expire in a year that the runtime
 * cannot count to, and an alarm that comes early only sets the next one.
 */
const FARTHEST_MS = 30 * 24 * 3_600_000;
/** An alarm that would come so much too early, in ms, is moved. */
const MOVE_MS = 3_600_000;
/** The wait before the alarm is set again where that failed, in ms; each further time doubles it. */
const RESET_MS = 1_000;
const LONGEST_RESET_MS = 60_000;

/** What the timers of an actor need of it. */
interface Host {
  /** The earliest deadline of its sessions, which are stored nowhere, in ms; Infinity for none. */
  nextDeadline(): number;
  /** When {@link onDue} must run, in ms. It may throw: it is the room's. */
  dueAt(): number | undefined;
  onDue(): unknown;
  /** Runs the room's handler of a deadline that has come. */
  onTimer(name: string): unknown;
}

/**
 * Many named deadlines on the actor's one alarm. All names share one storage row; the alarm is moved
 * only when it must come earlier and deleted when nothing is left, since each move is a row as well.
 * A deadline set inside a transaction counts from the commit on, and not at all after a rollback.
 *
 * A handler that throws, or does not end, is tried again ever more rarely, and given up after a day.
 * Meanwhile its own deadlines wait, and nobody else's do.
 */
export class Timers {
  readonly #storage: DurableObjectStorage;
  readonly #host: Host;
  readonly #deadlines = new Map<string, number>();
  /** Handlers that run now, with the deadlines that stay in storage until then in case the actor dies. */
  readonly #running = new Map<string, number | undefined>();
  readonly #failures: Failures;
  /** What the row holds besides deadlines: another release may have written it, and gets it back. */
  readonly #unknown = new Map<string, unknown>();
  /** How often this instance has set and deleted the alarm: each is a row written. */
  readonly stats = { alarmsSet: 0, alarmsDeleted: 0 };
  /** What the last alarm of this instance had been set to, in ms since the epoch, if one has rung. */
  rangAt: number | undefined;
  #alarmAt: number | null = null;
  /** How often the row and the alarm were written. */
  #moves = 0;
  /** How often setting the alarm has failed in a row. */
  #resets = 0;

  /** @param label names the room in the log */
  constructor(storage: DurableObjectStorage, label: string, host: Host) {
    this.#storage = storage;
    this.#host = host;
    this.#failures = new Failures(label);
    const row: unknown = storage.kv.get(KEY);
    // The row has no version: every release takes a number in it for a deadline. So a later release
    // can add only values that are no numbers, which stay in the row.
    if (typeof row !== "object" || row === null || Array.isArray(row)) return;
    const entries = Object.entries(row);
    this.#failures.restore(entries.find(([name]) => name === FAILING_KEY)?.[1]);
    for (const [name, value] of entries) {
      if (name === FAILING_KEY) continue;
      if (typeof value !== "number") this.#unknown.set(name, value);
      else if (!Number.isNaN(value) && value !== this.#failures.retryMs(name)) {
        this.#deadlines.set(name, value);
      }
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

  /** The deadline of `name`, in ms since the epoch; the next try of a handler that failed. */
  get(name: string): number | undefined {
    return this.#failures.retryMs(name) ?? this.#deadlines.get(name);
  }

  /**
   * Sets the deadline of `name`, in place of any other. While its handler fails, it waits for the next
   * try.
   *
   * @param name 1–256 characters
   * @param atMs ms since the epoch; a time that has passed comes at once, Infinity never
   * @throws RangeError when `atMs` is no time, NaN, 0 or negative, or the name too long
   */
  set(name: string, atMs: number): void {
    check(name, atMs);
    afterCommit(() => this.#set(name, atMs));
  }

  /** As {@link set}, but leaves an earlier deadline alone: for deadlines that mostly move away. */
  soonest(name: string, atMs: number): void {
    check(name, atMs);
    afterCommit(() => {
      const present = this.#deadlines.get(name);
      if (present === undefined || atMs < present) this.#set(name, atMs);
    });
  }

  #set(name: string, atMs: number): void {
    const before = this.#deadlines.get(name);
    if (before === atMs) return;
    this.#deadlines.set(name, atMs);
    try {
      this.#store();
    } catch (thrown) {
      // A row that is too big: without this none could be stored any more.
      if (before === undefined) this.#deadlines.delete(name);
      else this.#deadlines.set(name, before);
      throw thrown;
    }
    if (!this.#running.has(name)) this.#arm(this.get(name));
  }

  /** Removes a deadline. */
  clear(name: string): void {
    afterCommit(() => {
      const isKnown = this.#deadlines.delete(name);
      if (!this.#failures.delete(name) && !isKnown) return;
      this.#store();
      this.release();
    });
  }

  /**
   * A deadline that is stored nowhere, a socket's or the room's `dueAt`, has come nearer.
   *
   * @param atMs ms since the epoch; Infinity for never
   */
  wakeAt(atMs: number): void {
    this.#arm(atMs);
  }

  /**
   * Deadlines that are stored nowhere are over: the alarm is deleted if nothing else is due, and moved
   * if that is far away. Either is a row, as is a wake-up for nothing.
   *
   * @param moveMs how far away, in ms
   */
  release(moveMs = MOVE_MS): void {
    if (this.#alarmAt === null) return;
    const next = this.#next();
    if (next === Number.POSITIVE_INFINITY) this.#disarm();
    else if (next - this.#alarmAt >= moveMs) {
      this.#alarmAt = null;
      this.#arm(next);
    }
  }

  /**
   * @internal The alarm rang: runs the handlers of the names that are due at `now`, then `onDue`, one
   * by one. A name stays in storage until its handler has run. One that does not end is not waited
   * for.
   */
  async ring(now: number): Promise<void> {
    for (const [name, retryMs] of [...this.#failures.retries()]) {
      if (retryMs <= now && this.#running.has(name)) this.#fail(name, new Error("It still runs"));
    }
    const due = this.#named().filter(([name, at]) => at <= now && !this.#running.has(name));
    for (const [name] of due) {
      const own = this.#deadlines.get(name);
      // A handler that failed is tried before its next deadline, which stays.
      if (own !== undefined && own <= now) this.#deadlines.delete(name);
      this.#running.set(name, own);
    }
    for (const [name] of due) await this.#run(name, () => this.#host.onTimer(name));
    if (this.#dueMs(now) > now) return;
    this.#running.set(DUE, undefined);
    await this.#run(DUE, async () => {
      const atMs = this.#host.dueAt();
      if (isDeadline(atMs)) await this.#host.onDue();
      const nextMs = this.#host.dueAt();
      if (isDeadline(atMs) && isDeadline(nextMs) && nextMs <= Math.min(atMs, now)) {
        throw new Error("After onDue, dueAt still gives a time that has passed");
      }
    });
  }

  async #run(name: string, handler: () => unknown): Promise<void> {
    let isLate = false;
    const attempt = async (): Promise<void> => {
      try {
        await handler();
        this.#running.delete(name);
        if (this.#failures.delete(name) || name !== DUE) this.#storeSafely();
      } catch (error) {
        this.#running.delete(name);
        this.#fail(name, error);
      }
      if (isLate) this.#arm(this.#next());
    };
    if (await isSettledSoon(attempt())) return;
    isLate = true;
    this.#fail(name, new Error(`It has not ended after ${PATIENCE_MS} ms`));
  }

  #fail(name: string, error: unknown): void {
    const retryMs = this.#failures.add(name, error);
    // From now on the next try is stored in place of the deadline.
    if (this.#running.has(name)) this.#running.set(name, undefined);
    if (retryMs === Number.POSITIVE_INFINITY && name !== DUE) {
      this.#failures.delete(name);
      // A short interval that the handler sets before it fails would go on for ever.
      if ((this.#deadlines.get(name) ?? 0) < Date.now() + MOVE_MS) this.#deadlines.delete(name);
    }
    this.#storeSafely();
  }

  /** @internal All that was due has run: sets the alarm to the next deadline. */
  rearm(): void {
    this.#alarmAt = null;
    const next = this.#next();
    // An instance that the alarm started found none standing and may have set one itself.
    if (next === Number.POSITIVE_INFINITY) this.#disarm();
    else this.#arm(next);
  }

  /**
   * @internal A transaction begins. If it is rolled back, so is what others store meanwhile, and the
   * alarm.
   *
   * @returns what then stores it again
   */
  watch(): () => Promise<void> {
    const moves = this.#moves;
    return async () => {
      if (this.#moves === moves) return;
      this.#storeSafely();
      await this.load();
    };
  }

  /** All names with their deadlines, or their next tries. */
  #named(): [string, number][] {
    const all = new Map([...this.#deadlines, ...this.#failures.retries()]);
    all.delete(DUE);
    return [...all];
  }

  /** When `onDue` is to run, in ms: not before its next try while it fails. */
  #dueMs(now = Date.now()): number {
    const retryMs = this.#failures.retryMs(DUE) ?? 0;
    const isGivenUp = retryMs === Number.POSITIVE_INFINITY;
    // The room is not asked before: it may be `dueAt` that fails.
    if (retryMs > now && !isGivenUp) return retryMs;
    if (this.#running.has(DUE)) return Number.POSITIVE_INFINITY;
    try {
      const atMs = this.#host.dueAt();
      if (!isDeadline(atMs)) {
        if (this.#failures.delete(DUE)) this.#storeSafely();
        return Number.POSITIVE_INFINITY;
      }
      // Only for a deadline of later is it worth another try.
      return isGivenUp && atMs <= (this.#failures.givenUpMs(DUE) ?? 0)
        ? Number.POSITIVE_INFINITY
        : atMs;
    } catch (error) {
      if (!isGivenUp) this.#fail(DUE, error);
      return this.#failures.retryMs(DUE) ?? Number.POSITIVE_INFINITY;
    }
  }

  /** The earliest of all deadlines, in ms; Infinity for none. */
  #next(): number {
    let next = Math.min(this.#host.nextDeadline(), this.#dueMs());
    for (const [name, at] of this.#named()) {
      // A handler that runs is noticed when it ends, or fails.
      const isWaiting = !this.#running.has(name) || this.#failures.retryMs(name) !== undefined;
      if (isWaiting) next = Math.min(next, at);
    }
    return next;
  }

  #arm(atMs: number | undefined): void {
    if (atMs === undefined || !(atMs < Number.POSITIVE_INFINITY)) return;
    if (this.#alarmAt !== null && this.#alarmAt <= atMs) return;
    // The runtime takes no alarm at or before 0, which a deadline of a damaged row may be.
    const alarmAt = Math.min(Math.max(atMs, 1), Date.now() + FARTHEST_MS);
    this.#alarmAt = alarmAt;
    this.#moves += 1;
    this.stats.alarmsSet += 1;
    this.#storage.setAlarm(alarmAt).then(
      () => {
        this.#resets = 0;
      },
      (error: unknown) => {
        log("alarm_not_set", { error });
        // Without it no deadline would ever come again.
        if (this.#alarmAt === alarmAt) this.#alarmAt = null;
        const waitMs = Math.min(RESET_MS * 2 ** this.#resets, LONGEST_RESET_MS);
        this.#resets += 1;
        outsideTransaction(() => setTimeout(() => this.#arm(this.#next()), waitMs));
      },
    );
  }

  #disarm(): void {
    this.#alarmAt = null;
    this.#moves += 1;
    this.stats.alarmsDeleted += 1;
    // One that still comes finds nothing to do.
    this.#storage.deleteAlarm().catch((error: unknown) => log("alarm_not_deleted", { error }));
  }

  #store(): void {
    this.#moves += 1;
    const row: [string, unknown][] = [...this.#unknown];
    for (const [name, at] of this.#running) if (at !== undefined) row.push([name, at]);
    row.push(...this.#named(), ...this.#deadlines);
    const failing = this.#failures.toStored();
    if (failing) row.push([FAILING_KEY, failing]);
    if (row.length === 0) this.#storage.kv.delete(KEY);
    else this.#storage.kv.put(KEY, Object.fromEntries(row));
  }

  /** Where the room's code is not to blame, and other deadlines wait. */
  #storeSafely(): void {
    try {
      this.#store();
    } catch (error) {
      log("timers_not_stored", { error });
    }
  }
}

function isDeadline(atMs: number | undefined): atMs is number {
  return typeof atMs === "number" && atMs < Number.POSITIVE_INFINITY;
}

function check(name: string, atMs: number): void {
  if (name === DUE || name.length > NAME_LENGTH) {
    throw new RangeError(`A timer's name must have 1 to ${NAME_LENGTH} characters`);
  }
  if (typeof atMs === "number" && atMs > 0) return;
  throw new RangeError(`The deadline of ${name} must be a time in ms since the epoch, not ${atMs}`);
}
