import { RollcallError } from "../../src/wire/errors.ts";
import { blockRecord } from "./contract.ts";

/** Storage key of a blocked user. */
const PREFIX = "block:";
/** Blocked users of one room. */
const BLOCKS = 10_000;

/** The blocked users of a room. */
export class Blocks {
  readonly #kv: SyncKvStorage;

  constructor({ kv }: DurableObjectStorage) {
    this.#kv = kv;
  }

  /**
   * Blocks a user until a time (ms).
   *
   * @throws RollcallError `unprocessable` where too many are
   */
  add(userId: string, untilMs: number): void {
    const now = Date.now();
    let count = 0;
    for (const [key, stored] of this.#kv.list({ prefix: PREFIX })) {
      if ((blockRecord.read(stored)?.untilMs ?? 0) > now) count += 1;
      else this.#kv.delete(key);
    }
    if (count >= BLOCKS) {
      throw new RollcallError("unprocessable", `A room blocks at most ${BLOCKS} users`);
    }
    this.#kv.put(PREFIX + userId, blockRecord.write({ untilMs }));
  }

  /** @throws RollcallError `forbidden` for a blocked user */
  check(userId: string): void {
    const block = blockRecord.read(this.#kv.get(PREFIX + userId));
    if (!block) return;
    if (block.untilMs > Date.now())
      throw new RollcallError("forbidden", "You are blocked in this room");
    this.#kv.delete(PREFIX + userId);
  }
}
