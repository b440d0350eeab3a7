const SECOND_MS = 1_000;
/** Keys whose activity is remembered. */
const RECENT = 10_000;

/** Limits what users and sessions make the room do: what is too often waits, and only the last counts. */
export class Pace {
  readonly #recent = new Map<unknown, { sinceMs: number; times: number }>();
  /** What is left of what was done too often. */
  readonly #delayed = new Map<unknown, () => void>();

  /** Runs `task` at once, or within a second where `key` had more than `perSecond` turns in this one. */
  run(key: unknown, perSecond: number, task: () => void): void {
    if (!this.isOften(key, perSecond)) {
      task();
      return;
    }
    if (this.#delayed.size === 0) {
      setTimeout(() => {
        const tasks = [...this.#delayed.values()];
        this.#delayed.clear();
        for (const due of tasks) due();
      }, SECOND_MS);
    }
    this.#delayed.set(key, task);
  }

  /** Counts a turn of `key`. @returns whether it has had more than `perSecond` within a second */
  isOften(key: unknown, perSecond: number): boolean {
    if (this.#delayed.has(key)) return true;
    const now = Date.now();
    let recent = this.#recent.get(key);
    if (!recent || Math.abs(now - recent.sinceMs) >= SECOND_MS) recent = { sinceMs: now, times: 0 };
    recent.times += 1;
    if (this.#recent.size >= RECENT) this.#recent.clear();
    this.#recent.set(key, recent);
    return recent.times > perSecond;
  }

  /** What waits for `key` is not done any more. */
  forget(key: unknown): void {
    this.#delayed.delete(key);
  }
}
