import { DurableObject } from "cloudflare:workers";
import { makeDurableObject } from "@livestore/sync-cf/cf-worker";
import { inSpan } from "../../src/http/trace.ts";
import { log } from "../../src/log.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import {
  admitMember,
  type Member,
  type MembershipEnv,
  readmitMember,
  SyncRefusal,
} from "./access.ts";

/**
 * Effect, which sync-cf is written in, waits forever by an empty interval of the longest length there
 * is, one for each socket it serves. A pending timer keeps an actor awake, and billed: none is made.
 */
const FOREVER_MS = 2 ** 31 - 1;
globalThis.setInterval = new Proxy(globalThis.setInterval, {
  apply: (target, self, args: unknown[]) =>
    args[1] === FOREVER_MS ? 0 : Reflect.apply(target, self, args),
});

export interface WorkspaceRoomEnv extends MembershipEnv {
  DB: D1Database;
  /** `d1` (default) or `do`: where events are kept. Not to be changed once there are any. */
  WORKSPACE_STORAGE?: string;
}

/** Characters of JSON in one frame or body. sync-cf keeps its own below 900 000 bytes. */
const MESSAGE_LENGTH = 1_048_576;
/** Events in one push. sync-cf's clients send at most 100. */
const PUSH_EVENTS = 1000;
/** Pulls that one socket may have open: each is in its attachment and gets a copy of every push. */
const OPEN_PULLS = 32;
const REQUEST_ID_LENGTH = 64;
/** Where the relay sees its requests come from; nothing answers there. */
const RELAY_URL = "https://relay.invalid/sync";

/**
 * A store id as it goes into the name of a table: `[a-z0-9]` as they are, every other byte `_xx`.
 * sync-cf turns all but letters and digits into `_`, and SQLite ignores case, so that `a-b`, `a_b`
 * and `A-B` would share one table.
 */
export function encodeStoreId(storeId: string): string {
  return [...new TextEncoder().encode(storeId)]
    .map((byte) => {
      const char = String.fromCharCode(byte);
      return /[a-z0-9]/.test(char) ? char : `_${byte.toString(16).padStart(2, "0")}`;
    })
    .join("");
}

type Transport = "ws" | "http";
/** The procedures of each transport. A ping on a socket is no call, but a frame of its own. */
const PROCEDURES: Record<Transport, readonly unknown[]> = {
  ws: ["SyncWsRpc.Pull", "SyncWsRpc.Push"],
  http: ["SyncHttpRpc.Pull", "SyncHttpRpc.Push", "SyncHttpRpc.Ping"],
};

type HeldMessage =
  | { _tag: "Request"; id: string; tag: string; payload: Record<string, unknown>; headers: [] }
  | { _tag: "Ack" | "Interrupt"; requestId: string }
  | { _tag: "Ping" | "Eof" };

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function badFrame(details: string): RollcallError {
  return new RollcallError("bad_frame", details);
}

function parseRequestId(value: unknown): string {
  if (typeof value === "string" && value.length <= REQUEST_ID_LENGTH) return value;
  throw badFrame("A request id is a short string");
}

/**
 * The events of a push: each follows the one before it. sync-cf looks at the first one's parent
 * only, and a number that comes twice would fail half-way through its inserts.
 */
function checkBatch(batch: unknown): void {
  if (!Array.isArray(batch) || batch.length > PUSH_EVENTS) {
    throw badFrame(`A push has at most ${PUSH_EVENTS} events`);
  }
  let previous: unknown;
  for (const event of batch) {
    const { seqNum, parentSeqNum } = isRecord(event) ? event : {};
    if (!Number.isSafeInteger(seqNum) || !Number.isSafeInteger(parentSeqNum)) {
      throw badFrame("An event has a seqNum and a parentSeqNum");
    }
    if (
      Number(seqNum) !== Number(parentSeqNum) + 1 ||
      (previous ?? parentSeqNum) !== parentSeqNum
    ) {
      throw badFrame("The events of a push follow one another");
    }
    previous = seqNum;
  }
}

/**
 * One message of Effect's RPC as the relay may see it: known parts only, for this store, with the
 * id that names its table. The payload with the token goes: who sends is known from the URL.
 *
 * @throws SyncRefusal `FORBIDDEN` for another store; RollcallError `bad_frame` for what is no such message
 */
function holdMessage(message: unknown, storeId: string, transport: Transport): HeldMessage {
  if (!isRecord(message)) throw badFrame("A message is a JSON object");
  const { _tag, id, tag, payload, requestId } = message;
  switch (_tag) {
    case "Request": {
      if (!PROCEDURES[transport].includes(tag)) throw badFrame("Unknown procedure");
      if (!isRecord(payload)) throw badFrame("A request has a payload");
      if (payload.storeId !== storeId) {
        throw new SyncRefusal("FORBIDDEN", "This connection belongs to another store");
      }
      if (String(tag).endsWith(".Push")) checkBatch(payload.batch);
      const { payload: _, ...parameters } = payload;
      const held = { ...parameters, storeId: encodeStoreId(storeId) };
      return { _tag, id: parseRequestId(id), tag: String(tag), payload: held, headers: [] };
    }
    case "Ack":
    case "Interrupt":
      return { _tag, requestId: parseRequestId(requestId) };
    case "Ping":
    case "Eof":
      return { _tag };
    default:
      throw badFrame("Unknown message");
  }
}

/** Which event a pull wants to go on from: an Option in Effect's encoding. */
function cursorOf({ cursor }: Record<string, unknown>): number | undefined {
  const value = isRecord(cursor) ? cursor.value : undefined;
  return isRecord(value) ? Number(value.eventSequenceNumber) : undefined;
}

function parseMessage(text: string): unknown {
  if (text.length > MESSAGE_LENGTH) throw new RollcallError("too_large", "The message is too long");
  try {
    return JSON.parse(text);
  } catch {
    throw badFrame("A message is JSON");
  }
}

/** Text of a body, read no further than it may be long. */
async function readBody(request: Request): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of request.body ?? []) {
    text += decoder.decode(chunk, { stream: true });
    if (text.length > MESSAGE_LENGTH) throw new RollcallError("too_large", "The body is too long");
  }
  return text + decoder.decode();
}

/** What the relay keeps with a socket, in its own format: a string of JSON. */
interface Attachment {
  pullRequestIds: string[];
  headers: { member: string };
}

function attachmentOf(socket: WebSocket): Attachment | null {
  const text: unknown = socket.deserializeAttachment();
  return typeof text === "string" ? (JSON.parse(text) as Attachment) : null;
}

/** An answer to a pull, as far as it is looked at here: events in their order. */
interface PullChunk {
  _tag: "Chunk";
  requestId: string;
  values: { batch: { eventEncoded: { seqNum: number } }[] }[];
}

/**
 * One socket, as the relay sees it in its place. A pull reads the log page by page, and gets every
 * push made meanwhile as well: by sync-cf alone, events come twice or before their turn, and a stock
 * client that sees that never pulls again. Here each pull gets every event once, in order.
 */
class Line {
  /** The newest event that each pull of this life of the actor has. */
  readonly #heads = new Map<string, number>();
  readonly #socket: WebSocket;
  /** The socket for a push that was made: what a pull that still reads the log will find there is left out. */
  readonly forPushes = {
    deserializeAttachment: () => this.deserializeAttachment(),
    send: (frame: string) => this.#send(frame, false),
  };

  constructor(socket: WebSocket) {
    this.#socket = socket;
  }

  /** @param cursor what the puller has; `undefined`: nothing */
  startPull(requestId: string, cursor: number | undefined): void {
    this.#heads.set(requestId, cursor ?? 0);
  }

  endPull(requestId: string): void {
    this.#heads.delete(requestId);
  }

  /** The socket for answers: each goes out, if need be without events, as its receipt is waited for. */
  send(frame: string): void {
    this.#send(frame, true);
  }

  deserializeAttachment(): unknown {
    return this.#socket.deserializeAttachment();
  }

  serializeAttachment(attachment: unknown): void {
    this.#socket.serializeAttachment(attachment);
  }

  close(code?: number, reason?: string): void {
    this.#socket.close(code, reason);
  }

  #send(frame: string, isAnswer: boolean): void {
    const message = JSON.parse(frame) as PullChunk | { _tag: "Exit" };
    const head = message._tag === "Chunk" ? this.#heads.get(message.requestId) : undefined;
    if (message._tag !== "Chunk" || head === undefined) {
      this.#socket.send(frame);
      return;
    }
    let newest = head;
    let isWhole = true;
    for (const value of message.values) {
      value.batch = value.batch.filter(({ eventEncoded: { seqNum } }) => {
        const isNext = seqNum === newest + 1;
        if (isNext) newest = seqNum;
        else isWhole = false;
        return isNext;
      });
    }
    if (newest === head && !isAnswer) return;
    this.#heads.set(message.requestId, newest);
    this.#socket.send(isWhole ? frame : JSON.stringify(message));
  }
}

/** The actor's state as the relay sees it: with lines in place of sockets. */
function withLines(ctx: DurableObjectState, lineOf: (socket: WebSocket) => Line): object {
  return new Proxy(ctx, {
    get(target, name) {
      if (name === "getWebSockets") {
        return () => target.getWebSockets().map((socket) => lineOf(socket).forPushes);
      }
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

/** What sync-cf keeps of a store while its actor is awake, under a symbol it does not give away. */
interface RelayState {
  storage: { dbName: string };
  currentHeadRef: { current: number };
  updateCurrentHead(head: number): void;
}

function stateOf(relay: object): RelayState {
  const key = Object.getOwnPropertySymbols(relay).find(
    ({ description }) => description === "Cache",
  );
  const state: unknown = key && Reflect.get(relay, key);
  if (!isRecord(state) || !isRecord(state.currentHeadRef)) {
    throw new Error(
      "sync-cf keeps its state elsewhere than in 0.4.0: read rooms/workspace/room.ts anew",
    );
  }
  return state as unknown as RelayState;
}

/** D1 as sync-cf uses it, telling of every statement that fails. */
function watchFailures(db: D1Database, onFailure: (error: unknown) => void): Partial<D1Database> {
  const watch = <T>(result: Promise<T>): Promise<T> => {
    result.catch(onFailure);
    return result;
  };
  const watchStatement = (statement: D1PreparedStatement): D1PreparedStatement =>
    new Proxy(statement, {
      get(target, name) {
        if (name === "bind") return (...args: unknown[]) => watchStatement(target.bind(...args));
        if (name === "run") return () => watch(target.run());
        const value: unknown = Reflect.get(target, name);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  return {
    exec: (sql) => db.exec(sql),
    prepare: (sql) => watchStatement(db.prepare(sql)),
  };
}

/**
 * One workspace: LiveStore's relay, with a door. Its events are in D1 or here; who comes in is
 * known from the URL and kept with the socket; every frame is held against it.
 */
export class WorkspaceRoom extends DurableObject<WorkspaceRoomEnv> {
  readonly #relay: InstanceType<ReturnType<typeof makeDurableObject>>;
  readonly #storeId: string;
  /** The member each request of the relay's stands for, until the relay has seen it. */
  readonly #members = new WeakMap<object, Member>();

  /** One for each socket: the relay tells its clients apart by it. */
  readonly #lines = new WeakMap<WebSocket, Line>();

  constructor(ctx: DurableObjectState, env: WorkspaceRoomEnv) {
    super(ctx, env);
    const { name } = ctx.id;
    if (name === undefined) throw new Error("A workspace's actor is reached by its name");
    this.#storeId = name;
    const { WORKSPACE_STORAGE: storage = "d1" } = env;
    if (storage !== "d1" && storage !== "do") throw new Error("WORKSPACE_STORAGE is d1 or do");

    const Relay = makeDurableObject({
      storage: storage === "d1" ? { _tag: "d1", binding: "DB" } : { _tag: "do-sqlite" },
      // Calls from actor to actor would come without a URL, and without a check.
      enabledTransports: new Set(["ws", "http"]),
      forwardHeaders: (request) => ({ member: JSON.stringify(this.#members.get(request)) }),
      onPush: (_, { headers }) => this.#readmitPusher(headers?.get("member")),
    });
    const DB = watchFailures(env.DB, (error) => this.#restart(error));
    this.#relay = new Relay(ctx as never, { DB });
    Object.defineProperty(this.#relay, "ctx", {
      value: withLines(ctx, (socket) => this.#lineOf(socket)),
    });
    void ctx.blockConcurrencyWhile(() => this.#openStore());
  }

  override async fetch(request: Request): Promise<Response> {
    try {
      const url = new URL(request.url);
      const member = await inSpan("sync.auth", () => admitMember(url, this.env));
      if (member.storeId !== this.#storeId) throw new Error("The request is another actor's");
      const transport = url.searchParams.get("transport");
      if (transport === "http") return await this.#relayHttp(request, member);
      return await this.#relayFetch("ws", { headers: request.headers }, member);
    } catch (thrown) {
      if (thrown instanceof SyncRefusal) return thrown.toResponse();
      if (!(thrown instanceof RollcallError)) throw thrown;
      const { code, message, status } = thrown;
      return Response.json({ error: code, details: message }, { status });
    }
  }

  override async webSocketMessage(socket: WebSocket, message: string | ArrayBuffer): Promise<void> {
    let frame: string;
    try {
      frame = this.#holdFrame(socket, message);
    } catch (thrown) {
      closeSocket(socket, thrown);
      return;
    }
    await this.#relay.webSocketMessage?.(this.#lineOf(socket) as never, frame);
  }

  override async webSocketClose(
    socket: WebSocket,
    code: number,
    reason: string,
    wasClean: boolean,
  ): Promise<void> {
    await this.#relay.webSocketClose?.(this.#lineOf(socket) as never, code, reason, wasClean);
  }

  /**
   * Makes the relay open its store before anything comes in, and mends three things in it:
   *
   * - It takes its store id from whatever comes first after a start. Here that is this call.
   * - Its head is stored beside the log, after it. Where a push was cut off in between, or half-way
   *   through, the head lags behind, and every later push would fail on a number that is taken.
   *   What is in the log may have been read: it counts.
   * - It replaces the object that holds the head with every push, so that of two pushes at once the
   *   second is held against an old head, and fails on a taken number instead of being told to rebase.
   */
  async #openStore(): Promise<void> {
    const storeId = encodeStoreId(this.#storeId);
    const ping = { _tag: "Request", id: "0", tag: "SyncHttpRpc.Ping", payload: { storeId } };
    const response = await this.#relayFetch("http", postOf({ ...ping, headers: [] }));
    const answer = await response.text();
    if (!response.ok) throw new Error(`The store does not open: ${response.status} ${answer}`);

    const state = stateOf(this.#relay);
    const head = state.currentHeadRef;
    Object.defineProperty(state, "currentHeadRef", {
      get: () => head,
      set: ({ current }: RelayState["currentHeadRef"]) => {
        head.current = current;
      },
    });

    const newest = await this.#newestEvent(state.storage.dbName);
    if (newest > head.current) {
      log("workspace_head_behind_log", { events: newest - head.current });
      state.updateCurrentHead(newest);
    } else if (newest < head.current) {
      throw new Error("The log has fewer events than were acknowledged: is this its storage?");
    }
  }

  async #newestEvent(table: string): Promise<number> {
    const sql = `SELECT COALESCE(MAX(seqNum), 0) AS newest FROM "${table}"`;
    const row =
      this.env.WORKSPACE_STORAGE === "do"
        ? this.ctx.storage.sql.exec<{ newest: number }>(sql).one()
        : await this.env.DB.prepare(sql).first<{ newest: number }>();
    return row?.newest ?? 0;
  }

  /** Hands a request to the relay under the URL it knows: the encoded id, and no token. */
  #relayFetch(transport: Transport, init: RequestInit, member?: Member): Promise<Response> {
    const query = new URLSearchParams({ storeId: encodeStoreId(this.#storeId), transport });
    const request = new Request(`${RELAY_URL}?${query}`, init);
    if (member) this.#members.set(request, member);
    return this.#relay.fetch(request as never) as unknown as Promise<Response>;
  }

  async #relayHttp(request: Request, member: Member): Promise<Response> {
    const message = parseMessage(await readBody(request));
    const held = Array.isArray(message)
      ? message.map((item) => holdMessage(item, this.#storeId, "http"))
      : holdMessage(message, this.#storeId, "http");
    return this.#relayFetch("http", postOf(held), member);
  }

  #lineOf(socket: WebSocket): Line {
    let line = this.#lines.get(socket);
    if (!line) {
      line = new Line(socket);
      this.#lines.set(socket, line);
    }
    return line;
  }

  #holdFrame(socket: WebSocket, message: string | ArrayBuffer): string {
    if (typeof message !== "string") throw badFrame("Frames are text, not binary");
    const attachment = attachmentOf(socket);
    if (!attachment) throw new Error("A socket without an attachment");
    if (attachment.pullRequestIds.length > OPEN_PULLS) {
      throw new RollcallError("rate_limited", `A socket has at most ${OPEN_PULLS} pulls`);
    }
    const held = holdMessage(parseMessage(message), this.#storeId, "ws");
    const line = this.#lineOf(socket);
    if (held._tag === "Request" && held.tag === "SyncWsRpc.Pull") {
      line.startPull(held.id, cursorOf(held.payload));
    } else if (held._tag === "Interrupt") {
      line.endPull(held.requestId);
    }
    return JSON.stringify(held);
  }

  /**
   * Before a push: is its sender still a member? The others are looked at too, beside it, so that a
   * removed one does not go on reading; their sockets are closed by it.
   */
  async #readmitPusher(text: string | undefined): Promise<void> {
    if (text === undefined) throw new Error("A push from nobody");
    const pusher = JSON.parse(text) as Member;
    const members = new Map<string, Member>([[text, pusher]]);
    for (const socket of this.ctx.getWebSockets()) {
      const other = attachmentOf(socket)?.headers.member;
      if (other !== undefined) members.set(other, JSON.parse(other) as Member);
    }
    const checks = [...members].map(async ([key, member]) => {
      try {
        await readmitMember(member, this.env);
      } catch (thrown) {
        // That KV does not answer is no reason to end what was admitted.
        const isOut = thrown instanceof SyncRefusal && thrown.code !== "AUTH_SERVICE_ERROR";
        if (isOut) this.#closeMember(key, thrown);
        if (key === text) throw thrown;
      }
    });
    this.ctx.waitUntil(Promise.allSettled(checks));
    await checks[0];
  }

  #closeMember(key: string, refusal: SyncRefusal): void {
    for (const socket of this.ctx.getWebSockets()) {
      if (attachmentOf(socket)?.headers.member === key) closeSocket(socket, refusal);
    }
  }

  /** A write that failed may have left a part of its push in the log: only a new start mends the head. */
  #restart(error: unknown): void {
    log("workspace_write_failed", { error });
    this.ctx.abort("A write to the event log failed");
  }
}

function postOf(body: object): RequestInit {
  const headers = { "Content-Type": "application/json" };
  return { method: "POST", headers, body: JSON.stringify(body) };
}

/** Ends a socket for what was thrown at one of its frames. */
function closeSocket(socket: WebSocket, thrown: unknown): void {
  if (thrown instanceof SyncRefusal) socket.close(thrown.closeCode, thrown.code);
  else if (thrown instanceof RollcallError) socket.close(thrown.closeCode, thrown.code);
  else {
    log("workspace_frame_failed", { error: thrown });
    socket.close(1011, "internal");
  }
}
