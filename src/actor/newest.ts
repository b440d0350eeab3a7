import type { MessageFrame } from "../wire/frames.ts";
import { FrameBudget } from "./limits.ts";

/** A client that sends so many times the limit of an event is flooding. */
const FLOOD_TIMES = 10;

/** A frame, and its text as it came. */
export interface Received {
  frame: MessageFrame;
  raw: string | ArrayBuffer;
}

/** The frames of one event from one session. */
class Lane {
  readonly perSecond: number;
  readonly flood: FrameBudget;
  waiting: Received | undefined;
  #tokens: number;
  #refilledAtMs = 0;

  constructor(perSecond: number) {
    this.perSecond = perSecond;
    const limit = perSecond * FLOOD_TIMES;
    this.flood = new FrameBudget({ framesPerSecond: limit, framesBurst: limit });
    this.#tokens = perSecond;
  }

  take(now: number): boolean {
    const refill = (Math.max(0, now - this.#refilledAtMs) / 1000) * this.perSecond;
    this.#tokens = Math.min(this.perSecond, this.#tokens + refill);
    this.#refilledAtMs = now;
    if (this.#tokens < 1) return false;
    this.#tokens -= 1;
    return true;
  }
}

/** What becomes of a frame: its handlers run now, it waits, or its sender is flooding. */
type Outcome = { run: true } | { run: false; replaced?: Received } | "flooding";

/** Events of which only the newest of a session counts: each has a limit of its own, beyond which it waits. */
export class NewestEvents<S extends { readonly ended: boolean }> {
  readonly #limits: ReadonlyMap<string, number>;
  readonly #run: (session: S, received: Received) => void;
  readonly #lanes = new WeakMap<S, Map<string, Lane>>();

  /** @param run is given what has waited */
  constructor(
    limits: Readonly<Record<string, number>> | undefined,
    run: (session: S, received: Received) => void,
  ) {
    this.#limits = new Map(Object.entries(limits ?? {}));
    this.#run = run;
  }

  has(event: string): boolean {
    return this.#limits.has(event);
  }

  /** A frame came at `now` (ms). */
  take(session: S, received: Received, now: number): Outcome {
    const lane = this.#laneOf(session, received.frame.type);
    if (lane.flood.take(now) !== "ok") return "flooding";
    const replaced = lane.waiting;
    if (!replaced && lane.take(now)) return { run: true };
    lane.waiting = received;
    if (replaced) return { run: false, replaced };
    this.#runLater(session, lane);
    return { run: false };
  }

  #laneOf(session: S, event: string): Lane {
    const lanes = this.#lanes.get(session) ?? new Map<string, Lane>();
    this.#lanes.set(session, lanes);
    let lane = lanes.get(event);
    if (!lane) {
      lane = new Lane(this.#limits.get(event) ?? 1);
      lanes.set(event, lane);
    }
    return lane;
  }

  #runLater(session: S, lane: Lane): void {
    setTimeout(() => {
      const { waiting } = lane;
      if (!waiting || session.ended) return;
      if (!lane.take(Date.now())) return this.#runLater(session, lane);
      lane.waiting = undefined;
      this.#run(session, waiting);
    }, 1_000 / lane.perSecond);
  }
}
