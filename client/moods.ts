import type { Mood, MoodState } from "../rooms/moods/tally.ts";
import { parseFrames, unwrapEvent } from "../src/wire/frames.ts";
import { ReconnectingSocket, type WebSocketLike } from "./socket.ts";

export type { Mood, MoodState } from "../rooms/moods/tally.ts";

export interface MoodOptions {
  /** Where the server is: `https://example.com`, or a path prefix below it. */
  url: string;
  /** Default `presence`. */
  mood?: Mood;
  /** How many are here, whenever it changes; by polling, whenever it was asked. */
  onState: (state: MoodState) => void;
  /** 1–64 characters. Default: a random one, which lives as long as the page. */
  sessionId?: string;
  /** For where there is no global one. */
  WebSocket?: new (
    url: string,
  ) => WebSocketLike;
}

export interface MoodSession {
  readonly sessionId: string;
  setMood(mood: Mood): void;
  /** Counts no longer, at once; for good. */
  leave(): void;
}

/** A session counts for 30 s after a heartbeat, so that two may get lost. */
const POLL_MS = 10_000;
/** Failed attempts after which polling fills in. Attempts go on meanwhile. */
const FAILURES = 2;

interface Page {
  addEventListener?(
    type: string,
    listener: (event: { persisted?: boolean }) => void,
    options: { signal: AbortSignal },
  ): void;
  navigator?: { sendBeacon?(url: string, body: string): boolean };
}
const page = globalThis as unknown as Page;

/**
 * Counts the visitor in until the page goes away or {@link MoodSession.leave} is called. A socket
 * while there can be one; heartbeats every 10 s while there cannot. Failures are silent: what counts
 * is that it comes back by itself.
 *
 * @example
 * const me = joinMoods({ url: location.origin, mood: "gratitude", onState: ({ count }) => show(count) });
 * me.setMood("release");
 */
export function joinMoods(options: MoodOptions): MoodSession {
  const { onState, sessionId = crypto.randomUUID() } = options;
  const base = options.url.replace(/\/+$/, "");
  const leaving = new AbortController();
  const { signal } = leaving;
  let mood = options.mood ?? "presence";
  let failures = 0;
  let isHidden = false;
  let poll: ReturnType<typeof setTimeout> | undefined;

  const socket = new ReconnectingSocket(
    async () =>
      `${base.replace(/^http/, "ws")}/ws/moods?${new URLSearchParams({ sessionId, mood })}`,
    {
      reconnection: {
        enabled: true,
        maxAttempts: 0,
        initialDelay: 500,
        maxDelay: 30_000,
        backoffMultiplier: 2,
      },
      pingInterval: POLL_MS,
      pongTimeout: POLL_MS,
      connectionTimeout: POLL_MS,
      ...(options.WebSocket && { WebSocket: options.WebSocket }),
    },
    {
      state() {},
      error() {},
      open() {
        failures = 0;
        stopPolling();
      },
      message(raw) {
        for (const frame of parseFrames(raw)) {
          const { event, data } = unwrapEvent(frame);
          if (event === "mood.state") tell(data);
        }
      },
      close(_, final) {
        if (isHidden) return;
        failures += 1;
        // The session has left, by another tab or call: the server does not want it back.
        if (final) stop();
        else if (failures >= FAILURES && poll === undefined) void beat();
      },
    },
  );

  function tell({ count, moods, timestamp }: MoodState): void {
    if (!signal.aborted) onState({ count, moods, timestamp });
  }

  /** One heartbeat, and the next in time. */
  async function beat(): Promise<void> {
    poll = setTimeout(() => void beat(), POLL_MS);
    try {
      const answer = await fetch(`${base}/api/heartbeat`, {
        method: "POST",
        body: JSON.stringify({ sessionId, mood }),
        signal: AbortSignal.any([signal, AbortSignal.timeout(POLL_MS)]),
      });
      if (answer.ok) tell(await answer.json());
    } catch {
      // The next one may get through.
    }
  }

  function stopPolling(): void {
    clearTimeout(poll);
    poll = undefined;
  }

  function stop(): void {
    leaving.abort();
    stopPolling();
  }

  function sayGoodbye(): void {
    const url = `${base}/api/leave`;
    const body = JSON.stringify({ sessionId });
    // A page that goes away takes its requests with it, but not its beacons.
    if (page.navigator?.sendBeacon?.(url, body)) return;
    fetch(url, { method: "POST", body, keepalive: true }).catch(() => {});
  }

  page.addEventListener?.(
    "pagehide",
    () => {
      isHidden = true;
      stopPolling();
      sayGoodbye();
      socket.stop();
    },
    { signal },
  );
  page.addEventListener?.(
    "pageshow",
    ({ persisted }) => {
      // Back out of the browser's cache; on a first load there is nothing to come back to.
      if (!persisted) return;
      isHidden = false;
      failures = 0;
      socket.open();
    },
    { signal },
  );
  socket.open();

  return {
    sessionId,
    setMood(next) {
      mood = next;
      if (signal.aborted) return;
      const sent = socket.send(JSON.stringify({ type: "mood.set", data: { mood } }));
      // Without a socket the next attempt says it in its URL, and polling says it at once.
      if (!sent && poll !== undefined) {
        stopPolling();
        void beat();
      }
    },
    leave() {
      if (signal.aborted) return;
      sayGoodbye();
      stop();
      socket.stop();
    },
  };
}
