import type { Hello, ResumeRefusal } from "../src/wire/frames.ts";

/** How a connection began. */
export interface OpenInfo {
  /** Whether it goes on where the last one broke off, with nothing lost. */
  resumed: boolean;
  /** Why it does not, if there was one. */
  reason?: ResumeRefusal;
  /** How many frames were missed, and have been sent again. */
  replayed: number;
}

/** Where a page keeps the session for its next load. */
interface Storage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}
interface Page {
  document?: unknown;
  sessionStorage?: Storage;
  addEventListener(type: string, listener: () => void, options: { signal: AbortSignal }): void;
}

/** The session of protocol 3 that a client may resume, and its cursor. */
export class ResumableSession {
  /** Its id and epoch, as the query `resume` has them. */
  #name: string | undefined;
  #seq: number | undefined;
  #logEpoch: string | undefined;
  readonly #key: string;
  readonly #page = new AbortController();

  /** @param url names the room; without a token */
  constructor(url: string) {
    this.#key = `rollcall:${url}`;
    const page = globalThis as unknown as Page;
    try {
      const storage = page.sessionStorage;
      if (!page.document || !storage) return;
      // Removed at once: a tab that is duplicated later must not have it.
      const forget = () => storage.removeItem(this.#key);
      this.#name = storage.getItem(this.#key) ?? undefined;
      forget();
      const { signal } = this.#page;
      const store = () => {
        if (this.#name) storage.setItem(this.#key, this.#name);
      };
      page.addEventListener("pagehide", store, { signal });
      page.addEventListener("pageshow", forget, { signal });
    } catch {
      // A page may be forbidden to store anything.
    }
  }

  /** What the query `resume` has to say; undefined for a new session. */
  get query(): string | undefined {
    if (!this.#name || this.#seq === undefined) return this.#name;
    return `${this.#name}:${this.#seq}`;
  }

  /** The last event that was received, as the query `since` has it. */
  get cursor(): string | undefined {
    return this.#logEpoch && `${this.#logEpoch}:${this.#seq}`;
  }

  begin(hello: Hello): OpenInfo {
    const { protocol, session, epoch, seq, logEpoch, resumed, reason, replayed = 0 } = hello;
    this.#logEpoch = logEpoch;
    this.#name = protocol === 3 ? `${session}:${epoch}` : undefined;
    this.#seq = protocol === 3 ? seq : undefined;
    return { resumed: resumed === true, replayed, ...(reason && { reason }) };
  }

  /** Whether a frame is a new one. */
  take(seq: number | undefined): boolean {
    if (seq === undefined || this.#seq === undefined) return true;
    if (seq <= this.#seq) return false;
    this.#seq = seq;
    return true;
  }

  /** The session is over, or another client has it. */
  forget(): void {
    this.#name = undefined;
    this.#seq = undefined;
    this.#logEpoch = undefined;
  }

  stop(): void {
    this.forget();
    this.#page.abort();
  }
}
