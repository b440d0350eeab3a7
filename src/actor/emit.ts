import { AsyncLocalStorage } from "node:async_hooks";
import { joinFrames } from "../wire/frames.ts";
import type { AnyEvents, ConnectionMeta, EventMap } from "./room.ts";
import type { Session } from "./session.ts";

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
 * Runs `task` at the end of a turn that asks for it; then, if several turns ask while the event loop
 * goes round once, not again within a window. So what comes alone is done at once, and what keeps
 * coming is done together. Nothing is pending while nobody asks.
 */
class Pace {
  readonly #task: () => void;
  readonly #windowMs: () => number;
  /** Turns that asked since the last run. */
  #turns = 0;
  #inTurn = false;
  #rests = false;

  constructor(task: () => void, windowMs: () => number) {
    this.#task = task;
    this.#windowMs = windowMs;
  }

  ask(): void {
    if (this.#inTurn) return;
    this.#inTurn = true;
    this.#turns += 1;
    queueMicrotask(() => {
      this.#inTurn = false;
      if (!this.#rests) this.#run();
    });
  }

  #run(): void {
    const restMs = this.#turns > 1 ? this.#windowMs() : 0;
    this.#turns = 0;
    this.#rests = true;
    outsideTransaction(() => {
      setTimeout(() => {
        this.#rests = false;
        if (this.#turns > 0) this.#run();
      }, restMs);
      this.#task();
    });
  }
}

/**
 * Gathers frames, so that a socket gets those of a turn, or of a window while events keep coming, as
 * one message. A send costs the runtime some 20 µs whatever its size: sends are what this saves.
 */
export class Outbox {
  #due: Session[] = [];
  /** Those of protocol 1 that wait for the end of this turn. */
  #plain: Session[] = [];
  readonly #builds = new Map<string, () => void>();
  readonly #frames: Pace;
  readonly #diffs: Pace;

  /**
   * @param flushMs least time between two messages to a socket while events keep coming
   * @param sockets how many there are: in a large room the windows grow with what they cost
   */
  constructor(flushMs: number, sockets: () => number) {
    const window = (perSocketMs: number) => () =>
      Math.min(Math.max(flushMs, sockets() * perSocketMs), Math.max(flushMs, LONGEST_WINDOW_MS));
    this.#frames = new Pace(() => this.#flush(), window(FRAMES_MS_PER_SOCKET));
    this.#diffs = new Pace(() => this.#build(), window(DIFFS_MS_PER_SOCKET));
  }

  request(session: Session): void {
    if (session.protocol === 2) {
      if (!session.waits) this.#due.push(session);
      this.#frames.ask();
    } else if (!session.waits) {
      // A client of protocol 1 takes no lists: to wait for more than the turn's end would gain nothing.
      if (this.#plain.push(session) === 1) {
        outsideTransaction(() => queueMicrotask(() => this.#flushPlain()));
      }
    }
    session.waits = true;
  }

  /** Has `build` run at the end of this turn or of the window for diffs, once per `key`. */
  defer(key: string, build: () => void): void {
    if (!this.#builds.has(key)) this.#builds.set(key, build);
    this.#diffs.ask();
  }

  #build(): void {
    for (const [key, build] of [...this.#builds]) {
      this.#builds.delete(key);
      build();
    }
  }

  #flushPlain(): void {
    const due = this.#plain;
    this.#plain = [];
    for (const session of due) {
      session.waits = false;
      session.flush();
    }
  }

  #flush(): void {
    const due = this.#due;
    this.#due = [];
    // Sockets of one channel mostly wait for the very same frames: join them once.
    let last: readonly string[] = [];
    let joined = "";
    const join = (frames: readonly string[]): string => {
      const isSame = frames.length === last.length && frames.every((frame, i) => frame === last[i]);
      if (!isSame) {
        last = frames;
        joined = joinFrames(frames);
      }
      return joined;
    };
    for (const session of due) {
      session.waits = false;
      session.flush(join);
    }
  }
}

/** At 20 µs a send: under a constant stream of events, sending takes half of an actor's time … */
const FRAMES_MS_PER_SOCKET = 0.04;
/** … and telling of what can be told later, in fewer words, takes a fifteenth. */
const DIFFS_MS_PER_SOCKET = 0.3;
/** Nobody waits longer, however large the room. */
const LONGEST_WINDOW_MS = 1_000;
