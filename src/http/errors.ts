import { log } from "../log.ts";
import { type AppCode, type ErrorCode, RollcallError } from "../wire/errors.ts";
import { closeFor, expectsClose } from "../wire/refusal.ts";

/** When a request above a limit may be tried again, in seconds: the limits count for so long. */
const RETRY_S = 10;

/** The body of an error, where a contract does not word it otherwise. */
export interface ErrorBody {
  error: ErrorCode | AppCode;
  details: string;
}

/** How a contract words an error. */
export type WordError = (error: RollcallError) => object;

const wordError: WordError = ({ code, message }): ErrorBody => ({ error: code, details: message });

/**
 * The answer to a request that failed: a {@link RollcallError} with its status, an exception that
 * brings a response of its own (Hono's) with its status, anything else logged and answered by a
 * plain 500. An upgrade of a client that cannot see the status is accepted and closed.
 *
 * @param word the contract's own body; default {@link ErrorBody}
 */
export function errorResponse(
  thrown: unknown,
  request?: Request,
  word: WordError = wordError,
): Response {
  const error = toRollcallError(thrown);
  const status = error === thrown ? error.status : (statusOf(thrown) ?? error.status);
  if (status === 500) log("request_failed", { error: thrown });
  if (request && expectsClose(request)) return closeFor(request, error);
  const headers = { "Retry-After": String(RETRY_S) };
  return Response.json(word(error), { status, ...(status === 429 && { headers }) });
}

function toRollcallError(thrown: unknown): RollcallError {
  if (thrown instanceof RollcallError) return thrown;
  return statusOf(thrown) === undefined
    ? new RollcallError("internal", "Internal error")
    : new RollcallError("bad_request", (thrown as Error).message);
}

/** The status of an exception that is a refusal, as Hono's `HTTPException` is. */
function statusOf(thrown: unknown): number | undefined {
  if (!(thrown instanceof Error) || !("getResponse" in thrown) || !("status" in thrown)) return;
  return typeof thrown.status === "number" && thrown.status < 500 ? thrown.status : undefined;
}

/** The answer to a request that no route takes. */
export function notFound(path: string): Response {
  // The devices contract has its own word for paths below its prefix.
  const error: ErrorCode = path.startsWith("/api/v1/") ? "unavailable" : "not_found";
  const body: ErrorBody = { error, details: "Route not found" };
  return Response.json(body, { status: 404 });
}
