import { RollcallError } from "../../src/wire/errors.ts";

/**
 * The words of the mood contract, shared by routes, room and client: pure, and without anything of
 * Workers or browsers.
 */
export const MOODS = ["gratitude", "presence", "release", "connection"] as const;
export type Mood = (typeof MOODS)[number];

/** How many people are here, and in which mood. `timestamp` is the server's, in ms. */
export interface MoodState {
  count: number;
  moods: Record<Mood, number>;
  timestamp: number;
}

/** How many are in each mood, in the order of {@link MOODS}. */
export type Tally = number[];

/** A session without a socket is gone this long after its last heartbeat, in ms. */
export const SESSION_TTL_MS = 30_000;

/** Characters (Unicode code points, so that no script counts double) of a session id. */
export const SESSION_ID_LENGTH = 64;

const DEFAULT_MOOD: Mood = "presence";

/** @throws RollcallError `bad_request` naming `sessionId` when it is no string of 1 to 64 characters */
export function parseSessionId(value: unknown): string {
  const fail = (why: string) => new RollcallError("bad_request", `sessionId ${why}`, "sessionId");
  if (value === undefined || value === null) throw fail("is missing");
  if (typeof value !== "string") throw fail("must be a string");
  if (value === "") throw fail("must not be empty");
  // A code point has at most two UTF-16 units: what is longer need not be counted.
  const tooLong =
    value.length > 2 * SESSION_ID_LENGTH ||
    (value.length > SESSION_ID_LENGTH && [...value].length > SESSION_ID_LENGTH);
  if (tooLong) throw fail(`must have at most ${SESSION_ID_LENGTH} characters`);
  return value;
}

/**
 * A missing mood is `presence`.
 *
 * @throws RollcallError `bad_request` naming `mood` for anything that is none
 */
export function parseMood(value: unknown): Mood {
  if (value === undefined) return DEFAULT_MOOD;
  const mood = MOODS.find((known) => known === value);
  if (mood) return mood;
  throw new RollcallError("bad_request", `mood must be one of ${MOODS.join(", ")}`, "mood");
}

export function toMoodState(tally: Tally, timestamp: number): MoodState {
  const moods = Object.fromEntries(MOODS.map((mood, i) => [mood, tally[i] ?? 0]));
  const count = tally.reduce((sum, n) => sum + n, 0);
  return { count, moods: moods as Record<Mood, number>, timestamp };
}

const MOST_SHARDS = 256;

/**
 * `MOOD_SHARDS` as a number.
 *
 * @throws RollcallError `unavailable` when it is set to anything but an integer from 1 to 256
 */
export function shardCount(env: { MOOD_SHARDS?: string }): number {
  const shards = Number(env.MOOD_SHARDS ?? 1);
  if (Number.isInteger(shards) && shards >= 1 && shards <= MOST_SHARDS) return shards;
  throw new RollcallError("unavailable", `MOOD_SHARDS must be 1 to ${MOST_SHARDS}`);
}

/** Which of `shards` actors counts this session: FNV-1a over its UTF-16 units. */
export function shardOf(sessionId: string, shards: number): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < sessionId.length; i++) {
    hash = Math.imul(hash ^ sessionId.charCodeAt(i), 0x01000193);
  }
  // The low bits of FNV know little of the early characters.
  return ((hash ^ (hash >>> 15)) >>> 0) % shards;
}

export function shardName(index: number): string {
  return `shard:${index}`;
}

/** The actor that knows the total: the shard itself where there is but one. */
export function totalName(shards: number): string {
  return shards === 1 ? shardName(0) : "total";
}
