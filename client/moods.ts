/**
 * Counts a visitor, and shows how many there are: {@link joinMoods}.
 *
 * @module
 */
import type { Mood, MoodState } from "../rooms/moods/tally.ts";
import { parseFrames, unwrapEvent } from "../src/wire/frames.ts";
import { ReconnectingSocket, randomId, toSocketUrl, type WebSocketClass } from "./socket.ts";

export type { Mood, MoodState } from "../rooms/moods/tally.ts";

/** Options of {@link joinMoods}. */
export interface MoodOptions {
  /** Where the server is: `https://example.com`, or a path prefix below it. */
  url: string;
  /** Default `presence`. */
  mood?: Mood;
  /** Called with the count whenever it changes; while polling, after each heartbeat. */
  onState: (state: MoodState) => void;
  /** 1–64 characters. Default: one that the server issues, which lives as long as the page. */
  sessionId?: string;
  /** The WebSocket class, where there is no global one. */
  WebSocket?: WebSocketClass;
}

/** A visitor who is counted, as {@link joinMoods} gives it. */
export interface MoodSession {
  /** Empty until the server has issued one. Whoever knows the id can end the session: show it to nobody. */
  readonly sessionId: string;
  /** Changes the visitor's mood, at once. */
  setMood(mood: Mood): void;
  /** The visitor counts no longer, at once and for good, on other tabs with this session id too. */
  leave(): void;
}

/** A session counts for 30 s after a heartbeat, so that two may get lost. */
const POLL_MS = 10_000;
const UNAUTHORIZED = 4401;
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
  const { onState } = options;
  const base = options.url.replace(/[?#].*$/, "").replace(/\/+$/, "");
  const target = toSocketUrl(`${base}/ws/moods`);
  target.searchParams.set("v", "3");
  const leaving = new AbortController();
  const { signal } = leaving;
  let mood = options.mood ?? "presence";
  let failures = 0;
  let isHidden = false;
  let sessionId = options.sessionId ?? "";
  let isIssued = false;
  let issuing: Promise<void> | undefined;
  let poll: ReturnType<typeof setTimeout> | undefined;

  const socket = new ReconnectingSocket(
    async () => {
      if (sessionId === "") await begin();
      target.searchParams.set("mood", mood);
      if (isIssued) target.searchParams.delete("sessionId");
      else target.searchParams.set("sessionId", sessionId);
      return { url: target.href, token: isIssued ? sessionId : undefined };
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
      close({ code }, final) {
        if (isHidden) return;
        failures += 1;
        // The server signs with another key now: it issues the next one.
        if (code === UNAUTHORIZED && isIssued) sessionId = "";
        // The session has left by another tab's call, or the server refuses it.
        if (final) stop();
        else if (failures >= FAILURES && poll === undefined) void beat();
      },
    },
  );

  function begin(): Promise<void> {
    issuing ??= issue().finally(() => {
      issuing = undefined;
    });
    return issuing;
  }

  /** Has the server issue an id. One of an earlier release takes any. */
  async function issue(): Promise<void> {
    const init = { method: "POST", signal: abortAfter(signal, POLL_MS) };
    const answer = await fetch(`${base}/api/session`, init);
    if (!answer.ok && answer.status !== 404) throw new Error(`No session: ${answer.status}`);
    isIssued = answer.ok;
    sessionId = answer.ok ? ((await answer.json()) as { sessionId: string }).sessionId : randomId();
  }

  function show({ count, moods, timestamp }: MoodState): void {
    if (!signal.aborted) onState({ count, moods, timestamp });
  }

  /** One heartbeat, and the next in time. */
  async function beat(): Promise<void> {
    poll = setTimeout(() => void beat(), POLL_MS);
    try {
      if (sessionId === "") await begin();
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
    if (sessionId === "") return;
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
    get sessionId() {
      return sessionId;
    },
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
