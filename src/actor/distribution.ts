import type { CallResult } from "./call.ts";

/** The users of a room that an event is for, wherever they are connected. */
export interface Scope {
  /** All in this channel. */
  channel?: string;
  /** Only these of them. */
  userIds?: readonly string[] | undefined;
  clientIds?: readonly string[] | undefined;
  /** All connections of this user, in any channel. */
  userId?: string;
}

/** An event's way to other actors of its room. */
export interface Relay extends Scope {
  /** The number of the only shard that it goes to; default all others. */
  to?: number;
}

/** Where a relayed event comes from: the number of a shard, its log's epoch, and the number there. */
export type Origin = readonly [shard: number, epoch: string, seq: number];

/** What distributes a room over several actors, as one of them uses it. */
export interface Distribution {
  /** Runs before an instance's first event. */
  start(): void;
  /** @throws RollcallError `unavailable` for a user that another actor has */
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

/** The log of an actor, as far as relaying reads it. */
interface RelayLog {
  readonly seq: number;
  readonly floor: { seq: number };
  /** The events after a number, oldest first. Their text has the number at its end. */
  after(seq: number): { seq: number; text: string; relay?: Relay }[];
}

/** An actor as its distribution sees it. */
export interface DistributionHost {
  /** The name of the actor itself. */
  readonly actorName: string;
  readonly storage: DurableObjectStorage;
  readonly log: RelayLog;
  /** Of the log. Differs whenever numbers of before cannot be trusted. */
  readonly epoch: () => string;
  /** What other actors have relayed, by their numbers. */
  readonly origins: Map<number, { epoch: string; seq: number }>;
  /** The actor of another name, of the same class. */
  stub(name: string): { ingest(name: string, data: unknown): Promise<CallResult> };
  /** Gives an event that was relayed to those it is for. @returns how many connections */
  deliver(scope: Scope, text: string, origin: Origin): number;
  /** Closes all connections with 1001. None of the sessions can be resumed. */
  restart(reason: string): void;
  keepName(): void;
  wakeAt(name: string, atMs: number): void;
  keep(promise: Promise<unknown>): void;
}
