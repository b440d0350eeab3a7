import { isSettledSoon } from "./retry.ts";

/** What happens to a frame that comes while earlier ones are being handled. */
export type Room = "ok" | "full" | "flooded";

function unitsOf(raw: string | ArrayBuffer): number {
  return typeof raw === "string" ? raw.length : raw.byteLength;
}

/** The tasks of one session, one after another, and how much waits for the first of them. */
export class Inbox {
  readonly #limitUnits: number;
  #tail: Promise<void> | null = null;
  /** UTF-16 units of frames that wait to be handled, and of those that were dropped meanwhile. */
  #units = 0;
  #droppedUnits = 0;

  /** @param limitUnits of frames that wait: a frame beyond is dropped */
  constructor(limitUnits: number) {
    this.#limitUnits = limitUnits;
  }

  /** Runs `task` after all earlier tasks. */
  run(task: () => void | Promise<void>): Promise<void> {
    const tail = this.#tail;
    return this.#queueUp(tail === null ? Promise.resolve(task()) : tail.then(task));
  }

  /** Runs the last task: after all earlier ones, unless one of them does not end. */
  finish(task: () => Promise<void>): Promise<void> {
    const tail = this.#tail;
    return this.#queueUp(tail === null ? task() : isSettledSoon(tail).then(task));
  }

  #queueUp(task: Promise<void>): Promise<void> {
    const done = () => {
      if (this.#tail === settled) this.#tail = null;
    };
    // A task that fails is no reason not to run the next.
    const settled = task.then(done, done);
    this.#tail = settled;
    return task;
  }

  /** Whether a frame may wait; `flooded` when its sender goes on although frames are dropped. */
  roomFor(raw: string | ArrayBuffer): Room {
    const units = unitsOf(raw);
    if (this.#tail === null || this.#units + units <= this.#limitUnits) return "ok";
    this.#droppedUnits += units;
    return this.#droppedUnits > this.#limitUnits / 2 ? "flooded" : "full";
  }

  /** Runs the handlers of a frame after all earlier tasks. */
  handle(raw: string | ArrayBuffer, task: () => Promise<void>): Promise<void> {
    if (this.#tail === null) return this.run(task);
    const units = unitsOf(raw);
    this.#units += units;
    return this.run(async () => {
      try {
        await task();
      } finally {
        this.#units -= units;
        if (this.#units === 0) this.#droppedUnits = 0;
      }
    });
  }
}
