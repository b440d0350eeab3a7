/**
 * Parts of a JSON text, as they were written. `JSON.parse` and `JSON.stringify` would change them:
 * numbers beyond 2^53 lose digits, `1.0` becomes `1`. The text must be valid JSON: parse it first.
 */

const SPACE = /[\t\n\r ]*/y;
const STRING = /"[^"\\]*(?:\\.[^"\\]*)*"/y;
/** A number or a word. */
const ATOM = /[^\t\n\r ,\]}]+/y;
/** Up to the next character that matters inside brackets. */
const SKIP = /[^"[\]{}]*/y;

/** A number with as many digits, or an exponent, may be none that a double holds. */
const LONG_NUMBER = /[\d.]{16}|\de/i;

/** Whether numbers of a JSON text may change when it is parsed. Texts in it are not numbers. */
export function losesDigits(json: string): boolean {
  return LONG_NUMBER.test(json.replaceAll(/"[^"\\]*(?:\\.[^"\\]*)*"/g, '""'));
}

function end(pattern: RegExp, json: string, at: number): number {
  pattern.lastIndex = at;
  return pattern.test(json) ? pattern.lastIndex : at;
}

const afterSpace = (json: string, at: number) => end(SPACE, json, at);

/** Where the value that begins at `at` ends. */
function afterValue(json: string, at: number): number {
  const first = json[at];
  if (first === '"') return end(STRING, json, at);
  if (first !== "{" && first !== "[") return end(ATOM, json, at);
  let depth = 0;
  let next = at;
  do {
    const mark = json[next];
    if (mark === '"') next = end(STRING, json, next);
    else {
      if (mark === "{" || mark === "[") depth += 1;
      else if (mark === "}" || mark === "]") depth -= 1;
      next += 1;
    }
    if (depth > 0) next = end(SKIP, json, next);
  } while (depth > 0 && next < json.length);
  return next;
}

/** The text of the member `key` of a JSON object; the last one counts, as for `JSON.parse`. */
export function sliceMember(json: string, key: string): string | undefined {
  let found: string | undefined;
  let at = afterSpace(json, 0);
  if (json[at] !== "{") return undefined;
  at = afterSpace(json, at + 1);
  while (json[at] === '"') {
    const afterKey = end(STRING, json, at);
    const name: unknown = JSON.parse(json.slice(at, afterKey));
    const start = afterSpace(json, afterSpace(json, afterKey) + 1);
    const stop = afterValue(json, start);
    if (name === key) found = json.slice(start, stop);
    at = afterSpace(json, stop);
    if (json[at] !== ",") break;
    at = afterSpace(json, at + 1);
  }
  return found;
}

/** The texts of the elements of a JSON array. */
export function sliceElements(json: string): string[] {
  const found: string[] = [];
  let at = afterSpace(json, 0);
  if (json[at] !== "[") return found;
  at = afterSpace(json, at + 1);
  while (at < json.length && json[at] !== "]") {
    const stop = afterValue(json, at);
    found.push(json.slice(at, stop));
    at = afterSpace(json, stop);
    if (json[at] !== ",") break;
    at = afterSpace(json, at + 1);
  }
  return found;
}
