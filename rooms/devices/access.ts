import { bearerToken, equalSecrets, requestToken } from "../../src/access/bearer.ts";
import { requireSecret } from "../../src/access/secrets.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { UUID } from "./contract.ts";
import { READ_SCOPE, verifyPresenceToken } from "./token.ts";

/** Who watches the devices of which user. */
export interface Watcher {
  userId: string;
  /** When the token expires, in ms since the epoch. */
  expiresAtMs: number;
}

/**
 * The user whose devices the request names with `?user_id=`.
 *
 * @throws RollcallError `invalid_payload` when it is missing or no UUID
 */
export function requestedUser(request: Request): string {
  const userId = new URL(request.url).searchParams.get("user_id") ?? "";
  if (!UUID.test(userId)) {
    throw new RollcallError("invalid_payload", "user_id must be a lowercase UUID", "user_id");
  }
  return userId;
}

/**
 * Who may watch the devices of the user that the request names. Both the Worker, so that nobody
 * wakes an actor in vain, and the actor itself ask this.
 *
 * @throws RollcallError `invalid_payload` for the user_id, `unavailable` without a signing key,
 *   `unauthorized` without a token, `forbidden` for a token that does not do
 */
export async function admitWatcher(
  request: Request,
  env: { ENVIRONMENT?: string },
): Promise<Watcher> {
  const userId = requestedUser(request);
  const secret = requireSecret(env, "PRESENCE_DO_TOKEN_SIGNING_KEY");
  const token = requestToken(request);
  if (token === null) throw new RollcallError("unauthorized", "A presence token is required");
  const claims = await verifyPresenceToken(token, secret);
  if (!claims.scope.includes(READ_SCOPE)) {
    throw new RollcallError("forbidden", `The token lacks the scope ${READ_SCOPE}`);
  }
  if (claims.user_id !== userId) {
    throw new RollcallError("forbidden", "The token is for another user");
  }
  return { userId, expiresAtMs: claims.exp_ms };
}

/**
 * Lets a backend pass that shows the ingest token.
 *
 * @throws RollcallError `unavailable` when none is configured, `unauthorized` without the right one
 */
export function requireIngestBearer(request: Request, env: { ENVIRONMENT?: string }): void {
  const expected = requireSecret(env, "PRESENCE_DO_INGEST_TOKEN");
  const given = bearerToken(request);
  if (given === null || !equalSecrets(given, expected)) {
    throw new RollcallError("unauthorized", "The ingest token is missing or wrong");
  }
}
