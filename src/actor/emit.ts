import { log } from "../log.ts";
import type { Codec } from "../wire/codec.ts";
import { RollcallError } from "../wire/errors.ts";
import type { AnyEvents, EventMap, Payload } from "../wire/events.ts";
import type { Connections } from "./connections.ts";
import type { Origin, Scope } from "./distribution.ts";
import type { Target } from "./log.ts";
import type { ConnectionMeta } from "./meta.ts";
import type { Session } from "./session.ts";
import { afterCommit, isInTransaction } from "./transaction.ts";

export type { AnyEvents, EventMap } from "../wire/events.ts";

/** Emits to the targets that it was made for. */
export interface EmitBuilder<V extends EventMap = AnyEvents> {
  /** @returns the number of sockets it goes to */
  emit<K extends keyof V["out"] & string>(event: K, ...[data]: Payload<V["out"][K]>): number;
}

/** `ctx.emit`: to this socket, or from it to others. */
export interface SocketEmit<V extends EventMap = AnyEvents> {
  /** To this socket only. */
  emit<K extends keyof V["out"] & string>(event: K, ...[data]: Payload<V["out"][K]>): void;
  /**
   * Asks this client (protocol 2) and waits for its answer.
   *
   * The option `timeoutMs` is 1–60 000, default 10 000: the actor stays awake as long.
   *
   * @throws RollcallError `timeout`, `disconnected`, or `unprocessable` with the client's message
   *   when it refused; `conflict` inside a transaction
   */
  emitWithAck<K extends keyof V["out"] & string>(
    event: K,
    ...[data, options]: Payload<V["out"][K], [options?: { timeoutMs?: number }]>
  ): Promise<unknown>;
  /**
   * Verani's: a channel this socket is in, without itself; any other name is a user, with all its
   * sockets. Where users can have names of channels, use `ctx.toUser` or `ctx.toChannel`.
   */
  to(target: string): EmitBuilder<V>;
}

/** `actor.emit`: to all in a channel, to a user, or to the sessions that a test picks. */
export interface ActorEmit<
  M extends ConnectionMeta = ConnectionMeta,
  V extends EventMap = AnyEvents,
> extends EmitBuilder<V> {
  /** All in `channel`. */
  to(channel: string): EmitBuilder<V>;
  /** All sockets of a user. */
  toUser(userId: string): EmitBuilder<V>;
  /** Every session of this actor for which `matches` is true, also in a room with shards. */
  where(matches: (session: Session<M>) => boolean): EmitBuilder<V>;
}

/** The sessions within the channel that `actor.broadcast` reaches; by default all. */
export interface BroadcastOptions {
  except?: WebSocket;
  userIds?: string[];
  clientIds?: string[];
  /** Not the session with this id, in whichever shard of the room it is. */
  exceptSession?: string | undefined;
}
/** As {@link BroadcastOptions}, without the socket, which cannot travel over RPC. */
export type RpcBroadcastOptions = Omit<BroadcastOptions, "except">;

/** Those an event is for: the sessions that are connected, and all that may have to receive it later. */
interface Audience<M extends ConnectionMeta> {
  sessions(): Session<M>[];
  target(): Target;
  /** In other actors of the room; undefined for those here only. */
  scope?: Scope;
}

/** Encodes events and gives them to the sessions they are for. */
export class Emitter<M extends ConnectionMeta, V extends EventMap> {
  readonly #connections: Connections<M>;
  readonly #codec: Codec;
  /** For handlers, as `actor.emit`. */
  readonly actor: ActorEmit<M, V>;
  #hasWarned = false;

  constructor(connections: Connections<M>) {
    this.#connections = connections;
    this.#codec = connections.codec;
    const to = (channel: string) => this.#builder(this.#channel(channel), channel);
    this.actor = {
      emit: (event: string, data?: unknown) => this.toChannel("default", event, data),
      to,
      toUser: (userId) => this.#builder(this.#user(userId), "default"),
      where: (matches) => this.#builder(this.#where(matches), "default"),
    };
  }

  #where(matches: (session: Session<M>) => boolean): Audience<M> {
    return {
      sessions: () => this.#connections.where(matches),
      target: () => this.#connections.continuity.targetOf(matches),
    };
  }

  #channel(channel: string, except?: Session<M>): Audience<M> {
    return {
      sessions: () => this.#connections.inChannel(channel, except?.ws),
      target: () => (except?.reader ? { channel, except: except.id } : { channel }),
      scope: { channel },
    };
  }

  #user(userId: string): Audience<M> {
    return {
      sessions: () => this.#connections.openOf(userId),
      target: () => this.#connections.targetOfUser(userId),
      scope: { userId },
    };
  }

  /** For handlers of `session`, as `ctx.emit`. */
  of(session: Session<M>): SocketEmit<V> {
    const own = () => session.meta.channels[0] ?? "default";
    return {
      emit: (event: string, data?: unknown) => {
        const text = this.#codec.encodeEvent(event, data, own());
        afterCommit(() => this.#connections.sendTo(session, text));
      },
      emitWithAck: async (
        event: string,
        data?: unknown,
        { timeoutMs = 10_000 }: { timeoutMs?: number } = {},
      ) => {
        if (session.protocol === 1) {
          const why = "This client speaks protocol 1, which has no acks";
          throw new RollcallError("unprocessable", why);
        }
        if (isInTransaction()) {
          const why = "The event leaves with the commit, which would wait for its answer";
          throw new RollcallError("conflict", why);
        }
        const id = crypto.randomUUID();
        const text = this.#codec.encodeEvent(event, data, own(), id);
        const answer = session.awaitAck(id, Math.min(Math.max(timeoutMs, 1), 60_000));
        this.#connections.sendTo(session, text);
        return answer;
      },
      to: (target) => {
        if (!session.meta.channels.includes(target)) {
          return this.#builder(this.#user(target), own());
        }
        this.#warnIfUser(target);
        return this.toOthers(target, session);
      },
    };
  }

  /** To all in a channel but one session. */
  toOthers(channel: string, session: Session<M>): EmitBuilder<V> {
    return this.#builder(this.#channel(channel, session), channel);
  }

  /** A channel has the name of a user who is here: what was meant for the user, all would receive. */
  #warnIfUser(target: string): void {
    if (this.#hasWarned || this.#connections.ofUser(target).size === 0) return;
    this.#hasWarned = true;
    log("ambiguous_target", { use: "ctx.toUser or ctx.toChannel" });
  }

  toChannel(channel: string, event: string, data: unknown): number {
    return this.#deliver(this.#channel(channel), event, data, channel);
  }

  toUser(userId: string, event: string, data: unknown): number {
    return this.#deliver(this.#user(userId), event, data, "default");
  }

  /** Verani's: the event's name is the data's `type`. */
  broadcast(channel: string, data: unknown, options: BroadcastOptions): number {
    const { except, userIds, clientIds, exceptSession } = options;
    const scope = { channel, userIds, clientIds, exceptSession };
    const isIn = inScope(scope);
    const { event, rest } = nameOf(data);
    const audience = this.#where((session) => session.ws !== except && isIn(session));
    return this.#deliver({ ...audience, scope }, event, rest, channel);
  }

  /** Verani's, as {@link broadcast}. */
  sendToUser(userId: string, channel: string, data: unknown): number {
    const { event, rest } = nameOf(data);
    const scope = { userId, channel };
    return this.#deliver({ ...this.#where(inScope(scope)), scope }, event, rest, channel);
  }

  #builder(audience: Audience<M>, channel: string): EmitBuilder<V> {
    return {
      emit: (event: string, data?: unknown) => this.#deliver(audience, event, data, channel),
    };
  }

  /** The one way out for events: encodes once. @returns the number of targets */
  #deliver(audience: Audience<M>, event: string, data: unknown, channel: string): number {
    const sessions = audience.sessions();
    const { isLogged } = this.#connections.continuity;
    const relay = audience.scope && this.#connections.relayOf(audience.scope);
    if (sessions.length === 0 && !isLogged && !relay) return 0;
    const text = this.#codec.encodeEvent(event, data, channel);
    const target = isLogged || relay ? audience.target() : undefined;
    afterCommit(() => this.#connections.deliver(sessions, target, text, relay && { relay }));
    return sessions.length;
  }

  /** Gives an event of another actor to those here that it is for. @returns how many connections */
  relayed(scope: Scope, text: string, origin: Origin): number {
    const { sessions, target } = this.#audienceOf(scope);
    const reached = sessions();
    this.#connections.deliver(reached, target(), text, { origin });
    return reached.length;
  }

  #audienceOf(scope: Scope): Audience<M> {
    const { channel, userId, userIds, clientIds, exceptSession } = scope;
    if (userId !== undefined && channel === undefined) return this.#user(userId);
    const isPart = userId ?? userIds ?? clientIds ?? exceptSession;
    const isChannel = channel !== undefined && isPart === undefined;
    return isChannel ? this.#channel(channel) : this.#where(inScope(scope));
  }
}

function inScope({ channel, userId, userIds, clientIds, exceptSession }: Scope) {
  return ({ id, meta }: Pick<Session, "id" | "meta">): boolean =>
    id !== exceptSession &&
    (channel === undefined || meta.channels.includes(channel)) &&
    (userId === undefined || meta.userId === userId) &&
    (!userIds || userIds.includes(meta.userId)) &&
    (!clientIds || clientIds.includes(meta.clientId));
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
