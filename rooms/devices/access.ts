import { type Authenticate, identify } from "../../src/access/authenticate.ts";
import { bearerToken, equalSecrets, requestToken } from "../../src/access/bearer.ts";
import { requireSecret } from "../../src/access/secrets.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { UUID } from "./device.ts";
import { READ_SCOPE, verifyPresenceToken } from "./token.ts";

/** The variables that the defaults of {@link DeviceOptions} read. */
export interface DeviceEnv {
  ENVIRONMENT?: string;
  /** The bearer of daemons and backends. */
  PRESENCE_DO_INGEST_TOKEN?: string;
  /** Signs presence tokens. */
  PRESENCE_DO_TOKEN_SIGNING_KEY?: string;
  /** In ms; default 30 000. */
  PRESENCE_DO_KEEPALIVE_FLUSH_MS?: string;
}

/** A client that may watch a user's devices. */
export interface Watcher {
  /** The user whose devices it may watch: a UUID in lower case. */
  userId: string;
  /** Server time in ms at which the connection is closed with 4401. Default: never. */
  expiresAtMs?: number;
}

/** Which user's devices the sender of a request may watch. */
export type AuthenticateWatcher<E> = Authenticate<E, Watcher>;

/**
 * Whether a request comes from a daemon or backend that may send heartbeats for every user, and mint
 * presence tokens. Called in the Worker only.
 *
 * @returns false, or throws a RollcallError, to refuse the request
 */
export type AuthenticateDaemon<E> = (request: Request, env: E) => boolean | Promise<boolean>;

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
 * The sender of a request, who may watch the devices of the user that the request names. Both the
 * Worker and the actor call it: the Worker so that a refused request wakes no actor, the actor because
 * it may be reached directly.
 *
 * @throws RollcallError `invalid_payload` for the user_id, the refusals of `authenticate`, and
 *   `forbidden` for the devices of another user
 */
export async function authorizeWatcher<E>(
  request: Request,
  env: E,
  authenticate: AuthenticateWatcher<E>,
): Promise<Watcher> {
  const userId = requestedUser(request);
  const watcher = await identify(request, env, authenticate);
  if (watcher.userId !== userId) {
    throw new RollcallError("forbidden", "The token is for another user");
  }
  return watcher;
}

/**
 * The default {@link AuthenticateWatcher}: a presence token with the scope `presence:read`.
 *
 * @throws RollcallError `unavailable` without a signing key, `unauthorized` without a token,
 *   `forbidden` for a token that is not valid, has expired or lacks the scope
 */
export async function authenticatePresenceToken(
  request: Request,
  env: DeviceEnv,
): Promise<Watcher> {
  const secret = requireSecret(env, "PRESENCE_DO_TOKEN_SIGNING_KEY");
  const token = requestToken(request);
  if (token === null) throw new RollcallError("unauthorized", "A presence token is required");
  const { scope, user_id, exp_ms } = await verifyPresenceToken(token, secret);
  if (!scope.includes(READ_SCOPE)) {
    throw new RollcallError("forbidden", `The token lacks the scope ${READ_SCOPE}`);
  }
  return { userId: user_id, expiresAtMs: exp_ms };
}

/**
 * Refuses a request that {@link AuthenticateDaemon} did not allow.
 *
 * @throws RollcallError `unauthorized`
 */
export function requireDaemon(isAllowed: boolean): void {
  if (isAllowed) return;
  throw new RollcallError("unauthorized", "The ingest token is missing or wrong");
}

/**
 * The default {@link AuthenticateDaemon}: the bearer `PRESENCE_DO_INGEST_TOKEN`, compared in constant
 * time.
 *
 * @throws RollcallError `unavailable` when none is configured
 */
export function authenticateIngestToken(request: Request, env: DeviceEnv): boolean {
  const expected = requireSecret(env, "PRESENCE_DO_INGEST_TOKEN");
  const given = bearerToken(request);
  return given !== null && equalSecrets(given, expected);
}
