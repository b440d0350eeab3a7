import { EventSource } from "eventsource";

const REOPEN_MS = 1_000;

export interface StreamEvents {
  onOpen?(): void;
  onData(data: string): void;
  /** The connection was lost; the stream opens again by itself. */
  onLost?(why: string): void;
}

/** A reader of server-sent events that comes back after every loss, until it is closed. */
export class Stream {
  #source: EventSource;
  #isClosed = false;

  constructor(url: string, events: StreamEvents) {
    this.#source = this.#open(url, events);
  }

  #open(url: string, events: StreamEvents): EventSource {
    const source = new EventSource(url);
    source.onopen = () => events.onOpen?.();
    source.onmessage = ({ data }) => events.onData(data);
    source.onerror = ({ message }) => {
      if (this.#isClosed) return;
      events.onLost?.(String(message));
      // A status other than 200, such as a proxy's 502, ends an EventSource for good.
      if (source.readyState !== source.CLOSED) return;
      setTimeout(() => {
        if (!this.#isClosed) this.#source = this.#open(url, events);
      }, REOPEN_MS);
    };
    return source;
  }

  close(): void {
    this.#isClosed = true;
    this.#source.close();
  }
}
