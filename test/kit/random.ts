/** Chance that can be repeated: the same seed draws the same sequence. (mulberry32) */
export class Random {
  #state: number;

  /** @param words whole numbers, such as a seed and the number of a round */
  constructor(...words: number[]) {
    this.#state = words.reduce(
      (mixed, word) => Math.imul(mixed ^ word, 0x9e3779b1) + 1,
      0x2545f491,
    );
    for (let i = 0; i < 3; i++) this.unit();
  }

  /** From 0 up to, but not including, 1. */
  unit(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A whole number from `least` to `most`, both included. */
  int(least: number, most: number): number {
    return least + Math.floor(this.unit() * (most - least + 1));
  }

  chance(probability: number): boolean {
    return this.unit() < probability;
  }

  /** @throws RangeError when there is nothing to pick from */
  pick<T>(items: readonly T[]): T {
    if (items.length === 0) throw new RangeError("nothing to pick from");
    return items[this.int(0, items.length - 1)] as T;
  }
}

/** `--seed`, or one that nobody had before; it is printed, so that a run can be repeated. */
export function seedOf(given: string | undefined): number {
  if (given === undefined) return Date.now() % 1_000_000_000;
  const seed = Number(given);
  if (!Number.isSafeInteger(seed) || seed < 0) throw new Error("--seed takes a whole number");
  return seed;
}
