/**
 * One line of JSON per event, for `wrangler tail` and log stores. Never pass a secret, a token, an
 * address or a session id; an error gives its message and stack.
 */
export function log(event: string, fields: Record<string, unknown> = {}): void {
  const { error, ...rest } = fields;
  const cause = error instanceof Error ? { error: error.message, stack: error.stack } : { error };
  console.log(JSON.stringify({ event, ...rest, ...(error === undefined ? {} : cause) }));
}
