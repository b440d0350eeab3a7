import type { FrameLimits } from "../wire/frames.ts";

/** Each limit with the attack or mishap it stops. `Infinity` removes one. */
export interface Limits {
  /** Bytes of one frame from a client; more closes the socket with 1009. */
  frameBytes: number;
  /** Frames a socket may send per second, on average; more gives `rate_limited`, then 4429. */
  framesPerSecond: number;
  /** Frames a socket may send at once. */
  framesBurst: number;
  /**
   * UTF-16 units of frames of one socket that wait for its earlier ones to be handled; a frame beyond
   * is dropped, and half as much again closes the socket with 4429.
   */
  inboxUnits: number;
  /**
   * UTF-16 units that may be on their way to a client which pings and does not read. A client of protocol
   * 3 is asked to confirm from time to time; the others cannot be asked, and are sent four times as much
   * on one socket. More closes the socket with 1013, and the client comes back.
   */
  unreadUnits: number;
  /** Sockets of one user in this room. */
  socketsPerUser: number;
  /** Sockets in this room; the runtime itself takes 32 768. */
  sockets: number;
}

/** The limits of a room that sets none. */
export const LIMITS: Limits = {
  frameBytes: 65_536,
  framesPerSecond: 50,
  framesBurst: 100,
  inboxUnits: 524_288,
  unreadUnits: 16_777_216,
  socketsPerUser: 256,
  sockets: 20_000,
};

/** The limits that `hello` announces, so that a client can keep to them. `Infinity` is no JSON. */
export function announce({ frameBytes, framesPerSecond, framesBurst }: Limits): FrameLimits {
  const finite = (limit: number): number => Math.min(limit, Number.MAX_SAFE_INTEGER);
  return {
    frameBytes: finite(frameBytes),
    framesPerSecond: finite(framesPerSecond),
    framesBurst: finite(framesBurst),
  };
}

/**
 * What becomes of a frame: it is taken, or it is dropped. `limited` is the first that is dropped, for
 * which the client gets an error; `flooding` means that it sent another whole burst after that.
 */
export type Verdict = "ok" | "limited" | "dropped" | "flooding";

/** The frames that one socket may still send: a token bucket. */
export class FrameBudget {
  readonly #limits: Pick<Limits, "framesBurst" | "framesPerSecond">;
  #tokens: number;
  #refilledAtMs = 0;
  #isLimited = false;

  constructor(limits: Pick<Limits, "framesBurst" | "framesPerSecond">) {
    this.#limits = limits;
    this.#tokens = limits.framesBurst;
  }

  /** Pays for a frame that came at `now` (ms). */
  take(now: number): Verdict {
    const { framesPerSecond, framesBurst } = this.#limits;
    if (framesBurst === Number.POSITIVE_INFINITY || framesPerSecond === Number.POSITIVE_INFINITY) {
      return "ok";
    }
    // A clock that was set back gives nothing, and takes nothing.
    const refill = (Math.max(0, now - this.#refilledAtMs) / 1000) * framesPerSecond;
    this.#tokens = Math.min(framesBurst, this.#tokens + refill) - 1;
    this.#refilledAtMs = now;
    if (this.#tokens >= 0) {
      this.#isLimited = false;
      return "ok";
    }
    // A client that sends another burst after the error ignores errors.
    if (this.#tokens < -framesBurst) return "flooding";
    if (this.#isLimited) return "dropped";
    this.#isLimited = true;
    return "limited";
  }
}
