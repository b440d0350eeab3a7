import { log } from "../log.ts";
import { RollcallError } from "../wire/errors.ts";

/**
 * Time between two comment lines, in ms. Contracts allow 15 s at most. The second write after a reader
 * vanished fails, and the server must notice within 20 s.
 */
export const KEEP_ALIVE_MS = 7_000;

/**
 * Bytes that wait for one reader at most, beyond what the network has buffered. A slower reader is cut
 * off. It may connect again, and then begins with a new snapshot.
 */
export const STREAM_BUFFER_BYTES = 1_048_576;

/** Time that a reader has for the rest of an ended stream, in ms. */
const DRAIN_MS = 5_000;

const STREAM_HEADERS = {
  "Content-Type": "text/event-stream",
  "Cache-Control": "no-cache, no-transform",
  "X-Accel-Buffering": "no",
};
const KEEP_ALIVE = ": keep-alive\n\n";
const encoder = new TextEncoder();

/** One event of a stream, as EventSource gives it to its listeners. Without data, it only notes the id. */
export interface StreamEvent {
  /** Comes back as `Last-Event-ID` when the client reconnects. Without line breaks. */
  id?: string;
  /** Its name; by default it goes to `onmessage`. */
  event?: string;
  data?: string;
}

/** A message for the actor, to be sent in so many ms. The actor may sleep until then. */
export interface DelayedMessage {
  inMs: number;
  text: string;
}

/** The source of a stream's events. */
export interface StreamSource {
  /** The actor, called with a WebSocket upgrade. */
  stub: { fetch(request: Request): Promise<Response> };
  /** Path and query of the room's upgrade. */
  path: string;
  /** A message of the actor's socket as events, in order; an empty list sends nothing. */
  toEvents(message: string): StreamEvent[];
  /** The message that the actor must be sent later, if `message` asks for one. It replaces the one before. */
  toDelayed?(message: string): DelayedMessage | undefined;
  /** The answer that the actor expects to `message` at once. */
  toReply?(message: string): string | undefined;
  /**
   * What the actor's socket is closed with when the reader is gone; default 1000. With another one a room
   * of protocol 3 keeps what the reader misses, so that it can come back.
   */
  goneCode?: number;
  /** The ping of the room's codec: sent with every keep-alive, answered by the runtime. */
  ping?: string;
}

/** `text/event-stream` for one event: a line break in the data starts another `data:` line. */
function encodeEvent({ id, event, data }: StreamEvent): string {
  const name = event === undefined ? "" : `event: ${event}\n`;
  const head = id === undefined ? name : `${name}id: ${id}\n`;
  if (data === undefined) return `${head}\n`;
  return `${head}data: ${data.replaceAll(/\r\n|\r|\n/g, "\ndata: ")}\n\n`;
}

/**
 * An SSE stream over a room. The Worker holds a WebSocket to the actor that can hibernate. For the
 * actor it is one more session, and the actor sleeps while nothing happens. The stream ends when the
 * actor closes that socket, for example because a token expired. The socket is closed when the reader
 * is gone: then the request's signal aborts, the stream is cancelled, or a keep-alive fails.
 *
 * A HEAD request gets the headers only, and no actor is called. Nobody would read its stream, and the
 * runtime reports no end of it, so its session would stay.
 *
 * The upgrade carries the request's `Authorization`, since the actor checks for itself who may
 * connect. If it refuses, its answer is the answer.
 *
 * @throws RollcallError `unavailable` when the actor takes no WebSocket under `path`
 */
export async function openStream(request: Request, source: StreamSource): Promise<Response> {
  const { stub, path, toEvents, toDelayed, toReply, goneCode = 1000, ping } = source;
  if (request.method !== "GET") return new Response(null, { headers: STREAM_HEADERS });
  const upgrade = new Headers({ Upgrade: "websocket" });
  const authorization = request.headers.get("Authorization");
  if (authorization !== null) upgrade.set("Authorization", authorization);
  const answer = await stub.fetch(new Request(new URL(path, request.url), { headers: upgrade }));
  const socket = answer.webSocket;
  if (!socket) {
    if (answer.status < 400) throw new RollcallError("unavailable", "The room takes no streams");
    return new Response(answer.body, answer);
  }

  // A write settles when the reader has taken its bytes, so pending writes show a slow reader.
  const { readable, writable } = new IdentityTransformStream();
  const writer = writable.getWriter();
  let pendingBytes = 0;
  let ended = false;
  let delayed: ReturnType<typeof setTimeout> | null = null;

  function send(text: string): void {
    if (ended) return;
    const bytes = encoder.encode(text);
    pendingBytes += bytes.byteLength;
    if (pendingBytes > STREAM_BUFFER_BYTES) {
      log("stream_cut_off", { pendingBytes });
      cutOff("The reader is too slow");
      return;
    }
    writer.write(bytes).then(
      () => {
        pendingBytes -= bytes.byteLength;
      },
      () => cutOff("The reader is gone"),
    );
  }

  /** The reader is gone, or too slow: what is pending is dropped. */
  function cutOff(why: string): void {
    if (!stop()) return;
    writer.abort(new Error(why)).catch(() => {});
  }

  /** The actor has closed: the reader still gets what is pending. */
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
    clearTimeout(delayed);
    try {
      socket?.close(goneCode, "Stream ended");
    } catch {
      // The actor closed it.
    }
    return true;
  }

  const keepAlive = setInterval(() => {
    send(KEEP_ALIVE);
    if (ping !== undefined && !ended) socket.send(ping);
  }, KEEP_ALIVE_MS);
  writer.closed.catch(() => cutOff("The reader is gone"));
  request.signal.addEventListener("abort", () => cutOff("The reader is gone"));
  socket.addEventListener("message", ({ data }) => {
    if (typeof data !== "string" || ended) return;
    const later = toDelayed?.(data);
    if (later) {
      clearTimeout(delayed);
      delayed = setTimeout(() => socket.send(later.text), later.inMs);
    }
    const reply = toReply?.(data);
    if (reply !== undefined) socket.send(reply);
    const events = toEvents(data);
    if (events.length > 0) send(events.map(encodeEvent).join(""));
  });
  socket.addEventListener("close", finish);
  socket.addEventListener("error", finish);
  socket.accept();
  if (ping !== undefined) socket.send(ping);
  // Some proxies delay the headers until the first byte.
  send(": connected\n\n");

  return new Response(readable, { headers: STREAM_HEADERS });
}
