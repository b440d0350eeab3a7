import type { AnyState } from "../rooms/presence/roster.ts";

/** How long a state holds. */
export interface StateOptions {
  /** After so many ms others do not see the state any more: 100 to 600 000. Default: until it is replaced. */
  ttlMs?: number;
}

/** What the app said last of this connection; null: that there is nothing to say. */
interface Wanted {
  state: AnyState | null;
  /** By this client's clock, in ms. */
  untilMs: number;
}

/** The state of this connection: sent at most once in a while, always with its last value, over breaks. */
export class OwnState {
  readonly #stateMs: number;
  readonly #send: (data: { state: AnyState | null } & StateOptions) => void;
  #wanted: Wanted | undefined;
  #isReady = false;
  #sentAtMs = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @param stateMs least time between two states that are sent, in ms */
  constructor(stateMs: number, send: (data: { state: AnyState | null } & StateOptions) => void) {
    this.#stateMs = stateMs;
    this.#send = send;
  }

  /** The state as the app set it; undefined: it never did. */
  get current(): AnyState | null | undefined {
    if (!this.#wanted) return undefined;
    return this.#wanted.untilMs > Date.now() ? this.#wanted.state : null;
  }

  set(state: AnyState | null, { ttlMs = Number.POSITIVE_INFINITY }: StateOptions): void {
    this.#wanted = { state, untilMs: Date.now() + ttlMs };
    if (!this.#isReady || this.#timer !== undefined) return;
    const waitMs = this.#sentAtMs + this.#stateMs - Date.now();
    if (waitMs <= 0) this.#flush();
    else {
      this.#timer = setTimeout(
        () => {
          this.#timer = undefined;
          this.#flush();
        },
        Math.min(waitMs, this.#stateMs),
      );
    }
  }

  #flush(): void {
    if (!this.#isReady || !this.#wanted) return;
    const { state, untilMs } = this.#wanted;
    const ttlMs = untilMs - Date.now();
    this.#sentAtMs = Date.now();
    if (ttlMs === Number.POSITIVE_INFINITY || state === null) this.#send({ state });
    else if (ttlMs >= 100) this.#send({ state, ttlMs });
  }

  /** A connection to a server that knows states. @param isKnown whether it has this session's */
  open(isKnown: boolean): void {
    this.#isReady = true;
    // It may have been on its way when the line broke.
    if (isKnown || this.#wanted?.state) this.#flush();
  }

  close(): void {
    this.#isReady = false;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
