import { AsyncLocalStorage } from "node:async_hooks";
import type { AnyEvents, ConnectionMeta, EventMap } from "./room.ts";
import { joinFrames, type Session } from "./session.ts";

/** Emits to whom it was made for. */
export interface EmitBuilder<V extends EventMap = AnyEvents> {
  /** @returns how many sockets it goes to */
  emit<K extends keyof V["out"] & string>(event: K, data?: V["out"][K]): number;
}

/** `ctx.emit`: to this socket, or from it to others. */
export interface SocketEmit<V extends EventMap = AnyEvents> {
  emit<K extends keyof V["out"] & string>(event: K, data?: V["out"][K]): void;
  /**
   * Asks this client (protocol 2) and waits for its answer.
   *
   * @param options.timeoutMs 1–60 000, default 10 000; the actor stays awake as long
   * @throws RollcallError `timeout`, `disconnected`, or `unprocessable` with the client's message
   *   when it refused
   */
  emitWithAck<K extends keyof V["out"] & string>(
    event: K,
    data?: V["out"][K],
    options?: { timeoutMs?: number },
  ): Promise<unknown>;
  /** A channel this socket is in, without itself; any other name is a user, with all its sockets. */
  to(target: string): EmitBuilder<V>;
}

/** `actor.emit`: to all in a channel, to a user, or to whom a test picks. */
export interface ActorEmit<
  M extends ConnectionMeta = ConnectionMeta,
  V extends EventMap = AnyEvents,
> extends EmitBuilder<V> {
  /** All in `channel`, whoever sends. */
  to(channel: string): EmitBuilder<V>;
  toUser(userId: string): EmitBuilder<V>;
  /** Every session for which `isMeant` is true. */
  where(isMeant: (session: Session<M>) => boolean): EmitBuilder<V>;
}

/** Emits that wait for a transaction. Once closed it holds nothing any more. */
interface Hold {
  emits: (() => void)[];
  rolledBack: boolean;
  closed: boolean;
}

const holds = new AsyncLocalStorage<Hold | undefined>();

/** Runs `deliver` now, or inside a transaction once it has committed; a rollback forgets it. */
export function afterCommit(deliver: () => void): void {
  const hold = holds.getStore();
  if (hold && !hold.closed) hold.emits.push(deliver);
  else deliver();
}

/** Runs `task` as if it were in no transaction: it outlives the one that caused it. */
export function outsideTransaction<T>(task: () => T): T {
  return holds.run(undefined, task);
}

/**
 * `storage` with transactions that hold back what is emitted inside them. The hold follows the
 * asynchronous context, so that a handler running meanwhile emits as ever.
 */
export function holdEmits(storage: DurableObjectStorage): DurableObjectStorage {
  function begin(): { hold: Hold; end(committed: boolean): void } {
    const outer = holds.getStore();
    const hold: Hold = { emits: [], rolledBack: false, closed: false };
    return {
      hold,
      end(committed) {
        hold.closed = true;
        if (!committed || hold.rolledBack) return;
        if (outer && !outer.closed) outer.emits.push(...hold.emits);
        else for (const deliver of hold.emits) deliver();
      },
    };
  }

  async function transaction<T>(body: (txn: DurableObjectTransaction) => Promise<T>): Promise<T> {
    const { hold, end } = begin();
    try {
      const result = await storage.transaction((txn) => {
        const watched = proxied(txn, {
          rollback: () => {
            hold.rolledBack = true;
            txn.rollback();
          },
        });
        return holds.run(hold, () => body(watched));
      });
      end(true);
      return result;
    } catch (thrown) {
      end(false);
      throw thrown;
    }
  }

  function transactionSync<T>(body: () => T): T {
    const { hold, end } = begin();
    try {
      const result = storage.transactionSync(() => holds.run(hold, body));
      end(true);
      return result;
    } catch (thrown) {
      end(false);
      throw thrown;
    }
  }

  return proxied(storage, { transaction, transactionSync });
}

/** `target` with some methods in place of its own. Host objects insist on their own `this`. */
function proxied<T extends object>(target: T, own: Record<string, unknown>): T {
  return new Proxy(target, {
    get(_, key) {
      if (typeof key === "string" && Object.hasOwn(own, key)) return own[key];
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

/**
 * Gathers frames. What is emitted in one turn leaves at its end, as one message for each socket.
 * Then what comes waits: for a lone event only until the event loop has gone round, but once several
 * turns have emitted meanwhile, for a window. A send costs the runtime some 20 µs whatever its size,
 * so sends are what this saves. Nothing is pending while nothing is emitted.
 */
export class Outbox {
  readonly #windowMs: number;
  #due: Session[] = [];
  readonly #diffs = new Map<string, () => void>();
  /** Turns that emitted since the last flush. */
  #turns = 0;
  #inTurn = false;
  #paused = false;

  /** @param windowMs least time between two flushes while events keep coming */
  constructor(windowMs: number) {
    this.#windowMs = windowMs;
  }

  request(session: Session): void {
    // A client of protocol 1 takes no lists: waiting would gain nothing.
    if (session.protocol === 1) {
      queueMicrotask(() => session.flush());
      return;
    }
    if (!session.waits) {
      session.waits = true;
      this.#due.push(session);
    }
    if (!this.#inTurn) this.#beginTurn();
  }

  /** Has `build` run before the next flush, once per `key`. */
  defer(key: string, build: () => void): void {
    if (!this.#diffs.has(key)) this.#diffs.set(key, build);
    if (!this.#inTurn) this.#beginTurn();
  }

  #beginTurn(): void {
    this.#inTurn = true;
    this.#turns += 1;
    queueMicrotask(() => {
      if (!this.#paused) this.#flush();
      this.#inTurn = false;
    });
  }

  #flush(): void {
    for (const [key, build] of [...this.#diffs]) {
      this.#diffs.delete(key);
      outsideTransaction(build);
    }
    const due = this.#due;
    const isBurst = this.#turns > 1;
    this.#due = [];
    this.#turns = 0;

    // Sockets of one channel mostly wait for the very same frames: join them once.
    let last: readonly string[] = [];
    let joined = "";
    const join = (frames: readonly string[]): string => {
      if (frames.length !== last.length || frames.some((frame, i) => frame !== last[i])) {
        last = frames;
        joined = joinFrames(frames);
      }
      return joined;
    };
    for (const session of due) {
      session.waits = false;
      session.flush(join);
    }

    this.#paused = true;
    const pauseMs = isBurst ? Math.max(this.#windowMs, due.length * GATHER_PER_SOCKET_MS) : 0;
    outsideTransaction(() =>
      setTimeout(() => {
        this.#paused = false;
        if (this.#turns > 0) this.#flush();
      }, pauseMs),
    );
  }
}

/** Sending takes half as long: of an actor's time it shall take a third at most. */
const GATHER_PER_SOCKET_MS = 0.04;
