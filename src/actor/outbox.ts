import { log } from "../log.ts";
import { joinFrames } from "../wire/frames.ts";
import type { Protocol } from "../wire/version.ts";
import { outsideTransaction } from "./transaction.ts";

/** Time that frames to one socket are gathered while events keep coming, in ms. */
export const FLUSH_MS = 13;
/** What a send costs, whatever its size, in ms. */
const SEND_MS = 0.02;
/** A window is so many times as long as sending: under a constant stream it takes three quarters of the time. */
const FRAMES_WINDOW = 1.3;
/** And so many times as long as its thread was busy, with sending to other sockets perhaps. */
const BUSY_WINDOW = 1.6;
/** Diffs can wait longer, since later they are shorter: sending them takes a fifteenth. */
const DIFFS_WINDOW = 15;
/** The part of a window in which a wave comes: many that answer at once do so within a few ms. */
const WAVE_PART = 0.25;
/** So many windows after one wave, the next request is not taken for a wave. */
const LULL_WINDOWS = 5;
/** The longest window, however large the room. */
const LONGEST_WINDOW_MS = 1_000;

/** What the outbox needs of a session. */
export interface Recipient {
  readonly protocol: Protocol;
  /** Whether it is in the outbox. */
  isDue: boolean;
  /** Sends the queued frames; `join` makes one message of several. */
  flush(join?: (frames: readonly string[]) => string): void;
}

/**
 * Runs `task` at the end of a tick that requests it. If several ticks request it within one turn of
 * the event loop, the next run waits for a window. So a lone request is served at once, and requests
 * that keep coming are served together. Without requests nothing is pending.
 *
 * With `gathers`, those that come in waves are served together too: within a few windows after one, the
 * first request waits for a part of a window. And a pause that ends late shows how long its thread was busy
 * with other actors, of the same room perhaps: the next window is longer than that.
 */
class Throttle {
  readonly #task: () => void;
  readonly #windowMs: () => number;
  readonly #gathers: boolean;
  /** Ticks with a request since the last run. */
  #ticks = 0;
  #isRequested = false;
  #isPaused = false;
  /** How late the last pause ended, in ms. */
  #lateMs = 0;
  /** Until then, in ms, a request is the first of a wave. */
  #wavesUntilMs = 0;

  constructor(task: () => void, windowMs: () => number, gathers: boolean) {
    this.#task = task;
    this.#windowMs = windowMs;
    this.#gathers = gathers;
  }

  request(): void {
    if (this.#isRequested) return;
    this.#isRequested = true;
    this.#ticks += 1;
    queueMicrotask(() => {
      this.#isRequested = false;
      if (this.#isPaused) return;
      if (performance.now() < this.#wavesUntilMs) this.#pause(this.#window() * WAVE_PART);
      else this.#run();
    });
  }

  #window(): number {
    const lateMs = this.#gathers ? Math.min(this.#lateMs * BUSY_WINDOW, LONGEST_WINDOW_MS) : 0;
    return Math.max(this.#windowMs(), lateMs);
  }

  #run(): void {
    const pauseMs = this.#ticks > 1 ? this.#window() : 0;
    if (pauseMs > 0 && this.#gathers)
      this.#wavesUntilMs = performance.now() + LULL_WINDOWS * pauseMs;
    this.#ticks = 0;
    this.#pause(pauseMs);
    outsideTransaction(this.#task);
  }

  #pause(ms: number): void {
    this.#isPaused = true;
    const endMs = performance.now() + ms;
    outsideTransaction(() => {
      setTimeout(() => {
        this.#isPaused = false;
        this.#lateMs = performance.now() - endMs;
        if (this.#ticks > 0) this.#run();
      }, ms);
    });
  }
}

/**
 * Gathers frames, so that a socket gets those of a tick, or of a window while events keep coming, as
 * one message. A send costs the runtime about 20 µs whatever its size: this saves sends.
 */
export class Outbox {
  #due: Recipient[] = [];
  /** Sessions of protocol 1 that wait for the end of this tick. */
  #duePlain: Recipient[] = [];
  #isPlainDue = false;
  /** Runs before each flush, and when one is requested without a frame. */
  beforeFlush: () => void = () => {};
  readonly #builds = new Map<string, () => void>();
  readonly #frames: Throttle;
  readonly #diffs: Throttle;

  /**
   * @param flushMs least time between two messages to a socket while events keep coming
   * @param sockets their number: in a large room the windows grow with the cost of a flush
   */
  constructor(flushMs: number, sockets: () => number) {
    const window = (part: number) => () => {
      const sendingMs = sockets() * SEND_MS;
      return Math.min(Math.max(flushMs, sendingMs * part), Math.max(flushMs, LONGEST_WINDOW_MS));
    };
    this.#frames = new Throttle(() => this.#flush(), window(FRAMES_WINDOW), true);
    this.#diffs = new Throttle(() => this.#build(), window(DIFFS_WINDOW), false);
  }

  /** Flushes `recipient` at the end of this tick, or of the window. */
  request(recipient: Recipient): void {
    if (recipient.protocol >= 2) {
      if (!recipient.isDue) this.#due.push(recipient);
      this.#frames.request();
    } else if (!recipient.isDue) {
      // A client of protocol 1 takes no lists: to wait beyond the end of the tick would gain nothing.
      this.#duePlain.push(recipient);
      this.requestPlainFlush();
    }
    recipient.isDue = true;
  }

  /** Runs {@link beforeFlush} at the end of this tick. */
  requestPlainFlush(): void {
    if (this.#isPlainDue) return;
    this.#isPlainDue = true;
    outsideTransaction(() => queueMicrotask(() => this.#flushPlain()));
  }

  /** Runs {@link beforeFlush} at the end of this tick, or of the window. */
  requestFlush(): void {
    this.#frames.request();
  }

  /** Runs `build` at the end of this tick or of the window for diffs, once per `key`. */
  defer(key: string, build: () => void): void {
    if (!this.#builds.has(key)) this.#builds.set(key, build);
    this.#diffs.request();
  }

  #build(): void {
    for (const [key, build] of [...this.#builds]) {
      this.#builds.delete(key);
      attempt(build);
    }
  }

  #flushPlain(): void {
    this.#isPlainDue = false;
    attempt(this.beforeFlush);
    const due = this.#duePlain;
    this.#duePlain = [];
    for (const recipient of due) {
      recipient.isDue = false;
      recipient.flush();
    }
  }

  #flush(): void {
    attempt(this.beforeFlush);
    const due = this.#due;
    this.#due = [];
    // Sockets of one channel mostly wait for the very same frames: join them once.
    let last: readonly string[] = [];
    let joined = "";
    const join = (frames: readonly string[]): string => {
      const isSame = frames.length === last.length && frames.every((frame, i) => frame === last[i]);
      if (!isSame) {
        last = frames;
        joined = joinFrames(frames);
      }
      return joined;
    };
    for (const recipient of due) {
      recipient.isDue = false;
      recipient.flush(join);
    }
  }
}

/** What fails must not keep frames from their sockets. */
function attempt(task: () => void): void {
  try {
    task();
  } catch (error) {
    log("flush_failed", { error });
  }
}
