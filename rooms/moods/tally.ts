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

/** The name of an actor that counts sessions. */
export function shardName(index: number): string {
  return SHARD_PREFIX + index;
}

/** The number of the actor that is named {@link shardName}. */
export function shardIndex(name: string): number {
  return Number(name.slice(SHARD_PREFIX.length));
}

/** The name of the actor that adds up the shards; a single shard needs none, and is it itself. */
export function totalName(shards: number): string {
  return shards === 1 ? shardName(0) : "total";
}
