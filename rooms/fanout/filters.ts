/**
 * Content filters of the fan-out, shared by room and client: what one is, whether it matches, and an
 * index that finds the subscribers of an envelope without looking at each.
 */

/** A filter as one may write it: a type, and fields of the payload by their values. */
export interface Filter {
  type: string;
  [field: string]: string;
}

/**
 * A filter as text, `["chat_message","questId","q1"]`: its type, then keys and values in the order of
 * keys. Equal filters have equal keys. Lists, not objects, so that `__proto__` is a key like any other.
 */
export type FilterKey = string & { readonly filter: unique symbol };

/** A value from outside as a filter: an object of strings with a type; null for anything else. */
export function parseFilter(value: unknown): FilterKey | null {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return null;
  const { type } = value as { type?: unknown };
  if (typeof type !== "string" || type === "") return null;
  const fields = Object.entries(value).filter(([key]) => key !== "type");
  if (fields.some(([, wanted]) => typeof wanted !== "string")) return null;
  fields.sort(([a], [b]) => (a < b ? -1 : 1));
  return JSON.stringify([type, ...fields.flat()]) as FilterKey;
}

/** Whether a stored value is a {@link FilterKey}. */
export function isFilterKey(value: unknown): value is FilterKey {
  if (typeof value !== "string") return false;
  try {
    const parts: unknown = JSON.parse(value);
    return (
      Array.isArray(parts) &&
      parts.length % 2 === 1 &&
      parts.every((part) => typeof part === "string")
    );
  } catch {
    return false;
  }
}

/** The fields of a payload that a filter can ask for: those of an object that are strings. */
function fieldsOf(payload: unknown): Map<string, string> {
  if (typeof payload !== "object" || payload === null || Array.isArray(payload)) return new Map();
  return new Map(Object.entries(payload).filter(([, value]) => typeof value === "string"));
}

/** Filters that begin with the same fields share the nodes of these. */
interface Node<S> {
  /** Of the filter that ends here. */
  subscribers?: Set<S>;
  /** By the next field's key, then by its value. */
  children?: Map<string, Map<string, Node<S>>>;
}

/**
 * Who asked for what. An envelope is followed down a tree of fields in which only what matches is
 * visited, so that its cost grows with what matches and not with what there is.
 */
export class FilterIndex<S> {
  readonly #byType = new Map<string, Node<S>>();

  add(filter: FilterKey, subscriber: S): void {
    const [type, ...fields] = JSON.parse(filter) as [string, ...string[]];
    let node = entry<string, Node<S>>(this.#byType, type, () => ({}));
    for (let i = 0; i < fields.length; i += 2) {
      node.children ??= new Map();
      const byValue = entry(node.children, fields[i] as string, () => new Map<string, Node<S>>());
      node = entry<string, Node<S>>(byValue, fields[i + 1] as string, () => ({}));
    }
    node.subscribers ??= new Set();
    node.subscribers.add(subscriber);
  }

  delete(filter: FilterKey, subscriber: S): void {
    const [type, ...fields] = JSON.parse(filter) as [string, ...string[]];
    let node = this.#byType.get(type);
    // What is empty without this filter goes with it: from the leaf up, as far as that is so.
    const prunes: (() => void)[] = [() => this.#byType.delete(type)];
    const path = [node];
    for (let i = 0; i < fields.length; i += 2) {
      const key = fields[i] as string;
      const value = fields[i + 1] as string;
      const { children } = node ?? {};
      const byValue = children?.get(key);
      prunes.push(() => {
        byValue?.delete(value);
        if (byValue?.size === 0) children?.delete(key);
      });
      node = byValue?.get(value);
      path.push(node);
    }
    node?.subscribers?.delete(subscriber);
    for (let at = path.pop(); at && isEmpty(at); at = path.pop()) prunes.pop()?.();
  }

  /** Whose filters match an envelope of this type and payload; each once. */
  match(type: string, payload: unknown): Set<S> {
    const found = new Set<S>();
    const root = this.#byType.get(type);
    if (!root) return found;
    const fields = root.children ? fieldsOf(payload) : new Map<string, string>();
    const due = [root];
    for (let node = due.pop(); node; node = due.pop()) {
      for (const subscriber of node.subscribers ?? []) found.add(subscriber);
      const { children } = node;
      if (!children) continue;
      const keys = children.size < fields.size ? children.keys() : fields.keys();
      for (const key of keys) {
        const value = fields.get(key);
        const child = value === undefined ? undefined : children.get(key)?.get(value);
        if (child) due.push(child);
      }
    }
    return found;
  }

  /** Whether nobody asks for anything. */
  get isEmpty(): boolean {
    return this.#byType.size === 0;
  }
}

function isEmpty(node: Node<unknown>): boolean {
  return !node.subscribers?.size && !node.children?.size;
}

function entry<K, V>(map: Map<K, V>, key: K, create: () => V): V {
  const there = map.get(key);
  if (there !== undefined) return there;
  const made = create();
  map.set(key, made);
  return made;
}
