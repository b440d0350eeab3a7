import { ApiError } from "./api.ts";

/** One event of a stream, as EventSource would give it. */
export interface StreamEvent {
  /** `message` where the server gave no name. */
  event: string;
  data: string;
}

/** The server sends a comment every 7 s: after so many ms without a byte, the connection is dead. */
const SILENCE_MS = 20_000;
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 20_000;

/** `text/event-stream`, as the HTML standard parses it. Text may come in any pieces. */
export class EventParser {
  /** The id of the last event: it asks the server for those after it. */
  lastEventId = "";
  #rest = "";
  #event = "";
  #id: string | null = null;
  readonly #data: string[] = [];

  /** The events that `text` completes. */
  push(text: string): StreamEvent[] {
    // A CR at the end may be half of a CRLF.
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    return lines.flatMap((line) => this.#take(line));
  }

  /** The connection is gone, and with it an event that was not complete. */
  reset(): void {
    this.#rest = "";
    this.#event = "";
    this.#id = null;
    this.#data.length = 0;
  }

  #take(line: string): StreamEvent[] {
    if (line === "") return this.#complete();
    const colon = line.indexOf(":");
    const field = colon === -1 ? line : line.slice(0, colon);
    const value = colon === -1 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    return [];
  }

  #complete(): StreamEvent[] {
    this.lastEventId = this.#id ?? this.lastEventId;
    const event = { event: this.#event || "message", data: this.#data.join("\n") };
    const isEmpty = this.#data.length === 0;
    this.#event = "";
    this.#id = null;
    this.#data.length = 0;
    return isEmpty ? [] : [event];
  }
}

/** How a stream is doing. `waiting`: it comes back by itself; `refused`: it does not. */
export type StreamState =
  | { kind: "connecting" | "live" }
  | { kind: "waiting" | "refused"; error: unknown };

/**
 * Follows a stream over breaks of the connection. EventSource would, too, but has no place for a token
 * except the address.
 *
 * @param open connects; it throws an {@link ApiError} where the server refuses
 * @returns ends it
 */
export function followStream(options: {
  open: (lastEventId: string, signal: AbortSignal) => Promise<Response>;
  onEvent: (event: StreamEvent) => void;
  onState: (state: StreamState) => void;
}): () => void {
  const { open, onEvent, onState } = options;
  const ended = new AbortController();
  const parser = new EventParser();
  let retryMs = FIRST_RETRY_MS;

  async function read(): Promise<void> {
    const silence = new AbortController();
    const signal = AbortSignal.any([ended.signal, silence.signal]);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const expectMore = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
    };
    try {
      expectMore();
      const answer = await open(parser.lastEventId, signal);
      const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
      onState({ kind: "live" });
      for (;;) {
        const { done = true, value = "" } = (await reader?.read()) ?? {};
        if (done) return;
        expectMore();
        retryMs = FIRST_RETRY_MS;
        for (const event of parser.push(value)) onEvent(event);
      }
    } finally {
      clearTimeout(timer);
      parser.reset();
    }
  }

  async function follow(): Promise<void> {
    while (!ended.signal.aborted) {
      onState({ kind: "connecting" });
      let error: unknown;
      try {
        await read();
        error = new Error("The server ended the stream.");
      } catch (thrown) {
        error = thrown;
      }
      if (ended.signal.aborted) return;
      if (error instanceof ApiError && !error.isPassing) {
        onState({ kind: "refused", error });
        return;
      }
      onState({ kind: "waiting", error });
      const asked = error instanceof ApiError ? error.retryAfterS * 1_000 : 0;
      await pause(Math.max(asked, retryMs * (0.5 + Math.random() / 2)), ended.signal);
      retryMs = Math.min(retryMs * 2, LONGEST_RETRY_MS);
    }
  }

  void follow();
  return () => ended.abort();
}

/** Resolves after `ms`, or when `signal` aborts. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
