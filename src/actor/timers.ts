/** Storage key of the deadlines. */
const KEY = "rollcall:timers";

/**
 * Many named deadlines on the actor's one alarm. A deadline is one storage row for all names
 * together; the alarm is moved only when it must be earlier and deleted when nothing is left, since
 * each move is a row as well.
 */
export class Timers {
  readonly #storage: DurableObjectStorage;
  /** Earliest deadline that follows from the sockets (expiry, sweep) and is stored nowhere. */
  readonly #fromSessions: () => number | undefined;
  readonly #deadlines: Map<string, number>;
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
    if (this.#deadlines.get(name) === atMs) return;
    this.#deadlines.set(name, atMs);
    this.#store();
    this.#arm(atMs);
  }

  /** As {@link set}, but leaves an earlier deadline alone: for deadlines that mostly move away. */
  soonest(name: string, atMs: number): void {
    const standing = this.#deadlines.get(name);
    if (standing === undefined || atMs < standing) this.set(name, atMs);
  }

  clear(name: string): void {
    if (!this.#deadlines.delete(name)) return;
    this.#store();
    if (this.#next() === undefined && this.#alarmAt !== null) {
      this.#alarmAt = null;
      void this.#storage.deleteAlarm();
    }
  }

  /** @internal A socket's deadline, known without storage. */
  wakeAt(atMs: number): void {
    this.#arm(atMs);
  }

  /** @internal The alarm rang: takes the names that are due at `now` off the list. */
  due(now: number): string[] {
    this.#alarmAt = null;
    const names = [...this.#deadlines].filter(([, at]) => at <= now).map(([name]) => name);
    for (const name of names) this.#deadlines.delete(name);
    if (names.length > 0) this.#store();
    return names;
  }

  /** @internal All that was due has run: sets the alarm to what is next. */
  rearm(): void {
    this.#arm(this.#next());
  }

  #next(): number | undefined {
    const times = [...this.#deadlines.values()];
    const fromSessions = this.#fromSessions();
    if (fromSessions !== undefined) times.push(fromSessions);
    return times.length === 0 ? undefined : Math.min(...times);
  }

  #arm(atMs: number | undefined): void {
    if (atMs === undefined || (this.#alarmAt !== null && this.#alarmAt <= atMs)) return;
    this.#alarmAt = atMs;
    void this.#storage.setAlarm(atMs);
  }

  #store(): void {
    if (this.#deadlines.size === 0) this.#storage.kv.delete(KEY);
    else this.#storage.kv.put(KEY, Object.fromEntries(this.#deadlines));
  }
}
