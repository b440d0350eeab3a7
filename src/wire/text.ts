import { RollcallError } from "./errors.ts";

/** Half of a surrogate pair: with `u`, a whole pair is one character. */
const LONE_SURROGATE = /\p{Surrogate}/u;

/**
 * Whether `text` can be stored and sent unchanged. One with half of a surrogate pair cannot: in UTF-8
 * it becomes another text, so two names become one, or a key is not found again.
 */
export function isWellFormed(text: string): boolean {
  return !LONE_SURROGATE.test(text);
}

/**
 * Refuses text that is to become a key or a name and cannot.
 *
 * @param what names it in the error
 * @throws RollcallError `bad_request`
 */
export function requireWellFormed(text: string, what: string): void {
  if (isWellFormed(text)) return;
  throw new RollcallError("bad_request", `${what} has half of a surrogate pair`);
}
