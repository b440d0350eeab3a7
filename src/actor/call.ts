import { type ErrorPayload, RollcallError } from "../wire/errors.ts";

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

/** What an actor tells of itself, for debug routes. Counts are this instance's. */
export interface Inspection {
  /** Differs after every start. */
  instance: string;
  startedAt: string;
  /** Starts of this actor so far; counted in development only, since each costs a row. */
  starts: number | null;
  /** Events that ran code here: what is billed, and what keeps an actor from sleeping. */
  wakeUps: { fetch: number; message: number; close: number; alarm: number; rpc: number };
  sessions: number;
  users: number;
  alarm: string | null;
}
