/**
 * The fan-out from both of its ends: {@link FanoutClient} for subscribers, {@link publish} and
 * {@link publishBatch} for backends.
 *
 * @module
 */
import type { Envelope } from "../rooms/fanout/envelope.ts";
import { type Filter, FilterIndex, type FilterKey, parseFilter } from "../rooms/fanout/filters.ts";
import { RollcallError } from "../src/wire/errors.ts";
import { exceedsBytes, FRAME_BYTES, type Untyped } from "../src/wire/frames.ts";
import { assertJson } from "../src/wire/json.ts";
import { type PlainOptions, PlainSocket } from "./plain.ts";
import type { ConnectionState } from "./socket.ts";

export type { Envelope } from "../rooms/fanout/envelope.ts";
export type { Filter } from "../rooms/fanout/filters.ts";
export { RollcallError } from "../src/wire/errors.ts";
export type { PlainOptions, TokenSource } from "./plain.ts";
export type { CloseInfo, ConnectionState, WebSocketClass, WebSocketLike } from "./socket.ts";

/** What it returns, or resolves to, is the ack; `undefined` counts as `null`. */
export type EnvelopeHandler<P = Untyped> = (envelope: Envelope<P>) => unknown;

/** Options of a {@link FanoutClient}. */
export interface FanoutClientOptions extends PlainOptions {
  /** What was published during a break is not known any more, as far as `cursor`. */
  onGap?(gap: Gap): void;
  /** Faults of the socket, of the token, of a handler; `too_many_filters` from the server. */
  onError?(error: unknown): void;
}

/**
 * Envelopes may be missing. `trimmed`: they are older than the server keeps them, or too many;
 * `restarted`, `unknown`: the server does not know where this client was.
 */
export interface Gap {
  reason: "trimmed" | "restarted" | "unknown";
  /** Where the client is now. */
  cursor: string;
}

/** Filters that one message may carry, and one that asks for earlier envelopes. */
const FILTERS_PER_FRAME = 50;
const FILTERS_SINCE = 500;
/** In place of a cursor: nothing of before, but the cursor of now. */
const NOW = "now";
/** UTF-16 units of filters in one message: at most three bytes each, it stays below 64 KiB. */
const FRAME_UNITS = 20_000;

/**
 * Receives what is published to its user, by filters, and answers. It connects at once, comes back
 * after a loss, subscribes again, and receives what was published meanwhile: each envelope once, in
 * order. Where that is not known any more, `onGap` is called. It stays away when the server closed with 1000, 4400 or 4403, and
 * after three refusals in a row with 4401.
 *
 * @example
 * const client = new FanoutClient("wss://example.com", { token: () => freshToken() });
 * const stop = client.subscribe({ type: "chat_message", questId: "q1" }, async ({ payload }) => {
 *   show(payload);
 *   return { shown: true };      // what the publisher gets to see
 * });
 */
export class FanoutClient<Payloads extends Record<string, unknown> = Record<string, Untyped>> {
  readonly #socket: PlainSocket;
  readonly #options: FanoutClientOptions;
  /** Handlers by filter; each `subscribe` has an entry of its own, so that one may be given twice. */
  readonly #entries = new Map<FilterKey, Set<{ handler: EnvelopeHandler }>>();
  readonly #index = new FilterIndex<{ handler: EnvelopeHandler }>();
  /** All envelopes up to here have been received. */
  #cursor = NOW;
  /** The ids of those received since, until the server has sent all that was missed. */
  #received: Set<string> | undefined;

  /** @throws TypeError when `url` is none */
  constructor(url: string, options: FanoutClientOptions) {
    this.#options = options;
    this.#socket = new PlainSocket(url, options, {
      open: () => this.#resume(),
      message: (message) => this.#receive(message),
    });
    this.#socket.open();
  }

  /** The connection's state. */
  get state(): ConnectionState {
    return this.#socket.state;
  }

  /**
   * Receives envelopes that match `filter`, from when the server has it: now, or once connected. If
   * several handlers match, the first value that one returns is the ack. If a handler throws, or returns
   * what JSON cannot hold or is larger than a frame, the ack is `null` and `onError` is called.
   *
   * @returns ends it
   * @throws RollcallError `invalid_data` when `filter` is none
   */
  subscribe<T extends keyof Payloads & string>(
    filter: Filter & { type: T },
    handler: EnvelopeHandler<Payloads[T]>,
  ): () => void {
    const key = parseFilter(filter);
    if (!key) throw new RollcallError("invalid_data", "A filter is strings, with a type");
    const entry = { handler: handler as EnvelopeHandler };
    const entries = this.#entries.get(key);
    if (entries) entries.add(entry);
    else {
      this.#entries.set(key, new Set([entry]));
      this.#announce("subscribe", [key]);
    }
    this.#index.add(key, entry);
    return () => this.#unsubscribe(key, entry);
  }

  /** Leaves, and stays away until {@link reconnect}, which subscribes to all there was. */
  disconnect(): void {
    this.#socket.stop();
  }

  /** Connects now, whatever the state. */
  reconnect(): void {
    this.#socket.open();
  }

  #unsubscribe(key: FilterKey, entry: { handler: EnvelopeHandler }): void {
    this.#index.delete(key, entry);
    const entries = this.#entries.get(key);
    if (!entries?.delete(entry) || entries.size > 0) return;
    this.#entries.delete(key);
    this.#announce("unsubscribe", [key]);
  }

  /** Subscribes to all there is, and asks for what was missed. */
  #resume(): void {
    this.#received ??= new Set();
    this.#announce("subscribe", [...this.#entries.keys()], this.#cursor);
    // Its answer comes after all that was missed.
    this.#socket.send(`{"type":"subscribe","filters":[],"since":"${NOW}"}`);
  }

  /** Sends filters in as many messages as they need; nothing while there is no connection. */
  #announce(type: "subscribe" | "unsubscribe", keys: readonly FilterKey[], since?: string): void {
    let filters: string[] = [];
    let units = 0;
    // A server that has given no cursor may know none, and takes no more.
    const count = since === undefined || since === NOW ? FILTERS_PER_FRAME : FILTERS_SINCE;
    const send = () => {
      if (filters.length > 0) {
        const rest = since === undefined ? "" : `,"since":${JSON.stringify(since)}`;
        this.#socket.send(`{"type":"${type}","filters":[${filters.join(",")}]${rest}}`);
      }
      filters = [];
      units = 0;
    };
    for (const key of keys) {
      if (filters.length === count || units + key.length > FRAME_UNITS) send();
      filters.push(toJson(key));
      units += key.length;
    }
    send();
  }

  #receive(message: Record<string, unknown>): void {
    const { type, envelopeId, cursor } = message;
    if (typeof envelopeId === "string") {
      if (this.#isNew(envelopeId, cursor)) void this.#handle(message as unknown as Envelope);
    } else if (type === "error") this.#socket.fail(new FanoutError(String(message.code)));
    else if (typeof cursor !== "string") return;
    else if (type === "gap")
      this.#socket.notify(() => this.#options.onGap?.(message as unknown as Gap));
    else {
      this.#cursor = cursor;
      this.#received = undefined;
    }
  }

  /** Notes that an envelope has come. @returns false when it had come before */
  #isNew(envelopeId: string, cursor: unknown): boolean {
    // From a server that knows no cursors.
    if (typeof cursor !== "string") return true;
    if (!this.#received) {
      this.#cursor = cursor;
      return true;
    }
    // More may be missing that comes before this one: the cursor stays until all has come.
    const isNew = !this.#received.has(envelopeId);
    this.#received.add(envelopeId);
    return isNew;
  }

  async #handle(envelope: Envelope): Promise<void> {
    const { connections } = this.#socket;
    const entries = this.#index.match(envelope.type, envelope.payload);
    const answers = await Promise.all(
      [...entries].map(async ({ handler }) => {
        try {
          return await handler(envelope);
        } catch (error) {
          this.#socket.fail(error);
          return undefined;
        }
      }),
    );
    // The server waits for an answer of the connection that it sent the envelope to.
    if (connections !== this.#socket.connections) return;
    const ack = { type: "ack", envelopeId: envelope.envelopeId, result: null };
    let text = JSON.stringify(ack);
    // A bad answer is an error here, not a wait of 5 s for the publisher, nor the end of the connection.
    this.#socket.notify(() => {
      const result = answers.find((answer) => answer !== undefined) ?? null;
      assertJson(result, "The answer");
      const full = JSON.stringify({ ...ack, result });
      if (exceedsBytes(full, FRAME_BYTES)) {
        throw new RollcallError("too_large", `An answer has at most ${FRAME_BYTES} bytes`);
      }
      text = full;
    });
    this.#socket.send(text);
  }
}

/** An error that the server sent: `too_many_filters`, or one of the coded errors. */
export class FanoutError extends Error {
  override readonly name = "FanoutError";
  readonly code: string;

  constructor(code: string) {
    super(`The server says ${code}`);
    this.code = code;
  }
}

/** A filter as JSON. By hand, since an object would take `__proto__` for its prototype. */
function toJson(key: FilterKey): string {
  const [type, ...fields] = (JSON.parse(key) as string[]).map((text) => JSON.stringify(text));
  const pairs = [`"type":${type}`];
  for (let i = 0; i < fields.length; i += 2) pairs.push(`${fields[i]}:${fields[i + 1]}`);
  return `{${pairs.join(",")}}`;
}

// ── Backends ────────────────────────────────────────────────────────────────────────────────

/** Where to publish, and as whom. */
export interface Publisher {
  /** `https://…`: the server's origin, with the path that the fan-out is mounted under. */
  url: string;
  /** A JWT that may publish, or a function that gives one for each request. */
  token: string | (() => string | Promise<string>);
  /** Default: the global one. */
  fetch?: typeof fetch;
}

/** A message to a user, as {@link publish} takes it. */
export interface Publication {
  userId: string;
  /** Default `message`. */
  type?: string;
  payload?: unknown;
  /** ms to wait for acks, 0 to 5000, default 5000. */
  ackTimeoutMs?: number;
  /**
   * 1–256 characters: the same key to the same user within 10 minutes delivers once. A publish with
   * one is tried again when its answer is lost.
   */
  idempotencyKey?: string;
}

/** What became of a message: `R` is what its receivers answer. */
export interface PublishAnswer<R = Untyped> {
  /** Sockets that had a matching filter. */
  clientCount: number;
  /** What they answered, in the order in which it came. */
  results: R[];
  /** Where a reader of the user's envelopes is, once it has this one. */
  cursor?: string;
}

/** Attempts at a publish with a key, and the widest wait between them in ms. */
const ATTEMPTS = 3;
const RETRY_MS = 1_000;

/** A publish that was refused. */
export class PublishError extends Error {
  override readonly name = "PublishError";
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/**
 * Publishes to a user's sockets and waits for what they answer, for 5 s at most.
 *
 * @throws PublishError what the server refused, with its status; TypeError where it cannot be
 *   reached, or the connection ends before the whole answer is there
 */
export function publish<R = Untyped>(
  server: Publisher,
  publication: Publication,
): Promise<PublishAnswer<R>> {
  const { idempotencyKey, ...message } = publication;
  const headers: Record<string, string> =
    idempotencyKey === undefined ? {} : { "Idempotency-Key": idempotencyKey };
  return post(server, "/publish", message, headers, idempotencyKey !== undefined);
}

/**
 * Publishes up to 100 messages, 1 MiB in all, those to one user in order; each has its own answer.
 *
 * @throws PublishError when the batch as a whole is refused; TypeError as {@link publish}
 */
export async function publishBatch<R = Untyped>(
  server: Publisher,
  messages: readonly Publication[],
): Promise<(PublishAnswer<R> | PublishError)[]> {
  type Result = ({ status: 200 } & PublishAnswer<R>) | { status: number; error: string };
  const isRepeatable = messages.every(({ idempotencyKey }) => idempotencyKey !== undefined);
  const { results } = await post<{ results: Result[] }>(
    server,
    "/publish/batch",
    { messages },
    {},
    isRepeatable,
  );
  return results.map((result) => {
    if ("error" in result) return new PublishError(result.status, result.error);
    const { status: _, ...answer } = result;
    return answer;
  });
}

async function post<T>(
  server: Publisher,
  path: string,
  body: unknown,
  headers: Record<string, string>,
  isRepeatable: boolean,
): Promise<T> {
  const { url, token, fetch: ask = fetch } = server;
  const text = JSON.stringify(body);
  const { origin, pathname } = new URL(url);
  const base = origin + pathname.replace(/\/+$/, "");
  for (let attempt = 1; ; attempt++) {
    const isLast = !isRepeatable || attempt === ATTEMPTS;
    try {
      const response = await ask(`${base}${path}`, {
        method: "POST",
        headers: {
          Authorization: `Bearer ${typeof token === "function" ? await token() : token}`,
          "Content-Type": "application/json",
          ...headers,
        },
        body: text,
      });
      // An answer that breaks off after its status is none: this throws.
      if (response.ok) return (await response.json()) as T;
      const answer = (await response.json().catch(() => ({}))) as { error?: string };
      const error = new PublishError(response.status, answer.error ?? response.statusText);
      if (isLast || response.status < 500) throw error;
    } catch (error) {
      if (isLast || error instanceof PublishError) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, Math.random() * RETRY_MS * attempt));
  }
}
