import type { RecordType } from "../../src/actor/record.ts";
import { statusRecord } from "./contract.ts";

/** Storage key of a user's status, which is stored while it is not the default. */
const STATUS_PREFIX = "status:";

/** The statuses of users, in storage; a user without one has the default status. */
export class Statuses<S extends string> {
  readonly #storage: DurableObjectStorage;
  readonly #record: RecordType<{ status: S }>;
  readonly #default: S;
  /** The stored records by user. */
  readonly #stored = new Map<string, { status: S }>();

  /** @param statuses the first one is the default */
  constructor(storage: DurableObjectStorage, statuses: readonly S[]) {
    this.#storage = storage;
    this.#record = statusRecord(statuses);
    this.#default = statuses[0] as S;
    for (const [key, value] of storage.kv.list({ prefix: STATUS_PREFIX })) {
      const record = this.#record.read(value);
      if (record) this.#stored.set(key.slice(STATUS_PREFIX.length), record);
    }
  }

  of(userId: string): S {
    return this.#stored.get(userId)?.status ?? this.#default;
  }

  /** Stores a status, and runs `then` in the same transaction. */
  set(userId: string, status: S, then: () => void): void {
    const record = { ...this.#stored.get(userId), status };
    const stored = this.#record.write(record);
    // Bare, so a record with fields of a later version is kept.
    const isDefault = stored === this.#default;
    const { kv } = this.#storage;
    this.#storage.transactionSync(() => {
      if (status !== this.of(userId)) {
        if (isDefault) kv.delete(STATUS_PREFIX + userId);
        else kv.put(STATUS_PREFIX + userId, stored);
      }
      then();
    });
    if (isDefault) this.#stored.delete(userId);
    else this.#stored.set(userId, record);
  }

  /** The user has left. */
  delete(userId: string): void {
    if (this.#stored.delete(userId)) this.#storage.kv.delete(STATUS_PREFIX + userId);
  }

  /** Deletes those of users who are not present. @returns whether there were any */
  keepOnly(isPresent: (userId: string) => boolean): boolean {
    const absent = [...this.#stored.keys()].filter((userId) => !isPresent(userId));
    if (absent.length === 0) return false;
    this.#storage.transactionSync(() => {
      for (const userId of absent) this.delete(userId);
    });
    return true;
  }
}
