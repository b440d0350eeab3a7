/** Values within values that are followed: deeper ones, or one that contains itself, are refused. */
const DEPTH = 1_000;

/**
 * Refuses a value that JSON would change or lose without a word: a function, a symbol, a BigInt, NaN or
 * Infinity, `undefined` in a list, a Map, a Set, an Error, a typed array or another object of the
 * runtime. A field that is `undefined` counts as missing, and an object with `toJSON`, such as a Date,
 * is what that returns.
 *
 * @throws TypeError which names the place
 */
export function assertJson(value: unknown, path = "The data", depth = 0): void {
  switch (typeof value) {
    case "string":
    case "boolean":
      return;
    case "number":
      if (Number.isFinite(value)) return;
      throw new TypeError(`${path} is ${value}, which JSON cannot hold`);
    case "object":
      break;
    case "undefined":
      if (depth === 0) return;
      throw new TypeError(`${path} is undefined, which JSON cannot hold`);
    default:
      throw new TypeError(`${path} is a ${typeof value}, which JSON cannot hold`);
  }
  if (value === null) return;
  if (depth === DEPTH) throw new TypeError(`${path} nests too deeply, or contains itself`);
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) assertJson(value[i], `${path}[${i}]`, depth + 1);
    return;
  }
  if (typeof (value as { toJSON?: unknown }).toJSON === "function") return;
  const kind = Object.prototype.toString.call(value);
  if (kind !== "[object Object]") {
    throw new TypeError(`${path} is a ${kind.slice(8, -1)}, which JSON cannot hold`);
  }
  for (const key in value) {
    const field = (value as Record<string, unknown>)[key];
    if (field !== undefined && typeof field !== "string") {
      assertJson(field, `${path}.${key}`, depth + 1);
    }
  }
}
