/**
 * Rollcall from a backend: {@link rollcall} calls its HTTP API, {@link verifyWebhook} checks what it
 * sends. It needs fetch and WebCrypto only: Node 20 and later, Bun, Deno and Workers have them.
 */
import type { Heartbeat } from "../../rooms/devices/device.ts";
import type { LeaveReason, RosterEntry } from "../../rooms/presence/roster.ts";
import { type ErrorCode, isCode, RollcallError } from "../wire/errors.ts";
import { assertJson } from "../wire/json.ts";
import { requireWellFormed } from "../wire/text.ts";

export { type ErrorCode, RollcallError } from "../wire/errors.ts";

/** Options of {@link rollcall}. */
export interface BackendOptions {
  /** A JWT, or a function that gives one: it is called for each request, and for each repeat of one. */
  token: string | (() => string | Promise<string>);
  /** Default: the global one. */
  fetch?: typeof fetch;
  /** Time until the whole answer has arrived, in ms, for each attempt. Default 10 000. */
  timeoutMs?: number;
}

/** Options of {@link BackendRoom.emit}. */
export interface EmitOptions {
  /** Default `default`. */
  channel?: string;
  /** The id of a session that does not receive it. */
  except?: string;
  /**
   * 1–256 characters: the same key within 10 minutes delivers once. Default: a random one. With null
   * there is none: the server stores nothing for it, and the request is never repeated.
   */
  idempotencyKey?: string | null;
}

/** One message of {@link BackendRoom.emitMany}. */
export interface Emission extends EmitOptions {
  event: string;
  /** An object that JSON can hold. The server adds `publisher`, the id of the token's user. */
  data?: object;
}

/** What became of an event. */
export interface EmitAnswer {
  /** Sessions that it was sent to. */
  recipients: number;
  /** The place of the event in the room's log. */
  cursor: string;
}

/** What became of one message of a batch. */
export type EmitResult =
  | ({ status: 200; error?: undefined } & EmitAnswer)
  | { status: number; error: ErrorCode; details: string };

/** How many are in a room. */
export interface RoomTotals {
  room: string;
  totalUsers: number;
  totalConnections: number;
}

/** A user in a room, without states. */
export type RoomUser = RosterEntry<string>;

/** Users of a room, sorted by userId, with the room's totals. */
export interface UserPage extends RoomTotals {
  users: RoomUser[];
  /** The next page follows after this userId. Null: there is none. */
  next: string | null;
}

interface ChangeBase {
  room: string;
  /** Offsets are counted within an epoch. */
  epoch: string;
  /** Grows by exactly 1 within an epoch. */
  offset: number;
  /** Sessions of the user, or of the room, from then on. */
  sessions: number;
  /** When it happened, in ms since the epoch. */
  at: number;
}

/** A user joined or left a room (`user.*`), or its first user joined or its last one left (`room.*`). */
export type Change = ChangeBase &
  (
    | { type: "user.joined"; userId: string }
    | { type: "user.left"; userId: string; reason?: LeaveReason }
    | { type: "room.occupied" | "room.vacated" }
  );

/** Changes after a cursor, or all users where those changes are not stored. */
export type ChangePage =
  | { changes: Change[]; cursor: string; more: boolean }
  | { snapshot: { userId: string; sessions: number }[]; cursor: string };

/** An event of a room, or a gap: events before `cursor` are not known any more. */
export type StreamItem =
  | { type: "event"; event: string; channel: string; data: unknown; cursor: string }
  | { type: "gap"; reason: string; cursor: string };

/** Options of {@link BackendRoom.stream}. */
export interface StreamOptions {
  /** The cursor of the last item that was received. Default: from now. */
  since?: string;
  /** Ends the stream. */
  signal?: AbortSignal;
}

/** Where a user is. */
export interface Whereabouts {
  online: boolean;
  /** In ms since the epoch. Null: never, or not known. */
  lastSeenMs: number | null;
  /** `devices`: the user's live connections in that room. */
  rooms: { room: string; devices: number; status: string }[];
  /** As their daemons reported them last. */
  devices: Heartbeat[];
}

/** A message to a user, as {@link BackendUser.publish} takes it. */
export interface Publication {
  /** Default `message`. */
  type?: string;
  payload?: unknown;
  /** Time to wait for acks, in ms: 0 to 5000. Default 5000. */
  ackTimeoutMs?: number;
  /** As that of {@link EmitOptions}. */
  idempotencyKey?: string | null;
}

/** What became of a message. */
export interface PublishAnswer {
  /** Sockets with a filter that matched. */
  clientCount: number;
  /** The results in their acks, in the order of arrival. */
  results: unknown[];
}

/** Attempts at a request that may be repeated. */
const ATTEMPTS = 3;
/** A request is not repeated when the server asks for a longer wait, in ms. */
const WAIT_MOST_MS = 10_000;
/** The same for a stream, and the widest wait between its attempts. */
const STREAM_WAIT_MOST_MS = 30_000;
/** The widest wait after the first failure, in ms. It doubles with each further one. */
const WAIT_MS = 500;
/** The server writes to a stream every 7 s. After so long without a byte, in ms, it is lost. */
const SILENCE_MS = 20_000;
/** With a longer delay, timers fire at once. */
const LONGEST_TIMER_MS = 2_147_483_647;
/** Signatures of a webhook that are checked. Each costs an HMAC over the body, whoever sent it. */
const SIGNATURES = 10;

/** Codes for the status of an answer that names none, such as that of a proxy. */
const CODE_OF_STATUS: Partial<Record<number, ErrorCode>> = {
  401: "unauthorized",
  403: "forbidden",
  404: "not_found",
  405: "method_not_allowed",
  409: "conflict",
  413: "too_large",
  415: "unsupported_media_type",
  422: "unprocessable",
  429: "rate_limited",
  503: "unavailable",
  504: "timeout",
};

const encoder = new TextEncoder();

/** A request that failed. Its status is that of the answer, where one came. */
class RequestError extends RollcallError {
  readonly #isLost: boolean;
  readonly #retryAfterMs: number;

  /** @param retryAfterMs the shortest wait that the server asks for */
  constructor(code: ErrorCode, message: string, status?: number, retryAfterMs = 0) {
    super(code, message, undefined, status);
    this.#isLost = status === undefined;
    this.#retryAfterMs = retryAfterMs;
  }

  /** Time until attempt number `attempt + 1`, in ms. Undefined: another attempt would fail as well. */
  delayMs(attempt: number, mostMs: number): number | undefined {
    if (!this.#isLost && this.status !== 429 && this.status !== 503) return undefined;
    if (this.#retryAfterMs > mostMs) return undefined;
    const waitMs = jitter(Math.min(WAIT_MS * 2 ** (attempt - 1), mostMs));
    return Math.max(waitMs, this.#retryAfterMs);
  }
}

/** Between half and all of `ms`: backends that failed together do not come back together. */
function jitter(ms: number): number {
  return ms * (0.5 + Math.random() / 2);
}

/** Resolves after `ms`, or when `signal` aborts. */
function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", done);
  });
}

/** An id in a path. @throws RollcallError `bad_request` */
function encodeId(id: string, what: string): string {
  requireWellFormed(id, what);
  // Both also in percent-encoding: a URL then names another path.
  if (id === "" || id === "." || id === "..") {
    throw new RollcallError("bad_request", `${what} cannot be "${id}": no path can name it`);
  }
  return encodeURIComponent(id);
}

function queryOf(fields: Record<string, string | number | undefined>): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined) query.set(name, String(value));
  }
  const text = query.toString();
  return text && `?${text}`;
}

function parseJson(text: string, status: number): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new RequestError("internal", "The answer is not JSON", status);
  }
}

/** The error of a fetch, or of reading its answer. */
function lost(cause: unknown, signal: AbortSignal): RequestError {
  const error = signal.aborted
    ? new RequestError("timeout", "No answer came in time")
    : new RequestError("disconnected", "The connection failed before the answer came");
  error.cause = cause;
  return error;
}

async function refused(answer: Response): Promise<RequestError> {
  const { status } = answer;
  const body = (await answer.json().catch(() => null)) as Record<string, unknown> | null;
  const error = body?.error;
  // A word that is no code is one of a contract with words of its own.
  const isKnown = typeof error === "string" && isCode(error);
  const ofStatus = CODE_OF_STATUS[status] ?? (status < 500 ? "bad_request" : "internal");
  const texts = [body?.details, error].filter((text) => typeof text === "string");
  const retryAfter = answer.headers.get("Retry-After")?.trim() ?? "";
  return new RequestError(
    isKnown ? (error as ErrorCode) : ofStatus,
    texts[0] ?? `The server answered ${status}`,
    status,
    /^\d+$/.test(retryAfter) ? Number(retryAfter) * 1_000 : 0,
  );
}

interface RequestOptions {
  body?: object;
  /** Sent as `Idempotency-Key`. */
  key?: string | null;
  /** Whether a second request has no further effect. */
  isRepeatable?: boolean;
}

/** The server's HTTP API. */
class Api {
  readonly #base: string;
  readonly #options: BackendOptions;

  constructor(url: string, options: BackendOptions) {
    const { origin, pathname, protocol } = new URL(url);
    if (!/^https?:$/.test(protocol)) throw new TypeError(`${url} is no URL of http or https`);
    this.#base = origin + pathname.replace(/\/+$/, "");
    this.#options = options;
  }

  get timeoutMs(): number {
    return Math.min(this.#options.timeoutMs ?? 10_000, LONGEST_TIMER_MS);
  }

  /**
   * The JSON of the answer.
   *
   * @throws RollcallError the server's code; `disconnected`, `timeout`
   */
  async request<T>(method: string, path: string, options: RequestOptions = {}): Promise<T> {
    const { isRepeatable = true } = options;
    for (let attempt = 1; ; attempt++) {
      try {
        return (await this.#attempt(method, path, options)) as T;
      } catch (thrown) {
        const isLast = !isRepeatable || attempt === ATTEMPTS;
        // After a timeout, the caller has waited for as long as it wanted to.
        if (isLast || !(thrown instanceof RequestError) || thrown.code === "timeout") throw thrown;
        const delayMs = thrown.delayMs(attempt, WAIT_MOST_MS);
        if (delayMs === undefined) throw thrown;
        await sleep(delayMs);
      }
    }
  }

  async #attempt(method: string, path: string, { body, key }: RequestOptions): Promise<unknown> {
    const headers = new Headers({
      ...(body && { "Content-Type": "application/json" }),
      ...(typeof key === "string" && { "Idempotency-Key": key }),
    });
    const signal = AbortSignal.timeout(this.timeoutMs);
    const text = body && JSON.stringify(body);
    const answer = await this.open(path, { method, headers, signal, ...(text && { body: text }) });
    const json = await answer.text().catch((error) => {
      throw lost(error, signal);
    });
    return parseJson(json, answer.status);
  }

  /** The answer, before its body has arrived. @throws RollcallError as {@link request} */
  async open(
    path: string,
    init: { method: string; headers: Headers; signal: AbortSignal; body?: string },
  ): Promise<Response> {
    const { token, fetch: send = fetch } = this.#options;
    const bearer = typeof token === "function" ? await token() : token;
    init.headers.set("Authorization", `Bearer ${bearer}`);
    let answer: Response;
    try {
      // A redirect would turn a POST into a GET.
      answer = await send(`${this.#base}${path}`, { ...init, redirect: "manual" });
    } catch (error) {
      throw lost(error, init.signal);
    }
    if (!answer.ok) throw await refused(answer);
    return answer;
  }
}

/** A room, over HTTP. All methods reject with a RollcallError, as {@link rollcall} describes. */
class BackendRoom {
  readonly #api: Api;
  readonly #path: string;

  constructor(api: Api, name: string) {
    this.#api = api;
    this.#path = `/api/v1/rooms/${encodeId(name, "A room's name")}`;
  }

  /**
   * Delivers an event to the room. Needs the grant `publish`.
   *
   * @param data an object that JSON can hold; the server adds `publisher`, the id of the token's user
   * @throws TypeError for data that JSON cannot hold
   */
  async emit(event: string, data?: object, options: EmitOptions = {}): Promise<EmitAnswer> {
    const { idempotencyKey: key = crypto.randomUUID(), channel, except } = options;
    assertJson(data);
    return this.#api.request("POST", `${this.#path}/events`, {
      body: { event, data, channel, except },
      key,
      isRepeatable: key !== null,
    });
  }

  /**
   * Delivers up to 100 events in one request. One that the server refuses does not stop the others.
   *
   * @returns a result for each message, in their order
   * @throws TypeError for data that JSON cannot hold
   */
  async emitMany(messages: readonly Emission[]): Promise<EmitResult[]> {
    const keyed = messages.map(({ idempotencyKey = crypto.randomUUID(), ...message }) => {
      assertJson(message.data);
      return idempotencyKey === null ? message : { ...message, idempotencyKey };
    });
    const isRepeatable = messages.every(({ idempotencyKey }) => idempotencyKey !== null);
    const { results } = await this.#api.request<{ results: EmitResult[] }>(
      "POST",
      `${this.#path}/events/batch`,
      { body: { messages: keyed }, isRepeatable },
    );
    return results;
  }

  /** How many users and connections are in the room. Needs the grant `join` or `watch`. */
  async info(): Promise<RoomTotals> {
    return this.#api.request("GET", this.#path);
  }

  /** A page of the users in the room, by their ids. Needs the grant `join` or `watch`. */
  async users({ after }: { after?: string } = {}): Promise<UserPage> {
    return this.#api.request("GET", this.#path + queryOf({ users: 1, after }));
  }

  /** All users in the room, page by page: those who join or leave meanwhile may be missing. */
  async *allUsers(): AsyncGenerator<RoomUser, void, undefined> {
    let page = await this.users();
    yield* page.users;
    while (page.next !== null) {
      page = await this.users({ after: page.next });
      yield* page.users;
    }
  }

  /**
   * Closes the user's sessions in the room; none can be resumed. Needs the grant `kick`.
   *
   * @param options `blockMs`: the user cannot return for so long, 1 to 2 592 000 000 (30 days)
   * @returns `sessions`: how many were closed
   */
  async kick(userId: string, options: { blockMs?: number } = {}): Promise<{ sessions: number }> {
    const path = `${this.#path}/users/${encodeId(userId, "A user's id")}`;
    return this.#api.request("DELETE", path + queryOf({ blockMs: options.blockMs }));
  }

  /**
   * Changes of the roster after a cursor, or all users with a cursor to continue from: without
   * `after`, and where the changes since then are not stored. Needs the grant `watch`, and a webhook
   * that selects the room: otherwise `not_found`.
   *
   * @param after the cursor of an earlier page, or `<epoch>:<offset>` of a {@link Change}
   */
  async changes(after?: string): Promise<ChangePage> {
    return this.#api.request("GET", `${this.#path}/changes${queryOf({ after })}`);
  }

  /**
   * The events of the room, live. A lost connection is opened again, and what happened meanwhile
   * follows; where that is not known any more, an item with the type `gap` comes instead. Needs the
   * grant `watch`. It ends when `signal` aborts. Once it was open, its attempts to return do not end.
   *
   * @throws RollcallError when the server refuses it, or it cannot be opened in three attempts
   *
   * @example
   * for await (const item of room.stream({ since, signal })) {
   *   if (item.type === "event") await apply(item.event, item.data);
   *   await save(item.cursor);
   * }
   */
  async *stream(options: StreamOptions = {}): AsyncGenerator<StreamItem, void, undefined> {
    const { since, signal } = options;
    let cursor = since ?? "";
    let failures = 0;
    let wasOpen = false;
    while (!signal?.aborted) {
      const startedAt = Date.now();
      const connection = new AbortController();
      const abort = (): void => connection.abort();
      signal?.addEventListener("abort", abort);
      const timer = setTimeout(abort, this.#api.timeoutMs);
      let failure: unknown = new RequestError("disconnected", "The stream ended");
      try {
        const headers = new Headers({ Accept: "text/event-stream" });
        if (cursor !== "") headers.set("Last-Event-ID", cursor);
        const init = { method: "GET", headers, signal: connection.signal };
        const answer = await this.#api.open(`${this.#path}/stream`, init);
        clearTimeout(timer);
        wasOpen = true;
        for await (const event of readEvents(answer, connection)) {
          if (signal?.aborted) return;
          cursor = event.id ?? cursor;
          const item = toItem(event, cursor);
          if (item) yield item;
        }
      } catch (thrown) {
        failure = thrown;
      } finally {
        clearTimeout(timer);
        signal?.removeEventListener("abort", abort);
        abort();
      }
      if (signal?.aborted) return;
      // A server that accepts and closes at once is a failing one.
      failures = wasOpen && Date.now() - startedAt >= STREAM_WAIT_MOST_MS ? 1 : failures + 1;
      const isLast = !wasOpen && failures === ATTEMPTS;
      if (isLast || !(failure instanceof RequestError)) throw failure;
      const delayMs = failure.delayMs(failures, STREAM_WAIT_MOST_MS);
      if (delayMs === undefined) throw failure;
      await sleep(delayMs, signal);
    }
  }
}

interface ServerEvent {
  event: string;
  /** Of the last `id:` line; absent where none came since the last event. */
  id?: string;
  data?: string;
}

/**
 * The events of a `text/event-stream`, as the HTML standard parses them; one without data only sets
 * the id. It aborts the connection when no byte comes for {@link SILENCE_MS}.
 *
 * @throws RollcallError `disconnected`; `internal` when the answer is no stream
 */
async function* readEvents(
  answer: Response,
  connection: AbortController,
): AsyncGenerator<ServerEvent, void, undefined> {
  const isStream = /^text\/event-stream\b/i.test(answer.headers.get("Content-Type") ?? "");
  if (!isStream || !answer.body) {
    throw new RequestError("internal", "The answer is no stream of events", answer.status);
  }
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let next: ServerEvent = { event: "message" };
  try {
    for (;;) {
      const timer = setTimeout(() => connection.abort(), SILENCE_MS);
      const { done, value } = await reader.read().finally(() => clearTimeout(timer));
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split(/\r?\n/);
      rest = lines.pop() ?? "";
      for (const line of lines) {
        const [, field = "", text = ""] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? [];
        if (field === "id") next.id = text;
        else if (field === "event") next.event = text || "message";
        else if (field === "data")
          next.data = next.data === undefined ? text : `${next.data}\n${text}`;
        else if (line === "") {
          if (next.data !== undefined || next.id !== undefined) yield next;
          next = { event: "message" };
        }
      }
    }
  } catch (error) {
    if (error instanceof RollcallError) throw error;
    const ended = new RequestError("disconnected", "The stream was lost");
    ended.cause = error;
    throw ended;
  } finally {
    await reader.cancel().catch(() => {});
  }
}

/** An event of a name that this release does not know is none. */
function toItem({ event, data }: ServerEvent, cursor: string): StreamItem | undefined {
  if (data === undefined || (event !== "message" && event !== "gap")) return undefined;
  const body = parseJson(data, 200) as { reason?: unknown } & Record<string, unknown>;
  if (event === "gap") return { type: "gap", reason: String(body.reason), cursor };
  return {
    type: "event",
    event: String(body.event),
    channel: String(body.channel),
    data: body.data,
    cursor,
  };
}

/** A user, over HTTP. All methods reject with a RollcallError, as {@link rollcall} describes. */
class BackendUser {
  readonly #api: Api;
  readonly #id: string;
  readonly #path: string;

  constructor(api: Api, id: string) {
    this.#api = api;
    this.#id = id;
    this.#path = `/api/v1/users/${encodeId(id, "A user's id")}`;
  }

  /** The user's rooms and devices. Needs the grant `presence`; `unavailable` without DIRECTORY=on. */
  async whereabouts(): Promise<Whereabouts> {
    return this.#api.request("GET", this.#path);
  }

  /**
   * Publishes to the user's sockets that have a matching filter, and waits for their acks, for 5 s at
   * most. Needs the grant `publish`.
   *
   * @throws TypeError for a payload that JSON cannot hold
   */
  async publish(publication: Publication = {}): Promise<PublishAnswer> {
    const { idempotencyKey: key = crypto.randomUUID(), ...message } = publication;
    assertJson(message.payload, "The payload");
    return this.#api.request("POST", "/publish", {
      body: { ...message, userId: this.#id },
      key,
      isRepeatable: key !== null,
    });
  }

  /**
   * Ends the user's sessions in all rooms within 1 s, and refuses tokens that were issued earlier.
   * Needs the grant `revoke`; `unavailable` without DIRECTORY=on.
   *
   * @param options `issuedBefore`: in seconds since the epoch, as a token's `iat`. Default: now
   * @returns `sessions`: how many ended; `issuedBefore`: the time that counts
   */
  async revoke(
    options: { issuedBefore?: number } = {},
  ): Promise<{ sessions: number; issuedBefore: number }> {
    const { issuedBefore } = options;
    const body = issuedBefore === undefined ? {} : { body: { issuedBefore } };
    return this.#api.request("POST", `${this.#path}/revoke`, body);
  }

  /** Closes the user's connections. The clients may connect again. Needs the grant `revoke`. */
  async disconnect(): Promise<{ sessions: number }> {
    return this.#api.request("POST", `${this.#path}/disconnect`);
  }
}

/** A server, with the rights of a token. */
class Backend {
  readonly #api: Api;

  constructor(url: string, options: BackendOptions) {
    this.#api = new Api(url, options);
  }

  /** @throws RollcallError `bad_request` for a name that no path can hold: empty, `.` or `..` */
  room(name: string): BackendRoom {
    return new BackendRoom(this.#api, name);
  }

  /** @throws RollcallError `bad_request` for an id that no path can hold: empty, `.` or `..` */
  user(id: string): BackendUser {
    return new BackendUser(this.#api, id);
  }
}

export type { Backend, BackendRoom, BackendUser };

/**
 * The server's HTTP API. Nothing is sent before a method of a room or a user is called.
 *
 * A method rejects with a RollcallError: `code` is the server's, `status` that of the answer. Without
 * an answer the code is `disconnected`, or `timeout` after `timeoutMs`. Errors of `token` pass
 * unchanged. A request is repeated up to twice after a failed connection, 503 or 429, unless the
 * server asks to wait for more than 10 s. An emit or a publish is repeated only with an idempotency
 * key, so that a repeat cannot deliver twice.
 *
 * @param url where the server is: `https://example.com`, or a path prefix below it
 * @throws TypeError when `url` is none of http or https
 *
 * @example
 * const server = rollcall("https://example.com", { token: () => mintToken() });
 * const room = server.room("team-42");
 * const { recipients } = await room.emit("invoice.paid", { id: 7 });
 * for await (const { userId } of room.allUsers()) console.log(userId);
 * await server.user("ann").revoke();
 */
export function rollcall(url: string, options: BackendOptions): Backend {
  return new Backend(url, options);
}

/**
 * The changes in a webhook, once its signature has been checked as Standard Webhooks specify
 * (https://www.standardwebhooks.com). A webhook may arrive more than once: apply each offset once.
 *
 * @param request its body must not have been read
 * @param secret `whsec_` and base64; several while the secret is being replaced
 * @param options `toleranceSeconds`: how far the timestamp may be from now, both ways. Default 300
 * @throws RollcallError `unauthorized` for a signature that is missing, wrong or too old;
 *   `bad_request` when the body is no list of changes
 * @throws TypeError when `secret` is none
 *
 * @example
 * async function handle(request: Request): Promise<Response> {
 *   try {
 *     for (const change of await verifyWebhook(request, secret)) await apply(change);
 *     return new Response(null, { status: 204 });
 *   } catch (error) {
 *     if (!(error instanceof RollcallError)) throw error;
 *     return new Response(error.message, { status: error.status });
 *   }
 * }
 */
export async function verifyWebhook(
  request: Request,
  secret: string | readonly string[],
  { toleranceSeconds = 300 }: { toleranceSeconds?: number } = {},
): Promise<Change[]> {
  const keys = await importSecrets(typeof secret === "string" ? [secret] : secret);
  const [id, timestamp, signatures] = ["id", "timestamp", "signature"].map(
    (name) => request.headers.get(`webhook-${name}`) ?? "",
  ) as [string, string, string];
  if (id === "" || !/^\d+$/.test(timestamp)) {
    throw new RollcallError("unauthorized", "The webhook has no id or no timestamp");
  }
  const ageSeconds = Math.floor(Date.now() / 1_000) - Number(timestamp);
  // Also for a tolerance that is NaN.
  if (!(Math.abs(ageSeconds) <= toleranceSeconds)) {
    throw new RollcallError("unauthorized", "The webhook's timestamp is too far from now");
  }
  const body = new Uint8Array(await request.arrayBuffer());
  const head = encoder.encode(`${id}.${timestamp}.`);
  const signed = new Uint8Array(head.length + body.length);
  signed.set(head);
  signed.set(body, head.length);
  if (!(await isSigned(signed, signatures, keys))) {
    throw new RollcallError("unauthorized", "No signature of the webhook is right");
  }
  return parseChanges(new TextDecoder().decode(body));
}

/** @throws TypeError for none at all, or one that is no secret of Standard Webhooks */
function importSecrets(secrets: readonly string[]): Promise<CryptoKey[]> {
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const keys = (secrets ?? []).map((secret) => {
    const bytes = secret?.startsWith("whsec_") ? decodeBase64(secret.slice(6)) : undefined;
    // An empty key is one that everybody has.
    if (!bytes?.length) throw new TypeError("The webhook's secret must be whsec_ and base64");
    return crypto.subtle.importKey("raw", bytes, algorithm, false, ["verify"]);
  });
  if (keys.length === 0) throw new TypeError("The webhook's secret is missing");
  return Promise.all(keys);
}

/** Whether one of the signatures, separated by spaces, is by one of the keys. */
async function isSigned(
  signed: Uint8Array<ArrayBuffer>,
  signatures: string,
  keys: readonly CryptoKey[],
): Promise<boolean> {
  const macs = signatures
    .split(" ")
    .filter((signature) => signature.startsWith("v1,"))
    .slice(0, SIGNATURES)
    .map((signature) => decodeBase64(signature.slice(3)));
  for (const mac of macs) {
    for (const key of keys) {
      // In constant time: the runtime compares.
      if (mac && (await crypto.subtle.verify("HMAC", key, mac, signed))) return true;
    }
  }
  return false;
}

function decodeBase64(text: string): Uint8Array<ArrayBuffer> | undefined {
  try {
    return Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  } catch {
    return undefined;
  }
}

/** @throws RollcallError `bad_request` */
function parseChanges(text: string): Change[] {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    // Not JSON: no list of changes either.
  }
  if (Array.isArray(body) && body.every(isChange)) return body;
  throw new RollcallError("bad_request", "The webhook's body is no list of changes");
}

const IS_OF_USER: Record<Change["type"], boolean> = {
  "user.joined": true,
  "user.left": true,
  "room.occupied": false,
  "room.vacated": false,
};

function isChange(value: unknown): value is Change {
  if (typeof value !== "object" || value === null) return false;
  const { room, epoch, offset, type, userId, sessions, at } = value as Record<string, unknown>;
  if (typeof type !== "string" || !Object.hasOwn(IS_OF_USER, type)) return false;
  if (IS_OF_USER[type as Change["type"]] && typeof userId !== "string") return false;
  const hasNumbers = Number.isSafeInteger(offset) && [sessions, at].every(Number.isFinite);
  return typeof room === "string" && typeof epoch === "string" && hasNumbers;
}
