/**
 * What storage holds, as JSON that can be read. Beside plain JSON: `{"$ms":-1200}` is a time, in ms
 * from the moment of the recording; `{"$set":[…]}`, `{"$u8":[…]}` and `{"$f64":[…]}` are a Set, a
 * Uint8Array and a Float64Array; `{"$text":["a",["x",900]]}` is a text with repetitions in it.
 */
import recording from "./previous/rows.json" with { type: "json" };

/** An actor when it was recorded. */
export interface Recorded {
  /** The name that the actor was addressed by. */
  name: string;
  rows: Record<string, unknown>;
  /** The attachments of its sockets by the client's name in the recording. */
  sockets: Record<string, unknown>;
}

const YEAR_MS = 365 * 24 * 3_600_000;
/** A character that is repeated so often is not written out. */
const REPETITION = /(.)\1{99,}/gs;

/** A stored value as JSON; numbers that are near `nowMs` are times. */
export function encode(value: unknown, nowMs: number): unknown {
  const each = (values: Iterable<unknown>) => Array.from(values, (one) => encode(one, nowMs));
  if (typeof value === "number" && Math.abs(value - nowMs) < YEAR_MS) {
    return { $ms: value - nowMs };
  }
  if (typeof value === "string" && value.search(REPETITION) >= 0) {
    const parts: unknown[] = [];
    let end = 0;
    for (const { 0: run, 1: character, index } of value.matchAll(REPETITION)) {
      parts.push(value.slice(end, index), [character, run.length]);
      end = index + run.length;
    }
    return { $text: [...parts, value.slice(end)] };
  }
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return each(value);
  if (value instanceof Set) return { $set: each(value) };
  if (value instanceof Uint8Array) return { $u8: [...value] };
  if (value instanceof Float64Array) return { $f64: each(value) };
  if (Object.getPrototypeOf(value) !== Object.prototype) {
    throw new TypeError(`There is no encoding for a ${value.constructor.name}`);
  }
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, encode(one, nowMs)]));
}

/** The value that was recorded, as if the recording had been made at `nowMs`. */
function decode(encoded: unknown, nowMs: number): unknown {
  const each = (values: unknown) => (values as unknown[]).map((one) => decode(one, nowMs));
  if (typeof encoded !== "object" || encoded === null) return encoded;
  if (Array.isArray(encoded)) return each(encoded);
  const [tag, content] = Object.entries(encoded)[0] ?? [];
  switch (tag) {
    case "$ms":
      return nowMs + (content as number);
    case "$set":
      return new Set(each(content));
    case "$u8":
      return Uint8Array.from(each(content) as number[]);
    case "$f64":
      return Float64Array.from(each(content) as number[]);
    case "$text":
      return (content as (string | [string, number])[])
        .map((part) => (typeof part === "string" ? part : part[0].repeat(part[1])))
        .join("");
    default:
      return Object.fromEntries(
        Object.entries(encoded).map(([key, one]) => [key, decode(one, nowMs)]),
      );
  }
}

/**
 * An actor of the previous release, as if it had been recorded at `nowMs`.
 *
 * @param name of the actor that gets the rows, where these contain the name, as a user's do
 */
export function recorded(
  actor: keyof typeof recording,
  { nowMs = Date.now(), name = recording[actor].name } = {},
): Recorded {
  const text = JSON.stringify(recording[actor]);
  const renamed = text.replaceAll(`"${recording[actor].name}"`, JSON.stringify(name));
  return decode(JSON.parse(renamed), nowMs) as Recorded;
}
