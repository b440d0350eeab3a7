import { VeraniClient } from "../../client/client.ts";
import { MOODS, type Mood, type MoodState } from "../../rooms/moods/tally.ts";
import { type Line, PING_INTERVAL_MS, RECONNECTION } from "./line.ts";
import { randomUuid, Store } from "./store.ts";

export { MOODS, type Mood, type MoodState };

/** Visitors that come at once, and at most. */
const PARTY = 12;
const CROWD_MOST = 240;
/** Between two polls of a visitor, as the contract's callers do. */
const POLL_MS = 10_000;

interface Visitor {
  sessionId: string;
  mood: Mood;
}

function anyMood(): Mood {
  return MOODS[Math.floor(Math.random() * MOODS.length)] ?? "presence";
}

/** How many are here and in which mood, this tab among them: no account, no name. */
export class Moods {
  readonly state = new Store<MoodState | null>(null);
  readonly mood = new Store<Mood>("presence");
  /** Visitors that this page plays. */
  readonly crowd = new Store<number>(0);
  readonly #client: VeraniClient;
  #visitors: Visitor[] = [];
  #polling: ReturnType<typeof setInterval> | undefined;

  constructor(line: Line) {
    const query = new URLSearchParams({ sessionId: randomUuid(), mood: this.mood.value });
    this.#client = new VeraniClient(`/ws/moods?${query}`, {
      WebSocket: line.WebSocket,
      pingInterval: PING_INTERVAL_MS,
      reconnection: RECONNECTION,
    });
    this.#client.onStateChange((state) => line.report("moods", state));
    line.report("moods", this.#client.getState());
    this.#client.on("mood.state", (state: MoodState) => {
      this.state.value = state;
    });
    // The URL still names the mood of the beginning.
    this.#client.onOpen(() => {
      if (this.mood.value !== "presence") this.#client.emit("mood.set", { mood: this.mood.value });
    });
  }

  setMood(mood: Mood): void {
    this.mood.value = mood;
    if (this.#client.isConnected()) this.#client.emit("mood.set", { mood });
  }

  /** A dozen visitors come in, each polling by itself. */
  invite(): void {
    const room = Math.min(PARTY, CROWD_MOST - this.#visitors.length);
    const party = Array.from({ length: room }, () => ({
      sessionId: randomUuid(),
      mood: anyMood(),
    }));
    this.#visitors.push(...party);
    this.crowd.value = this.#visitors.length;
    for (const visitor of party) void this.#send("/api/heartbeat", visitor);
    this.#polling ??= setInterval(() => {
      for (const visitor of this.#visitors) {
        if (Math.random() < 0.25) visitor.mood = anyMood();
        void this.#send("/api/heartbeat", visitor);
      }
    }, POLL_MS);
  }

  /**
   * All visitors leave. Without a word they would count for another 30 s; a beacon is sent even from
   * a page that ends.
   */
  farewell(): void {
    clearInterval(this.#polling);
    this.#polling = undefined;
    for (const { sessionId } of this.#visitors.splice(0)) {
      navigator.sendBeacon("/api/leave", JSON.stringify({ sessionId }));
    }
    this.crowd.value = 0;
  }

  close(): void {
    this.farewell();
    this.#client.close();
  }

  async #send(path: string, body: object): Promise<void> {
    try {
      await fetch(path, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      });
    } catch {
      // The next poll makes up for it.
    }
  }
}
