import { AsyncLocalStorage } from "node:async_hooks";
import { log } from "../log.ts";

/** Deliveries that wait for a transaction to commit. Once closed it takes no more. */
interface Pending {
  deliveries: (() => void)[];
  rolledBack: boolean;
  closed: boolean;
}

const current = new AsyncLocalStorage<Pending | undefined>();

/** Whether the caller is inside a transaction that has not ended. */
export function isInTransaction(): boolean {
  const pending = current.getStore();
  return pending !== undefined && !pending.closed;
}

/** Runs `deliver` now, or inside a transaction once it has committed; a rollback drops it. */
export function afterCommit(deliver: () => void): void {
  const pending = current.getStore();
  if (pending && !pending.closed) pending.deliveries.push(deliver);
  else deliver();
}

/** The transaction has committed: what its deliveries throw must not look like a failure of it. */
function deliverSafely(deliver: () => void): void {
  try {
    deliver();
  } catch (error) {
    log("delivery_failed", { error });
  }
}

/** Runs `task` as if it were in no transaction, for work that outlives the transaction. */
export function outsideTransaction<T>(task: () => T): T {
  return current.run(undefined, task);
}

/**
 * `storage` with transactions that delay {@link afterCommit} until they commit. The delay follows the
 * asynchronous context, so a handler that runs meanwhile is not delayed.
 *
 * @param watch called when a transaction begins; what it returns is called if that is rolled back
 */
export function bufferEmits(
  storage: DurableObjectStorage,
  watch: () => () => Promise<void>,
): DurableObjectStorage {
  function begin(): { pending: Pending; end(committed: boolean): void } {
    const outer = current.getStore();
    const rolledBack = watch();
    const pending: Pending = { deliveries: [], rolledBack: false, closed: false };
    return {
      pending,
      end(committed) {
        pending.closed = true;
        if (!committed || pending.rolledBack) {
          void outsideTransaction(rolledBack).catch((error) => log("not_restored", { error }));
          return;
        }
        if (outer && !outer.closed) outer.deliveries.push(...pending.deliveries);
        else for (const deliver of pending.deliveries) deliverSafely(deliver);
      },
    };
  }

  async function transaction<T>(body: (txn: DurableObjectTransaction) => Promise<T>): Promise<T> {
    const { pending, end } = begin();
    try {
      const result = await storage.transaction((txn) => {
        const watched = override(txn, {
          rollback: () => {
            pending.rolledBack = true;
            txn.rollback();
          },
        });
        return current.run(pending, () => body(watched));
      });
      end(true);
      return result;
    } catch (thrown) {
      end(false);
      throw thrown;
    }
  }

  function transactionSync<T>(body: () => T): T {
    const { pending, end } = begin();
    try {
      const result = storage.transactionSync(() => current.run(pending, body));
      end(true);
      return result;
    } catch (thrown) {
      end(false);
      throw thrown;
    }
  }

  return override(storage, { transaction, transactionSync });
}

/** `target` with some methods replaced. Host objects refuse any other `this`, hence the proxy. */
function override<T extends object>(target: T, methods: Record<string, unknown>): T {
  return new Proxy(target, {
    get(_, key) {
      if (typeof key === "string" && Object.hasOwn(methods, key)) return methods[key];
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
