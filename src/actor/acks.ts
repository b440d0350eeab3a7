import { RollcallError } from "../wire/errors.ts";

/** A client's answer to an event that asked for one. */
export type Answer = { data: unknown } | { error: RollcallError };

/** The answers that one session still waits for. */
export class Acks {
  readonly #pending = new Map<string, (answer: Answer) => void>();

  /**
   * Waits for the answer with this id.
   *
   * @throws RollcallError (by rejection) `timeout`, `disconnected`, or the client's refusal
   */
  wait(id: string, timeoutMs: number): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const settle = (answer: Answer): void => {
        clearTimeout(timer);
        this.#pending.delete(id);
        if ("data" in answer) resolve(answer.data);
        else reject(answer.error);
      };
      const timer = setTimeout(
        () => settle({ error: new RollcallError("timeout", "The client did not answer in time") }),
        timeoutMs,
      );
      this.#pending.set(id, settle);
    });
  }

  /** The client answered `id`; unknown ids and second answers are ignored. */
  settle(id: string, answer: Answer): void {
    this.#pending.get(id)?.(answer);
  }

  /** The session has ended. */
  rejectAll(): void {
    // Without the check each disconnect would make an error, whose stack costs as much as all the rest.
    if (this.#pending.size === 0) return;
    const error = new RollcallError("disconnected", "The client left before it answered");
    for (const settle of [...this.#pending.values()]) settle({ error });
  }
}
