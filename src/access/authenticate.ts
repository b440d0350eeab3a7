import { log } from "../log.ts";
import { RollcallError } from "../wire/errors.ts";

/**
 * Finds out who sends a request. A system calls it twice: in the Worker, so that a refused request
 * wakes no actor, and in the actor, which may be reached directly.
 *
 * @returns null, or throws, to refuse the request: a RollcallError with its status, anything else
 *   with 401
 */
export type Authenticate<E, I> = (request: Request, env: E) => I | null | Promise<I | null>;

/**
 * The sender of a request.
 *
 * @throws RollcallError the refusal of `authenticate`, or `unauthorized` when it gives nobody or fails
 */
export async function identify<E, I>(
  request: Request,
  env: E,
  authenticate: Authenticate<E, I>,
): Promise<I> {
  let identity: I | null;
  try {
    identity = await authenticate(request, env);
  } catch (thrown) {
    if (thrown instanceof RollcallError) throw thrown;
    // A bug in an app's own function must not let anybody in.
    log("authenticate_failed", { error: thrown });
    throw new RollcallError("unauthorized", "Not authenticated");
  }
  if (identity === null) throw new RollcallError("unauthorized", "Not authenticated");
  return identity;
}
