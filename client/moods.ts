import type { Mood, MoodState } from "../rooms/moods/tally.ts";
import { parseFrames, unwrapEvent } from "../src/wire/frames.ts";
import { ReconnectingSocket, randomId, toSocketUrl, type WebSocketLike } from "./socket.ts";

export type { Mood, MoodState } from "../rooms/moods/tally.ts";

export interface MoodOptions {
  /** Where the server is: `https://example.com`, or a path prefix below it. */
  url: string;
  /** Default `presence`. */
  mood?: Mood;
  /** Called with the count whenever it changes; while polling, after each heartbeat. */
  onState: (state: MoodState) => void;
  /** 1–64 characters. Default: a random one, which lives as long as the page. */
  sessionId?: string;
  /** The WebSocket class, where there is no global one. */
  WebSocket?: new (
    url: string,
  ) => WebSocketLike;
}

export interface MoodSession {
  readonly sessionId: string;
  setMood(mood: Mood): void;
  /** The visitor counts no longer, at once and for good, on other tabs with this session id too. */
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
 * Counts the visitor until the page goes away or {@link MoodSession.leave} is called: by a socket, or
 * by a heartbeat every 10 s where sockets fail. It reports no failures, since it comes back by itself.
 *
 * @throws TypeError when `url` is none, or without a WebSocket
 *
 * @example
 * const me = joinMoods({ url: location.origin, mood: "gratitude", onState: ({ count }) => show(count) });
 * me.setMood("release");
 */
export function joinMoods(options: MoodOptions): MoodSession {
  const { onState, sessionId = randomId() } = options;
  const base = options.url.replace(/[?#].*$/, "").replace(/\/+$/, "");
  const target = toSocketUrl(`${base}/ws/moods`);
  target.searchParams.set("sessionId", sessionId);
  target.searchParams.set("v", "3");
  const leaving = new AbortController();
  const { signal } = leaving;
  let mood = options.mood ?? "presence";
  let failures = 0;
  let isHidden = false;
  let poll: ReturnType<typeof setTimeout> | undefined;

  const socket = new ReconnectingSocket(
    async () => {
      target.searchParams.set("mood", mood);
      return { url: target.href };
    },
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
      open() {},
      message(raw) {
        // The server has not refused it.
        failures = 0;
        stopPolling();
        for (const frame of parseFrames(raw)) {
          const { event, data } = unwrapEvent(frame);
          if (event === "mood.state") show(data);
        }
      },
      close(_, final) {
        if (isHidden) return;
        failures += 1;
        // The session has left by another tab's call, or the server refuses it.
        if (final) stop();
        else if (failures >= FAILURES && poll === undefined) void beat();
      },
    },
  );

  function show({ count, moods, timestamp }: MoodState): void {
    if (!signal.aborted) onState({ count, moods, timestamp });
  }

  /** One heartbeat, and the next in time. */
  async function beat(): Promise<void> {
    poll = setTimeout(() => void beat(), POLL_MS);
    try {
      const answer = await fetch(`${base}/api/heartbeat`, {
        method: "POST",
        body: JSON.stringify({ sessionId, mood }),
        signal: abortAfter(signal, POLL_MS),
      });
      if (answer.ok) show(await answer.json());
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

  /** Closes the socket; the server counts the session's other sockets on. Without one, says so. */
  function goAway(): void {
    const { isOpen } = socket;
    socket.stop();
    if (!isOpen) sendLeave();
  }

  function sendLeave(): void {
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
      goAway();
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
      sendLeave();
      stop();
      socket.stop();
    },
  };
}

/** Aborts with `signal`, or after `ms`. `AbortSignal.any` is not there in Safari 17.0. */
function abortAfter(signal: AbortSignal, ms: number): AbortSignal {
  const controller = new AbortController();
  const abort = (): void => controller.abort();
  const timer = setTimeout(abort, ms);
  signal.addEventListener(
    "abort",
    () => {
      clearTimeout(timer);
      abort();
    },
    { once: true },
  );
  return controller.signal;
}
