import { RollcallError } from "../../src/wire/errors.ts";
import { blockRecord } from "./contract.ts";

/** Storage key of a user who is kept out. */
const PREFIX = "block:";
/** Users who are kept out of one room. */
const BLOCKS = 10_000;

/** The users who are kept out of a room for a time. */
export class Blocks {
  readonly #kv: SyncKvStorage;

  constructor({ kv }: DurableObjectStorage) {
    this.#kv = kv;
  }

  /**
   * Keeps a user out until a time (ms).
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
      throw new RollcallError("unprocessable", `A room keeps at most ${BLOCKS} users out`);
    }
    this.#kv.put(PREFIX + userId, blockRecord.write({ untilMs }));
  }

  /** @throws RollcallError `forbidden` for a user who is kept out */
  check(userId: string): void {
    const block = blockRecord.read(this.#kv.get(PREFIX + userId));
    if (!block) return;
    if (block.untilMs > Date.now())
      throw new RollcallError("forbidden", "You are kept out of this room");
    this.#kv.delete(PREFIX + userId);
  }
}
