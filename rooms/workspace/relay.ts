import { makeDurableObject } from "@livestore/sync-cf/cf-worker";
import { log } from "../../src/log.ts";
import { SyncRefusal } from "./access.ts";
import { cursorOf, encodeStoreId, isRecord, type RelayMessage, type Transport } from "./frames.ts";

/**
 * LiveStore's relay, `@livestore/sync-cf` 0.4.0, with what it needs to run here. README.md lists its
 * faults; each is corrected at one place below. Read this file again before you raise the version.
 */

/**
 * Effect, which sync-cf is written in, starts an empty interval of the greatest length for each
 * socket that it serves. A pending timer keeps an actor awake, and billed, so none is started.
 */
const LONGEST_INTERVAL_MS = 2 ** 31 - 1;
globalThis.setInterval = new Proxy(globalThis.setInterval, {
  apply: (target, self, args: unknown[]) =>
    args[1] === LONGEST_INTERVAL_MS ? 0 : Reflect.apply(target, self, args),
});

export interface RelayEnv {
  DB: D1Database;
  /** `d1` (default) or `do`: where events are stored. Must not change once there are any. */
  WORKSPACE_STORAGE?: string;
  /** Bytes of events that one workspace may store. Default 268 435 456. */
  WORKSPACE_MAX_BYTES?: string;
}

const MAX_BYTES = 268_435_456;
/** Storage key of how many bytes the log has, up to which event. */
const COUNTED_KEY = "rollcall:log-bytes";
/** The count is stored once in so many events: what came since is counted again at a start. */
const COUNTED_EVENTS = 50;
/** Bytes of a UTF-16 unit, at most. */
const BYTES_PER_UNIT = 3;
/** Bytes of an event in a table, as SQL: its arguments, and what each has. */
const BYTES = "LENGTH(CAST(COALESCE(args, '') AS BLOB)) + LENGTH(name) + 100";

/** How much of the log has been counted: up to the event `seq`. */
interface Counted {
  seq: number;
  bytes: number;
}

/** The URL of requests to the relay. Nothing answers at this address. */
const RELAY_URL = "https://relay.invalid/sync";

/** What the relay stores with a socket, in its own format: a string of JSON. */
interface Attachment {
  pullRequestIds: string[];
  /** What the relay was given by `forwardHeaders`. */
  headers: { member: string };
}

export function attachmentOf(socket: WebSocket): Attachment | null {
  const text: unknown = socket.deserializeAttachment();
  return typeof text === "string" ? (JSON.parse(text) as Attachment) : null;
}

export interface RelayOptions {
  ctx: DurableObjectState;
  env: RelayEnv;
  storeId: string;
  /** Called before each push, with its sender as `fetch` was given it. Rejects to refuse the push. */
  authorizePush(member: string | undefined): Promise<void>;
}

/** The relay of one store. Call `open` before anything else. */
export class Relay {
  readonly #server: InstanceType<ReturnType<typeof makeDurableObject>>;
  readonly #ctx: DurableObjectState;
  readonly #env: RelayEnv;
  readonly #storeId: string;
  /** The sender of each request, until the server has read it. */
  readonly #members = new WeakMap<object, string>();
  /** One for each socket: the server compares its clients by identity. */
  readonly #sockets = new WeakMap<WebSocket, OrderedSocket>();
  #counted: Counted;
  /** UTF-16 units of the messages since. */
  #uncountedUnits = 0;
  #table = "";

  constructor({ ctx, env, storeId, authorizePush }: RelayOptions) {
    const { WORKSPACE_STORAGE: storage = "d1" } = env;
    if (storage !== "d1" && storage !== "do") throw new Error("WORKSPACE_STORAGE is d1 or do");
    this.#ctx = ctx;
    this.#env = env;
    this.#storeId = encodeStoreId(storeId);
    this.#counted = ctx.storage.kv.get<Counted>(COUNTED_KEY) ?? { seq: 0, bytes: 0 };

    const Server = makeDurableObject({
      storage: storage === "d1" ? { _tag: "d1", binding: "DB" } : { _tag: "do-sqlite" },
      // Without calls from actor to actor: they have no URL, so nothing authorizes them.
      enabledTransports: new Set(["ws", "http"]),
      forwardHeaders: (request) => {
        const member = this.#members.get(request);
        return member === undefined ? {} : { member };
      },
      onPush: async ({ batch }, { headers }) => {
        await authorizePush(headers?.get("member"));
        await this.#requireRoom(batch);
      },
    });
    const DB = watchWrites(env.DB, (error) => this.#restart(error));
    this.#server = new Server(ctx as never, { DB });
    Object.defineProperty(this.#server, "ctx", {
      value: withOrderedSockets(ctx, (socket) => this.#ordered(socket)),
    });
  }

  /**
   * Opens the store, and corrects three faults of sync-cf:
   *
   * - It takes the store id of the first message after a start. This method sends that message.
   * - It stores its head beside the log, and after it. When a push was cut off in between, the head
   *   is behind the log, and every later push fails on a number that is taken. Clients may have read
   *   what is in the log, so the head follows the log.
   * - It replaces the object that holds the head with every push. Of two pushes at once, the second
   *   would be compared with the old head and fail on a taken number, where it should be told to
   *   rebase.
   */
  async open(): Promise<void> {
    const ping = { _tag: "Request", id: "0", tag: "SyncHttpRpc.Ping", headers: [] };
    const response = await this.post({ ...ping, payload: { storeId: this.#storeId } });
    const answer = await response.text();
    if (!response.ok) throw new Error(`The store does not open: ${response.status} ${answer}`);

    const state = stateOf(this.#server);
    const head = state.currentHeadRef;
    Object.defineProperty(state, "currentHeadRef", {
      get: () => head,
      set: ({ current }: RelayState["currentHeadRef"]) => {
        head.current = current;
      },
    });

    this.#table = state.storage.dbName;
    const newest = await this.#count();
    if (newest > head.current) {
      log("workspace_head_behind_log", { events: newest - head.current });
      state.updateCurrentHead(newest);
    } else if (newest < head.current) {
      throw new Error(
        "The log has fewer events than were acknowledged: has WORKSPACE_STORAGE changed?",
      );
    }
  }

  /** Accepts a socket of `member`. */
  connect(member: string): Promise<Response> {
    return this.#fetch("ws", {}, member);
  }

  /** Answers messages that came over HTTP. */
  post(messages: object, member?: string): Promise<Response> {
    const headers = { "Content-Type": "application/json" };
    const body = JSON.stringify(messages);
    this.#uncountedUnits += body.length;
    return this.#fetch("http", { method: "POST", headers, body }, member);
  }

  /** Takes a message that came over a socket. */
  async receive(socket: WebSocket, message: RelayMessage): Promise<void> {
    const ordered = this.#ordered(socket);
    if (message._tag === "Request" && message.tag === "SyncWsRpc.Pull") {
      ordered.startPull(message.id, cursorOf(message.payload));
    } else if (message._tag === "Interrupt") {
      ordered.endPull(message.requestId);
    }
    const text = JSON.stringify(message);
    this.#uncountedUnits += text.length;
    await this.#server.webSocketMessage?.(ordered as never, text);
  }

  async disconnect(
    socket: WebSocket,
    code: number,
    reason: string,
    wasClean: boolean,
  ): Promise<void> {
    await this.#server.webSocketClose?.(this.#ordered(socket) as never, code, reason, wasClean);
  }

  /** Calls the server with a URL that has the encoded store id, and no token. */
  #fetch(transport: Transport, init: RequestInit, member?: string): Promise<Response> {
    const query = new URLSearchParams({ storeId: this.#storeId, transport });
    const request = new Request(`${RELAY_URL}?${query}`, init);
    if (member !== undefined) this.#members.set(request, member);
    return this.#server.fetch(request as never) as unknown as Promise<Response>;
  }

  #ordered(socket: WebSocket): OrderedSocket {
    let ordered = this.#sockets.get(socket);
    if (!ordered) {
      ordered = new OrderedSocket(socket);
      this.#sockets.set(socket, ordered);
    }
    return ordered;
  }

  /** @throws SyncRefusal `WORKSPACE_FULL` when there is no room for these events */
  async #requireRoom(batch: readonly unknown[]): Promise<void> {
    const limit = Number(this.#env.WORKSPACE_MAX_BYTES) || MAX_BYTES;
    // The messages since contain these events. Far below the limit, nothing has to be encoded or read.
    if (this.#counted.bytes + this.#uncountedUnits * BYTES_PER_UNIT <= limit) return;
    const { byteLength } = new TextEncoder().encode(JSON.stringify(batch));
    this.#uncountedUnits = byteLength;
    await this.#count();
    if (this.#counted.bytes + byteLength <= limit) return;
    throw new SyncRefusal("WORKSPACE_FULL", `A workspace stores at most ${limit} bytes`);
  }

  /** Counts the events that were not counted yet. @returns the number of the newest one */
  async #count(): Promise<number> {
    const { seq, bytes } = this.#counted;
    const sql = `SELECT (SELECT COALESCE(MAX(seqNum), 0) FROM "${this.#table}") AS newest,
      (SELECT COALESCE(SUM(${BYTES}), 0) FROM "${this.#table}" WHERE seqNum > ?1) AS more`;
    type Row = { newest: number; more: number };
    const { newest, more } =
      this.#env.WORKSPACE_STORAGE === "do"
        ? this.#ctx.storage.sql.exec<Row>(sql, seq).one()
        : ((await this.#env.DB.prepare(sql).bind(seq).first<Row>()) as Row);
    this.#counted = { seq: newest, bytes: bytes + more };
    const { kv } = this.#ctx.storage;
    const stored = kv.get<Counted>(COUNTED_KEY)?.seq ?? 0;
    if (newest - stored >= COUNTED_EVENTS) kv.put(COUNTED_KEY, this.#counted);
    return newest;
  }

  /** Deletes the log. This relay is of no use then. */
  async delete(): Promise<void> {
    if (this.#env.WORKSPACE_STORAGE !== "do") {
      await this.#env.DB.prepare(`DROP TABLE IF EXISTS "${this.#table}"`).run();
    }
    await this.#ctx.storage.deleteAll();
  }

  /** A write that failed may have left a part of its push in the log: `open` corrects the head. */
  #restart(error: unknown): void {
    log("workspace_write_failed", { error });
    this.#ctx.abort("A write to the event log failed");
  }
}

/** The part of a pull's answer that is read here: events in their order. */
interface PullChunk {
  _tag: "Chunk";
  requestId: string;
  values: { batch: { eventEncoded: { seqNum: number } }[] }[];
}

/**
 * A socket as the relay sees it. A pull reads the log page by page, and meanwhile receives every
 * push. With sync-cf alone, events come twice or too early, and a stock client that receives one
 * such event never pulls again. Here each pull receives every event once, in order.
 */
class OrderedSocket {
  /** The newest event that each pull has received since the actor started. */
  readonly #heads = new Map<string, number>();
  readonly #socket: WebSocket;
  /** The socket for pushes: an event that the pull will still read in the log is left out. */
  readonly forPushes = {
    deserializeAttachment: () => this.deserializeAttachment(),
    send: (frame: string) => this.#send(frame, false),
  };

  constructor(socket: WebSocket) {
    this.#socket = socket;
  }

  /** @param cursor the newest event that the puller has; `undefined`: none */
  startPull(requestId: string, cursor: number | undefined): void {
    this.#heads.set(requestId, cursor ?? 0);
  }

  endPull(requestId: string): void {
    this.#heads.delete(requestId);
  }

  /** For answers. Each one is sent, even without events: the relay waits for its receipt. */
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
    // sync-cf answers on after a close, and the runtime throws for what is sent then.
    if (this.#socket.readyState !== WebSocket.OPEN) return;
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

/** The actor's state as the relay sees it: its sockets are ordered ones. */
function withOrderedSockets(
  ctx: DurableObjectState,
  toOrdered: (socket: WebSocket) => OrderedSocket,
): object {
  return new Proxy(ctx, {
    get(target, name) {
      if (name === "getWebSockets") {
        return () => target.getWebSockets().map((socket) => toOrdered(socket).forPushes);
      }
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

/** What sync-cf knows of a store while its actor is awake, under a symbol that it does not export. */
interface RelayState {
  storage: { dbName: string };
  currentHeadRef: { current: number };
  updateCurrentHead(head: number): void;
}

function stateOf(server: object): RelayState {
  const key = Object.getOwnPropertySymbols(server).find(
    ({ description }) => description === "Cache",
  );
  const state: unknown = key && Reflect.get(server, key);
  if (!isRecord(state) || !isRecord(state.currentHeadRef)) {
    throw new Error(
      "The state of sync-cf is not where 0.4.0 has it. Adapt rooms/workspace/relay.ts to this version.",
    );
  }
  return state as unknown as RelayState;
}

/** D1 as sync-cf uses it. `onFailure` is called for every write that fails. */
function watchWrites(db: D1Database, onFailure: (error: unknown) => void): Partial<D1Database> {
  const watch = (statement: D1PreparedStatement): D1PreparedStatement =>
    new Proxy(statement, {
      get(target, name) {
        if (name === "bind") return (...args: unknown[]) => watch(target.bind(...args));
        if (name === "run") {
          return () => {
            const result = target.run();
            result.catch(onFailure);
            return result;
          };
        }
        const value: unknown = Reflect.get(target, name);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  return {
    exec: (sql) => db.exec(sql),
    prepare: (sql) => watch(db.prepare(sql)),
  };
}
