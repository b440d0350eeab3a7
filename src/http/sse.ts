import { log } from "../log.ts";
import { RollcallError } from "../wire/errors.ts";

/**
 * Time between two comment lines, in ms. Contracts ask for 15 s at most; a reader that vanished
 * without a word shows at the second write after it, and has to be noticed within 20 s.
 */
export const KEEP_ALIVE_MS = 7_000;

/**
 * Bytes that wait for one reader at most, beyond what the network between us has swallowed. A reader
 * who is further behind is cut off: it may connect anew and begin with a fresh snapshot.
 */
export const STREAM_BUFFER_BYTES = 1_048_576;

/** Time a reader has for the rest of a stream that has ended, in ms. */
const DRAIN_MS = 5_000;

const KEEP_ALIVE = ": keep-alive\n\n";
const encoder = new TextEncoder();

/** One event of a stream, as EventSource gives it to `onmessage`. */
export interface StreamEvent {
  /** Comes back as `Last-Event-ID` when the client reconnects. Without line breaks. */
  id?: string;
  data: string;
}

/** Where a stream's events come from. */
export interface StreamSource {
  /** The actor, called with a WebSocket upgrade. */
  stub: { fetch(request: Request): Promise<Response> };
  /** Path and query of the room's upgrade. */
  path: string;
  /** A message of the actor's socket as events, in order; an empty list is passed over. */
  toEvents(message: string): StreamEvent[];
  /** The bytes the room's codec names as ping: sent with every keep-alive, answered by the runtime. */
  ping?: string;
  /** More headers for the answer, such as those of CORS. */
  headers?: Record<string, string>;
}

/** `text/event-stream` for one event: a line break in the data starts another `data:` line. */
function encodeEvent({ id, data }: StreamEvent): string {
  const head = id === undefined ? "" : `id: ${id}\n`;
  return `${head}data: ${data.replaceAll(/\r\n|\r|\n/g, "\ndata: ")}\n\n`;
}

/**
 * An SSE stream over a room. The Worker holds a hibernatable WebSocket to the actor, so that the
 * actor sees one more session and sleeps while nothing happens. The stream ends when the actor
 * closes that socket (a token's expiry included); the socket is closed when the reader goes away,
 * which is noticed by the request's signal, by the stream's cancellation or by a failing keep-alive.
 *
 * The caller's `Authorization` goes along: the actor checks for itself who may connect, and what it
 * refuses the upgrade with becomes the answer.
 *
 * @throws RollcallError `unavailable` when the actor takes no WebSocket under `path`
 */
export async function openStream(request: Request, source: StreamSource): Promise<Response> {
  const { stub, path, toEvents, ping, headers } = source;
  const upgrade = new Headers({ Upgrade: "websocket" });
  const authorization = request.headers.get("Authorization");
  if (authorization !== null) upgrade.set("Authorization", authorization);
  const answer = await stub.fetch(new Request(new URL(path, request.url), { headers: upgrade }));
  const socket = answer.webSocket;
  if (!socket) {
    if (answer.status < 400) throw new RollcallError("unavailable", "The room takes no streams");
    return new Response(answer.body, answer);
  }

  // Its write settles when the reader has taken the bytes: that is how we know of a slow one.
  const { readable, writable } = new IdentityTransformStream();
  const writer = writable.getWriter();
  let waitingBytes = 0;
  let ended = false;

  function send(text: string): void {
    if (ended) return;
    const bytes = encoder.encode(text);
    waitingBytes += bytes.byteLength;
    if (waitingBytes > STREAM_BUFFER_BYTES) {
      log("stream_cut_off", { waitingBytes });
      leave("The reader is too slow");
      return;
    }
    writer.write(bytes).then(
      () => {
        waitingBytes -= bytes.byteLength;
      },
      () => leave("The reader has gone"),
    );
  }

  /** The reader has gone, or has to. */
  function leave(why: string): void {
    if (!stop()) return;
    writer.abort(new Error(why)).catch(() => {});
  }

  /** The actor is done with us: the reader gets what is left. */
  function finish(): void {
    if (!stop()) return;
    const deadline = setTimeout(() => writer.abort().catch(() => {}), DRAIN_MS);
    writer
      .close()
      .catch(() => {})
      .finally(() => clearTimeout(deadline));
  }

  function stop(): boolean {
    if (ended) return false;
    ended = true;
    clearInterval(keepAlive);
    try {
      socket?.close(1000, "Stream ended");
    } catch {
      // The actor closed it.
    }
    return true;
  }

  const keepAlive = setInterval(() => {
    send(KEEP_ALIVE);
    if (ping !== undefined && !ended) socket.send(ping);
  }, KEEP_ALIVE_MS);
  writer.closed.catch(() => leave("The reader has gone"));
  request.signal.addEventListener("abort", () => leave("The reader has gone"));
  socket.addEventListener("message", ({ data }) => {
    if (typeof data !== "string") return;
    const events = toEvents(data);
    if (events.length > 0) send(events.map(encodeEvent).join(""));
  });
  socket.addEventListener("close", finish);
  socket.addEventListener("error", finish);
  socket.accept();
  if (ping !== undefined) socket.send(ping);
  // Some proxies hold the headers back until the first byte.
  send(": connected\n\n");

  return new Response(readable, {
    headers: {
      "Content-Type": "text/event-stream",
      "Cache-Control": "no-cache, no-transform",
      "X-Accel-Buffering": "no",
      ...headers,
    },
  });
}
