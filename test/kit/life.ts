import { setTimeout as sleep } from "node:timers/promises";
import { Random } from "./random.ts";

/** Random times, and a stop that ends all waits. */
export class Life {
  readonly random: Random;
  readonly #stopping = new AbortController();

  constructor(...seeds: number[]) {
    this.random = new Random(...seeds);
  }

  get isOver(): boolean {
    return this.#stopping.signal.aborted;
  }

  stop(): void {
    this.#stopping.abort();
  }

  /** @returns whether life goes on */
  async wait(ms: number): Promise<boolean> {
    await sleep(ms, undefined, { signal: this.#stopping.signal }).catch(() => {});
    return !this.isOver;
  }

  /** Exponentially distributed, as times between independent events are; at most 10 times the mean. */
  around(meanMs: number): number {
    return Math.min(-Math.log(1 - this.random.unit()) * meanMs, 10 * meanMs);
  }

  /**
   * Joins, stays and leaves for ever; after `stop` it remains as it is. The first join is within
   * `rampMs`.
   */
  async joinAndLeave(
    [rampMs, stayMs, awayMs]: readonly [number, number, number],
    join: () => Promise<void>,
    leave: () => void,
  ): Promise<void> {
    if (!(await this.wait(this.random.unit() * rampMs))) return;
    for (;;) {
      await join();
      if (!(await this.wait(this.around(stayMs)))) return;
      leave();
      if (!(await this.wait(this.around(awayMs)))) return;
    }
  }

  /** Acts about `perSecond` times a second, at random moments. */
  async repeat(perSecond: number, act: () => void): Promise<void> {
    while (await this.wait(this.around(1_000 / perSecond))) act();
  }
}
