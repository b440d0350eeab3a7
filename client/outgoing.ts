import { RollcallError } from "../src/wire/errors.ts";
import { exceedsBytes, FRAME_BYTES, type FrameLimits, type Untyped } from "../src/wire/frames.ts";
import { assertJson } from "../src/wire/json.ts";

/** A frame to the server. */
export interface Outgoing {
  type: string;
  data: Untyped;
  id?: string;
}

interface Queued extends Outgoing {
  text: string;
}

/** The limits of a server that announces none. */
const LIMITS: FrameLimits = { frameBytes: FRAME_BYTES, framesPerSecond: 50, framesBurst: 100 };
/** The part of the limits that emits may use: answers and probes count as well. */
const SHARE = 0.8;

/** Emits on their way: kept while there is no connection, and sent no faster than the server takes them. */
export class OutgoingQueue {
  readonly #send: (text: string) => boolean;
  readonly #dropped: (message: Outgoing) => void;
  readonly #maxSize: number;
  #queue: Queued[] = [];
  #limits = LIMITS;
  #isOpen = false;
  /** The server may still refuse the client. */
  #isTrial = false;
  #sent: Queued[] = [];
  #tokens = 0;
  #refilledAt = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @param maxSize emits that are kept without a connection; `dropped` gets the oldest beyond it */
  constructor(
    maxSize: number,
    send: (text: string) => boolean,
    dropped: (message: Outgoing) => void,
  ) {
    this.#maxSize = maxSize;
    this.#send = send;
    this.#dropped = dropped;
  }

  /**
   * @throws TypeError for data that JSON cannot hold
   * @throws RollcallError `too_large` for a frame that the server would close the connection for
   */
  encode(message: Outgoing): string {
    assertJson(message.data);
    const text = JSON.stringify(message);
    const { frameBytes } = this.#limits;
    if (exceedsBytes(text, frameBytes)) {
      throw new RollcallError("too_large", `A frame has at most ${frameBytes} bytes`);
    }
    return text;
  }

  push(message: Outgoing, text: string): void {
    this.#queue.push({ ...message, text });
    this.flush();
    if (this.#isOpen || this.#queue.length <= this.#maxSize) return;
    // The oldest says least about now.
    const [oldest] = this.#queue.splice(0, 1);
    if (oldest) this.#dropped(oldest);
  }

  /** Puts frames that were sent before a break in front of the others. */
  repeat(messages: readonly Queued[]): void {
    this.#queue.unshift(...messages);
  }

  /** A connection is there, with its limits; `first` frames may be sent at once, by default the burst. */
  open(limits: FrameLimits | undefined, first?: number): void {
    const isNew = !this.#isOpen;
    this.#isOpen = true;
    this.#limits = limits ?? LIMITS;
    const burst = Math.max(1, this.#limits.framesBurst * SHARE);
    if (isNew) this.#sent = [];
    this.#tokens = Math.min(first ?? burst, burst - this.#sent.length);
    this.#refilledAt = Date.now();
    this.#isTrial = first !== undefined;
    if (!this.#isTrial) this.#sent = [];
    this.flush();
  }

  /** @param isRefused the server has not taken the client: what was sent has not arrived */
  close(isRefused = false): void {
    if (isRefused) this.#queue.unshift(...this.#sent.splice(0));
    this.#isOpen = false;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  flush(): void {
    if (!this.#isOpen || this.#timer !== undefined) return;
    const { framesPerSecond, framesBurst } = this.#limits;
    const perMs = (framesPerSecond * SHARE) / 1000;
    const now = Date.now();
    const gained = Math.max(0, now - this.#refilledAt) * perMs;
    this.#tokens = Math.min(Math.max(1, framesBurst * SHARE), this.#tokens + gained);
    this.#refilledAt = now;
    let sent = 0;
    for (const { text } of this.#queue) {
      if (this.#tokens < 1 || !this.#send(text)) break;
      this.#tokens -= 1;
      sent += 1;
    }
    // Kept until the server has answered.
    if (sent > 0) this.#keep(this.#queue.splice(0, sent));
    if (this.#queue.length === 0 || this.#tokens >= 1) return;
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        this.flush();
      },
      Math.min(Math.ceil((1 - this.#tokens) / perMs), 60_000),
    );
  }

  #keep(sent: Queued[]): void {
    if (this.#isTrial) this.#sent.push(...sent);
  }

  /** Whether the emit `id` waits, or was sent on this connection before the server said anything. */
  has(id: string): boolean {
    return [...this.#queue, ...this.#sent].some((queued) => queued.id === id);
  }

  remove(id: string): void {
    this.#queue = this.#queue.filter((queued) => queued.id !== id);
  }

  /** Takes all that waits. */
  clear(): Outgoing[] {
    return this.#queue.splice(0);
  }
}
