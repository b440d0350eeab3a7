/**
 * One line of JSON per event, for `wrangler tail` and log stores. Never pass a secret, a token, an
 * address or a session id; an error gives its message and stack.
 */
export function log(event: string, fields: Record<string, unknown> = {}): void {
  const { error, ...rest } = fields;
  const cause = error instanceof Error ? { error: error.message, stack: error.stack } : { error };
  const line = { event, ...rest, ...(error === undefined ? {} : cause) };
  console.log(toText(line) ?? toText({ event, ...rest, error: "Not to be shown as text" }));
}

/** As JSON; undefined for what cannot be. Rooms throw anything, and a log must not fail over it. */
function toText(line: Record<string, unknown>): string | undefined {
  try {
    return JSON.stringify(line);
  } catch {
    return undefined;
  }
}
