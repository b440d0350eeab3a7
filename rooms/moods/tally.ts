import { RollcallError } from "../../src/wire/errors.ts";

/**
 * Types and pure functions of the mood count, shared by routes, room and client. Nothing here needs
 * Workers or browsers.
 */

/** The moods of the service. */
export const MOODS = ["gratitude", "presence", "release", "connection"] as const;
/** One of {@link MOODS}. */
export type Mood = (typeof MOODS)[number];
/** The mood of a session that gives none, in the service. */
export const DEFAULT_MOOD: Mood = "presence";

/** Options of `moods`. */
export interface MoodOptions<M extends string = Mood> {
  /** Name of the room, for logs. Default `mood-room`. */
  name?: string;
  /** Path of the upgrade, in the Worker and in the actors. Default `/ws/moods`. */
  websocketPath?: string;
  /** Name of the Durable Object binding in `wrangler.toml`. Default `MOODS`. */
  binding?: string;
  /** 1 to 255 different moods. Default gratitude, presence, release, connection. */
  moods?: readonly [M, ...M[]];
  /** The mood of a session that gives none. Default: `presence`, or the first of your own `moods`. */
  defaultMood?: NoInfer<M>;
  /**
   * A session without a socket is gone this long after its last heartbeat, and a socket this long after
   * its last ping or frame, in ms. At least 3 000; default 30 000. Clients should send three in it.
   */
  ttlMs?: number;
}

/** The number of sessions, in total and by mood. `timestamp` is server time in ms. */
export interface MoodState<M extends string = Mood> {
  count: number;
  moods: Record<M, number>;
  timestamp: number;
}

/** The events of the mood room, as both ends type them. */
export interface MoodEvents<M extends string = Mood> {
  in: { "mood.set": { mood: M } };
  out: { "mood.state": MoodState<M> };
}

/** The number of sessions in each mood, in the order of the list of moods. */
export type Tally = number[];

/** A session without a socket is gone this long after its last heartbeat, in ms, by default. */
export const SESSION_TTL_MS = 30_000;

/** Characters (Unicode code points, so that no script counts double) of a session id. */
export const SESSION_ID_LENGTH = 64;

/** A tally as the data of `mood.state`. */
export function toMoodState<M extends string>(
  moods: readonly M[],
  tally: Tally,
  timestamp: number,
): MoodState<M> {
  const byMood = Object.fromEntries(moods.map((mood, i) => [mood, tally[i] ?? 0]));
  const count = tally.reduce((sum, n) => sum + n, 0);
  return { count, moods: byMood as Record<M, number>, timestamp };
}

const MAX_SHARDS = 256;

/**
 * `MOOD_SHARDS` as a number.
 *
 * @throws RollcallError `unavailable` when it is set to anything but an integer from 1 to 256
 */
export function shardCount(env: { MOOD_SHARDS?: string }): number {
  const shards = Number(env.MOOD_SHARDS ?? 1);
  if (Number.isInteger(shards) && shards >= 1 && shards <= MAX_SHARDS) return shards;
  throw new RollcallError("unavailable", `MOOD_SHARDS must be 1 to ${MAX_SHARDS}`);
}

const SHARD_PREFIX = "shard:";
const TOTAL = "total";

/** The name of an actor that counts sessions, or with `null` of the one that adds up several. */
export function shardName(index: number | null): string {
  return index === null ? TOTAL : SHARD_PREFIX + index;
}

/** The number of the actor that is named {@link shardName}. */
export function shardIndex(name: string): number | null {
  return name === TOTAL ? null : Number(name.slice(SHARD_PREFIX.length));
}

/** The name of the actor that knows the count of all shards. */
export function totalName(shards: number): string {
  return shardName(shards === 1 ? 0 : null);
}
