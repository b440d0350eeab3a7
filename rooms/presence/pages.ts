/** Bytes and users of a page, at most. */
export const PAGE_BYTES = 65_000;
export const PAGE_USERS = 200;

/** Texts in the order of their code units. */
export class SortedTexts {
  #items: string[];

  constructor(items: Iterable<string> = []) {
    this.#items = [...items].sort();
  }

  add(text: string): void {
    const at = this.#after(text);
    if (this.#items[at - 1] !== text) this.#items.splice(at, 0, text);
  }

  delete(text: string): void {
    const at = this.#after(text) - 1;
    if (this.#items[at] === text) this.#items.splice(at, 1);
  }

  /** Those after `text`. */
  *from(text: string): Generator<string> {
    for (let at = this.#after(text); at < this.#items.length; at++) yield this.#items[at] as string;
  }

  /** The number of items up to `text`. */
  #after(text: string): number {
    let low = 0;
    let high = this.#items.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#items[middle] as string) <= text) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

const encoder = new TextEncoder();

/** Entries as JSON, up to a number of bytes. */
export interface Page {
  texts: string[];
  bytes: number;
  /** The last userId; null when all are in it. */
  next: string | null;
}

/**
 * Gathers entries until the next one would go over `bytes`, or `limit` are there. The first one is always taken.
 *
 * @param encode an entry as JSON; undefined leaves it out
 */
export function takePage(
  userIds: Iterable<string>,
  encode: (userId: string) => string | undefined,
  limits: { bytes: number; limit?: number },
): Page {
  const { limit = Number.POSITIVE_INFINITY } = limits;
  const page: Page = { texts: [], bytes: 0, next: null };
  let last = "";
  for (const userId of userIds) {
    if (page.texts.length >= limit) return { ...page, next: last };
    const text = encode(userId);
    if (text !== undefined) {
      const bytes = encoder.encode(text).byteLength + 1;
      if (last !== "" && page.bytes + bytes > limits.bytes) return { ...page, next: last };
      page.texts.push(text);
      page.bytes += bytes;
    }
    last = userId;
  }
  return page;
}

/**
 * Pages of several shards as one, by the order of userIds. It ends where one of them ends that has more: what
 * follows there is not known.
 */
export function mergePages<T extends { userId: string }>(
  pages: readonly { users: readonly T[]; next: string | null }[],
  limits: { bytes: number; limit: number },
): { users: T[]; next: string | null } {
  const ends = pages.flatMap(({ next }) => next ?? []);
  const [end = null] = ends.sort();
  const known = new Map(
    pages.flatMap(({ users }) => users).map((user) => [user.userId, user] as const),
  );
  const userIds = [...known.keys()].filter((userId) => end === null || userId <= end).sort();
  const page = takePage(userIds, (userId) => JSON.stringify(known.get(userId)), limits);
  const users = userIds.slice(0, page.texts.length).map((userId) => known.get(userId) as T);
  return { users, next: page.next ?? end };
}
