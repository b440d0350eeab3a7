import { afterCommit } from "./transaction.ts";

/** Storage key of the deadlines. */
const KEY = "rollcall:timers";
/**
 * The farthest that an alarm is set ahead, in ms: a token may expire in a year that the runtime
 * cannot count to, and an alarm that comes early only sets the next one.
 */
const FARTHEST_MS = 30 * 24 * 3_600_000;

/**
 * Many named deadlines on the actor's one alarm. A deadline is one storage row for all names
 * together; the alarm is moved only when it must be earlier and deleted when nothing is left, since
 * each move is a row as well. What is set inside a transaction counts from the commit on, and not
 * at all after a rollback.
 */
export class Timers {
  readonly #storage: DurableObjectStorage;
  /** Earliest deadline that follows from the sockets (expiry, sweep) and is stored nowhere. */
  readonly #fromSessions: () => number | undefined;
  readonly #deadlines: Map<string, number>;
  /** Deadlines whose handlers run now: kept in storage until they are done, should we die meanwhile. */
  readonly #ringing = new Map<string, number>();
  /** How often this instance has set and deleted the alarm: each is a row written. */
  readonly stats = { alarmsSet: 0, alarmsDeleted: 0 };
  #alarmAt: number | null = null;

  constructor(storage: DurableObjectStorage, fromSessions: () => number | undefined) {
    this.#storage = storage;
    this.#fromSessions = fromSessions;
    const stored = storage.kv.get<Record<string, number>>(KEY) ?? {};
    this.#deadlines = new Map(Object.entries(stored));
  }

  /** Reads where the alarm stands. Once, at the start of the instance. */
  async load(): Promise<void> {
    this.#alarmAt = await this.#storage.getAlarm();
    this.#arm(this.#next());
  }

  /** When the alarm stands, in ms since the epoch, or null. */
  get alarmAt(): number | null {
    return this.#alarmAt;
  }

  /** The deadline of `name`, in ms since the epoch. */
  get(name: string): number | undefined {
    return this.#deadlines.get(name);
  }

  /** Sets the deadline of `name` to `atMs` (ms since the epoch), in place of any other. */
  set(name: string, atMs: number): void {
    afterCommit(() => {
      if (this.#deadlines.get(name) === atMs) return;
      this.#deadlines.set(name, atMs);
      this.#store();
      this.#arm(atMs);
    });
  }

  /** As {@link set}, but leaves an earlier deadline alone: for deadlines that mostly move away. */
  soonest(name: string, atMs: number): void {
    afterCommit(() => {
      const standing = this.#deadlines.get(name);
      if (standing === undefined || atMs < standing) this.set(name, atMs);
    });
  }

  clear(name: string): void {
    afterCommit(() => {
      if (!this.#deadlines.delete(name)) return;
      this.#store();
      this.release();
    });
  }

  /** A deadline known without storage, a socket's or the room's `dueAt`, has come nearer. */
  wakeAt(atMs: number): void {
    this.#arm(atMs);
  }

  /** Deadlines known without storage are over: the alarm goes if nothing else is due. */
  release(): void {
    if (this.#alarmAt !== null && this.#next() === undefined) this.#disarm();
  }

  /** @internal The alarm rang: takes the names that are due at `now` off the list. */
  due(now: number): string[] {
    const due = [...this.#deadlines].filter(([, at]) => at <= now);
    for (const [name, at] of due) {
      this.#deadlines.delete(name);
      this.#ringing.set(name, at);
    }
    return due.map(([name]) => name);
  }

  /** @internal The handler of a name that was {@link due} has run. */
  done(name: string): void {
    if (this.#ringing.delete(name)) this.#store();
  }

  /** @internal All that was due has run: sets the alarm to what is next. */
  rearm(): void {
    this.#alarmAt = null;
    const next = this.#next();
    // An instance that the alarm started found none standing and may have set one itself.
    if (next === undefined) this.#disarm();
    else this.#arm(next);
  }

  #next(): number | undefined {
    const times = [...this.#deadlines.values()];
    const fromSessions = this.#fromSessions();
    if (fromSessions !== undefined) times.push(fromSessions);
    return times.length === 0 ? undefined : Math.min(...times);
  }

  #arm(atMs: number | undefined): void {
    if (atMs === undefined || (this.#alarmAt !== null && this.#alarmAt <= atMs)) return;
    this.#alarmAt = Math.min(atMs, Date.now() + FARTHEST_MS);
    this.stats.alarmsSet += 1;
    void this.#storage.setAlarm(this.#alarmAt);
  }

  #disarm(): void {
    this.#alarmAt = null;
    this.stats.alarmsDeleted += 1;
    void this.#storage.deleteAlarm();
  }

  #store(): void {
    const all = [...this.#ringing, ...this.#deadlines];
    if (all.length === 0) this.#storage.kv.delete(KEY);
    else this.#storage.kv.put(KEY, Object.fromEntries(all));
  }
}
