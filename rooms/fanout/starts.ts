import type { FilterKey } from "./filters.ts";

/**
 * After which number of the log each filter of a socket holds, for the filters in the order in which the
 * socket gave them: `[number, how many filters]`. Filters come in lists, so that this is short.
 */
export type Starts = readonly (readonly [seq: number, count: number])[];

/** Whether a stored value is {@link Starts}. */
export function areStarts(value: unknown): value is Starts {
  return (
    Array.isArray(value) &&
    value.every((run) => Array.isArray(run) && run.length === 2 && run.every(Number.isSafeInteger))
  );
}

/** The number after which each of `filters` holds. A filter of an earlier release has none. */
export function readStarts(filters: Iterable<FilterKey>, starts: Starts): Map<FilterKey, number> {
  const numbers = starts.flatMap(([seq, count]) => new Array<number>(count).fill(seq));
  const all = [...filters];
  const known = all.slice(Math.max(0, all.length - numbers.length));
  return new Map(known.map((filter, i) => [filter, numbers[i] as number]));
}

/** Runs that a socket's attachment has place for. */
const RUNS = 50;

/** @param numbers of all filters of a socket that have one, in their order */
export function writeStarts(numbers: Iterable<number>): Starts {
  const starts: [number, number][] = [];
  for (const seq of numbers) {
    const last = starts.at(-1);
    if (last?.[0] === seq) last[1] += 1;
    else starts.push([seq, 1]);
  }
  while (starts.length > RUNS) {
    const [[first, count], next] = starts as [[number, number], [number, number]];
    // The later number: an envelope may come twice then, and none is left out.
    starts.splice(0, 2, [Math.max(first, next[0]), count + next[1]]);
  }
  return starts;
}
