import { RollcallError } from "../../src/wire/errors.ts";
import { isWellFormed } from "../../src/wire/text.ts";
import { SESSION_ID_LENGTH } from "./tally.ts";

/** @throws RollcallError `bad_request` naming `sessionId` unless it is a string of 1 to 64 characters */
export function parseSessionId(value: unknown): string {
  const fail = (why: string) => new RollcallError("bad_request", `sessionId ${why}`, "sessionId");
  if (value === undefined || value === null) throw fail("is missing");
  if (typeof value !== "string") throw fail("must be a string");
  if (value === "") throw fail("must not be empty");
  if (!isWellFormed(value)) throw fail("has half of a surrogate pair");
  // A code point has at most two UTF-16 units, so a longer text need not be counted.
  const tooLong =
    value.length > 2 * SESSION_ID_LENGTH ||
    (value.length > SESSION_ID_LENGTH && [...value].length > SESSION_ID_LENGTH);
  if (tooLong) throw fail(`must have at most ${SESSION_ID_LENGTH} characters`);
  return value;
}

/**
 * A mood of `moods`; `defaultMood` when the value is missing.
 *
 * @throws RollcallError `bad_request` naming `mood` for any other value
 */
export function parseMood<M extends string>(
  value: unknown,
  moods: readonly M[],
  defaultMood: M,
): M {
  if (value === undefined) return defaultMood;
  const mood = moods.find((known) => known === value);
  if (mood !== undefined) return mood;
  throw new RollcallError("bad_request", invalidMood(moods), "mood");
}

/** The message for a mood that is none of `moods`. */
export function invalidMood(moods: readonly string[]): string {
  return `mood must be one of ${moods.join(", ")}`;
}
