import { type ErrorPayload, RollcallError } from "./errors.ts";

/** What `ingest` answers: plain, since an error's code would not survive the way over RPC. */
export type IngestResult = { ok: true; value: unknown } | { ok: false; error: ErrorPayload };

/**
 * Calls a room's ingest handler from a Worker and gives what it returned.
 *
 * @throws RollcallError what the handler, or its schema, refused with
 */
export async function callIngest(
  stub: { ingest(name: string, data: unknown): Promise<IngestResult> },
  name: string,
  data: unknown,
): Promise<unknown> {
  const result = await stub.ingest(name, data);
  if (result.ok) return result.value;
  throw new RollcallError(result.error.code, result.error.message, result.error.path);
}
