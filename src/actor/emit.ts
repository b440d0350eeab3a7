import type { Codec } from "../wire/codec.ts";
import { RollcallError } from "../wire/errors.ts";
import type { Untyped } from "../wire/frames.ts";
import type { Connections } from "./connections.ts";
import type { ConnectionMeta } from "./meta.ts";
import type { Session } from "./session.ts";
import { afterCommit } from "./transaction.ts";

/** Names and types the events of a room, seen from the server: `in` from clients, `out` to them. */
export interface EventMap {
  in: object;
  out: object;
}
export interface AnyEvents {
  in: Record<string, Untyped>;
  out: Record<string, Untyped>;
}

/** Emits to the targets that it was made for. */
export interface EmitBuilder<V extends EventMap = AnyEvents> {
  /** @returns the number of sockets it goes to */
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

/** `actor.emit`: to all in a channel, to a user, or to the sessions that a test picks. */
export interface ActorEmit<
  M extends ConnectionMeta = ConnectionMeta,
  V extends EventMap = AnyEvents,
> extends EmitBuilder<V> {
  /** All in `channel`. */
  to(channel: string): EmitBuilder<V>;
  toUser(userId: string): EmitBuilder<V>;
  /** Every session for which `matches` is true. */
  where(matches: (session: Session<M>) => boolean): EmitBuilder<V>;
}

/** The sessions within the channel that `actor.broadcast` reaches; by default all. */
export interface BroadcastOptions {
  except?: WebSocket;
  userIds?: string[];
  clientIds?: string[];
}
/** As {@link BroadcastOptions}, without the socket, which cannot travel over RPC. */
export type RpcBroadcastOptions = Omit<BroadcastOptions, "except">;

/** Encodes events and gives them to the sessions they are for. */
export class Emitter<M extends ConnectionMeta, V extends EventMap> {
  readonly #connections: Connections<M>;
  readonly #codec: Codec;
  /** For handlers, as `actor.emit`. */
  readonly actor: ActorEmit<M, V>;

  constructor(connections: Connections<M>) {
    this.#connections = connections;
    this.#codec = connections.codec;
    const to = (channel: string) =>
      this.#builder(() => this.#connections.inChannel(channel), channel);
    this.actor = {
      emit: (event, data) => to("default").emit(event, data),
      to,
      toUser: (userId) => this.#builder(() => this.#connections.openOf(userId), "default"),
      where: (matches) => this.#builder(() => this.#connections.where(matches), "default"),
    };
  }

  /** For handlers of `session`, as `ctx.emit`. */
  of(session: Session<M>): SocketEmit<V> {
    const own = () => session.meta.channels[0] ?? "default";
    return {
      emit: (event, data) => {
        const text = this.#codec.encodeEvent(event, data, own());
        afterCommit(() => session.enqueue(text));
      },
      emitWithAck: async (event, data, { timeoutMs = 10_000 } = {}) => {
        if (session.protocol !== 2) {
          const why = "This client speaks protocol 1, which has no acks";
          throw new RollcallError("unprocessable", why);
        }
        const id = crypto.randomUUID();
        const text = this.#codec.encodeEvent(event, data, own(), id);
        const answer = session.awaitAck(id, Math.min(Math.max(timeoutMs, 1), 60_000));
        afterCommit(() => session.enqueue(text));
        return answer;
      },
      to: (target) =>
        session.meta.channels.includes(target)
          ? this.#builder(() => this.#connections.inChannel(target, session.ws), target)
          : this.#builder(() => this.#connections.openOf(target), own()),
    };
  }

  toChannel(channel: string, event: string, data: unknown): number {
    return this.#deliver(this.#connections.inChannel(channel), event, data, channel);
  }

  toUser(userId: string, event: string, data: unknown): number {
    return this.#deliver(this.#connections.openOf(userId), event, data, "default");
  }

  /** Verani's: the event's name is the data's `type`. */
  broadcast(channel: string, data: unknown, options: BroadcastOptions): number {
    const { except, userIds, clientIds } = options;
    const targets = this.#connections
      .inChannel(channel, except)
      .filter(
        ({ meta }) =>
          (!userIds || userIds.includes(meta.userId)) &&
          (!clientIds || clientIds.includes(meta.clientId)),
      );
    const { event, rest } = nameOf(data);
    return this.#deliver(targets, event, rest, channel);
  }

  /** Verani's, as {@link broadcast}. */
  sendToUser(userId: string, channel: string, data: unknown): number {
    const open = this.#connections.openOf(userId);
    const targets = open.filter(({ meta }) => meta.channels.includes(channel));
    const { event, rest } = nameOf(data);
    return this.#deliver(targets, event, rest, channel);
  }

  #builder(targets: () => Session<M>[], channel: string): EmitBuilder<V> {
    return { emit: (event, data) => this.#deliver(targets(), event, data, channel) };
  }

  /** The one way out for events: encodes once. @returns the number of targets */
  #deliver(targets: Session<M>[], event: string, data: unknown, channel: string): number {
    if (targets.length === 0) return 0;
    const text = this.#codec.encodeEvent(event, data, channel);
    afterCommit(() => {
      for (const session of targets) session.enqueue(text);
    });
    return targets.length;
  }
}

function nameOf(data: unknown): { event: string; rest: unknown } {
  if (
    typeof data === "object" &&
    data !== null &&
    "type" in data &&
    typeof data.type === "string"
  ) {
    const { type, ...rest } = data;
    return { event: type, rest };
  }
  return { event: "event", rest: data };
}
