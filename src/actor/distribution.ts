import type { CallResult, CallTarget } from "./call.ts";

/** The users of a room that an event is for, wherever they are connected. */
export interface Scope {
  /** All in this channel. */
  channel?: string;
  /** Only these of them. */
  userIds?: readonly string[] | undefined;
  clientIds?: readonly string[] | undefined;
  /** Not the session with this id. */
  exceptSession?: string | undefined;
  /** All connections of this user, in any channel. */
  userId?: string;
  /** The room itself: its `onRelay` gets it, and no connection. */
  room?: true;
}

/** An event's way to other actors of its room. */
export interface Relay extends Scope {
  /** The number of the only shard that it goes to; default all others. */
  to?: number;
}

/** Where a relayed event comes from: the number of a shard, its log's epoch, and the number there. */
export type Origin = readonly [shard: number, epoch: string, seq: number];

/** The place of an actor among those of its room. */
export interface Shard {
  /** Its number; null for the actor without connections that adds up what shards count. */
  readonly index: number | null;
  /** The number of shards. */
  readonly shards: number;
  /** The number of the shard that has a user's connections. */
  ofUser(userId: string): number;
  /** The actor of a shard, or with `null` the one that adds up. */
  stub(index: number | null): CallTarget;
  /**
   * Sends plain data to the room's `onRelay` in other shards: once, after the events that were emitted
   * before, and before those that follow.
   *
   * @param to the number of a shard; default all others
   */
  relay(data: unknown, to?: number): void;
}

/** What distributes a room over several actors, as one of them uses it. */
export interface Distribution {
  /** Undefined where the room is one actor. */
  readonly shard: Shard | undefined;
  /** Runs before an instance's first event. */
  start(): void;
  /** @throws RollcallError `unavailable` for a user who belongs to another actor */
  admit(userId: string): void;
  /** Where an event has to go beside this actor; undefined for nowhere. */
  relayOf(scope: Scope): Relay | undefined;
  /** Sends other actors what the log has for them. */
  flush(): void;
  /** Whether the deadline `name` is not the room's. */
  rings(name: string): boolean;
  /** {@link rings | Its} deadline has come. */
  ring(): void;
  /** Answers another actor of the room; undefined for a call that is the room's. */
  call(name: string, data: unknown): CallResult | undefined;
}

/** The rows of an actor, as far as its distribution needs them; `storage.kv` fits. */
interface Rows {
  get<T>(key: string): T | undefined;
  put<T>(key: string, value: T): void;
  delete(key: string): unknown;
}

/** The log of an actor, as far as relaying reads it. */
interface RelayLog {
  readonly seq: number;
  readonly floor: { seq: number };
  /**
   * Other actors have all events up to this number. It is stored with the log; undefined when an instance
   * starts: nothing was on its way.
   */
  relayedSeq: number | undefined;
  /** The events after a number, oldest first. Their text has the number at its end. */
  after(seq: number): { seq: number; text: string; relay?: Relay }[];
}

/** An actor as its distribution sees it. */
export interface DistributionHost {
  /** The name of the actor itself. */
  readonly actorName: string;
  readonly storage: { readonly kv: Rows };
  readonly log: RelayLog;
  /** Of the log. Differs whenever numbers of before cannot be trusted. */
  readonly epoch: () => string;
  /** What other actors have relayed, by their numbers. */
  readonly origins: Map<number, { epoch: string; seq: number }>;
  /** The actor of another name, of the same class. */
  stub(name: string): { ingest(name: string, data: unknown): Promise<CallResult> };
  /** Gives an event that was relayed to those it is for. @returns how many connections */
  deliver(scope: Scope, text: string, origin: Origin): number;
  /** Adds what only other actors get to the log. */
  append(text: string, relay: Relay): void;
  /** Stores what was delivered, if the log is durable: before the answer to the call leaves. */
  store(): void;
  /** Closes all connections with 1001. None of the sessions can be resumed. */
  restart(reason: string): void;
  keepName(): void;
  wakeAt(name: string, atMs: number): void;
  keep(promise: Promise<unknown>): void;
}
