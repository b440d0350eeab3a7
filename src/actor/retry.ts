import { log } from "../log.ts";

/** The wait after the first failure of a handler, in ms; each later one doubles it. */
const RETRY_MS = 5_000;
const LONGEST_RETRY_MS = 3_600_000;
/** A handler that has failed for so long is given up, in ms. */
const GIVE_UP_MS = 24 * 3_600_000;
/** A handler may keep others waiting for so long, in ms. It runs on meanwhile. */
export const PATIENCE_MS = 5_000;

/** A handler that fails: it throws, or does not end. */
interface Failing {
  /** The first failure in a row, or when it was given up, in ms. */
  sinceMs: number;
  failures: number;
  /** The next try, in ms; Infinity once it is given up. */
  notBeforeMs: number;
}

function isFailing(value: unknown): value is Failing {
  const { sinceMs, failures, notBeforeMs } = (value ?? {}) as Partial<Failing>;
  return [sinceMs, failures, notBeforeMs].every((one) => typeof one === "number" && one >= 0);
}

/** Waits for `promise`, but not for long. @returns whether it has settled */
export async function isSettledSoon(promise: Promise<unknown>): Promise<boolean> {
  const { promise: late, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => resolve(false), PATIENCE_MS);
  const settled = () => true;
  const isSettled = await Promise.race([promise.then(settled, settled), late]);
  clearTimeout(timer);
  return isSettled;
}

/**
 * The handlers of a room that fail, by name, and when each is tried again: ever more rarely, and no
 * more after a day. The waits are deadlines of the alarm, so that the actor sleeps meanwhile.
 */
export class Failures {
  readonly #failing = new Map<string, Failing>();
  /** Names the room in the log. */
  readonly #label: string;

  constructor(label: string) {
    this.#label = label;
  }

  /** Takes over what an earlier instance stored. */
  restore(stored: unknown): void {
    const longestMs = Date.now() + LONGEST_RETRY_MS;
    for (const [name, failing] of Object.entries(stored ?? {})) {
      if (!isFailing(failing)) continue;
      const { notBeforeMs } = failing;
      // No wait is longer than that: the clock was set back, or the row is damaged.
      const isWait = notBeforeMs < Number.POSITIVE_INFINITY;
      this.#failing.set(name, {
        ...failing,
        notBeforeMs: isWait ? Math.min(notBeforeMs, longestMs) : notBeforeMs,
      });
    }
  }

  toStored(): Record<string, Failing> | undefined {
    return this.#failing.size === 0 ? undefined : Object.fromEntries(this.#failing);
  }

  /** When `name` is tried again, in ms; Infinity if it was given up, undefined if it does not fail. */
  retryMs(name: string): number | undefined {
    return this.#failing.get(name)?.notBeforeMs;
  }

  /** When `name` was given up, in ms. */
  givenUpMs(name: string): number | undefined {
    const failing = this.#failing.get(name);
    return failing?.notBeforeMs === Number.POSITIVE_INFINITY ? failing.sinceMs : undefined;
  }

  /** The next tries, with their names. Those that were given up are not among them. */
  *retries(): Iterable<[string, number]> {
    for (const [name, { notBeforeMs }] of this.#failing) {
      if (notBeforeMs < Number.POSITIVE_INFINITY) yield [name, notBeforeMs];
    }
  }

  /** `name` has failed. @returns when it is tried again, in ms; Infinity when it is given up */
  add(name: string, error: unknown): number {
    const now = Date.now();
    const known = this.#failing.get(name);
    // A failure of long ago, or one that was given up, has nothing to do with this one.
    const isInARow = known !== undefined && Math.abs(now - known.notBeforeMs) < GIVE_UP_MS;
    const { sinceMs, failures } = isInARow ? known : { sinceMs: now, failures: 0 };
    const isGivenUp = now - sinceMs >= GIVE_UP_MS;
    log(isGivenUp ? "timer_given_up" : "timer_failed", {
      room: this.#label,
      timer: name || "onDue",
      failures: failures + 1,
      error,
    });
    const waitMs = Math.min(RETRY_MS * 2 ** failures, LONGEST_RETRY_MS);
    const notBeforeMs = isGivenUp ? Number.POSITIVE_INFINITY : now + waitMs;
    this.#failing.set(name, {
      sinceMs: isGivenUp ? now : sinceMs,
      failures: failures + 1,
      notBeforeMs,
    });
    return notBeforeMs;
  }

  /** `name` has not failed, or nobody waits for it any more. @returns whether it had */
  delete(name: string): boolean {
    return this.#failing.delete(name);
  }
}
