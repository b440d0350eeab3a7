import { type Authenticate, identify } from "../../src/access/authenticate.ts";
import { requestToken } from "../../src/access/bearer.ts";
import { expiryOf, verifyJwt } from "../../src/access/jwt.ts";
import { requireSecret } from "../../src/access/secrets.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { USER_ID_LENGTH } from "./contract.ts";

/** The variables that the defaults of `FanoutOptions` read. */
export interface FanoutEnv {
  ENVIRONMENT?: string;
  /** Signs users' tokens. */
  JWT_SECRET?: string;
  /** `true`: a token needs the scope `publish` to publish. A misspelt value means `true` as well. */
  PUBLISH_REQUIRES_SCOPE?: string;
  /** How long envelopes are kept, in ms. */
  FANOUT_HISTORY_MS?: string;
}

/** A user who may receive envelopes that are published to them. */
export interface Subscriber {
  /** Not blank, at most 256 characters, well-formed Unicode. */
  userId: string;
  /** Server time in ms at which the connection is closed with 4401. Default: never. */
  expiresAtMs?: number;
}

/** The user who sends a request: a socket or stream receives that user's envelopes. */
export type AuthenticateSubscriber<E> = Authenticate<E, Subscriber>;

/** A client that may publish. */
export interface Publisher {
  /** Idempotency keys belong to the publisher of this name: others neither see nor block them. */
  publisher: string;
}

/**
 * Whether the sender of a request may publish, to every user. Called in the Worker only.
 *
 * @returns who publishes; true where all publishers are one; false, or throws a RollcallError, to
 *   refuse the request
 */
export type AuthenticatePublisher<E> = (
  request: Request,
  env: E,
) => boolean | Publisher | Promise<boolean | Publisher>;

/**
 * Whether a string can address a user: not blank, at most 256 characters, and well-formed Unicode.
 * Half a surrogate pair would be replaced on the way, and could then equal another user's name.
 */
export function isUserId(value: unknown): value is string {
  return (
    typeof value === "string" &&
    value.trim() !== "" &&
    value.length <= USER_ID_LENGTH &&
    value.isWellFormed()
  );
}

/**
 * The user who sends a request. Both the Worker and the actor call it: the Worker so that a refused
 * request wakes no actor, the actor because it may be reached directly.
 *
 * @throws RollcallError the refusals of `authenticate`, and `unauthorized` for a malformed user id
 */
export async function authorizeSubscriber<E>(
  request: Request,
  env: E,
  authenticate: AuthenticateSubscriber<E>,
): Promise<Subscriber> {
  const subscriber = await identify(request, env, authenticate);
  if (isUserId(subscriber.userId)) return subscriber;
  throw new RollcallError("unauthorized", "The token names no userId");
}

/**
 * Refuses a request that {@link AuthenticatePublisher} did not allow.
 *
 * @returns the publisher
 * @throws RollcallError `unauthorized`
 */
export async function requirePublisher<E>(
  request: Request,
  env: E,
  authenticate: AuthenticatePublisher<E>,
): Promise<string> {
  // A null identity refuses, as does an error in an app's own function.
  const allowed = await identify(
    request,
    env,
    async () => (await authenticate(request, env)) || null,
  );
  return allowed === true ? "" : allowed.publisher;
}

function scopesOf(scope: unknown): ReadonlySet<string> {
  if (Array.isArray(scope)) return new Set(scope.filter((word) => typeof word === "string"));
  return new Set(typeof scope === "string" ? scope.split(/\s+/) : []);
}

async function readToken(
  request: Request,
  env: FanoutEnv,
): Promise<Subscriber & { scopes: ReadonlySet<string> }> {
  const secret = requireSecret(env, "JWT_SECRET");
  const token = requestToken(request);
  if (token === null) throw new RollcallError("unauthorized", "A token is required");
  const claims = await verifyJwt(token, secret);
  // `sub` is no substitute for `userId`.
  const { userId, scope } = claims;
  if (!isUserId(userId)) throw new RollcallError("unauthorized", "The token names no userId");
  const expiresAtMs = expiryOf(claims);
  return { userId, scopes: scopesOf(scope), ...(expiresAtMs !== undefined && { expiresAtMs }) };
}

/**
 * The default {@link AuthenticateSubscriber}: a JWT with `userId`, in the header or in the query.
 *
 * @throws RollcallError `unauthorized` or `token_expired`, `unavailable` without `JWT_SECRET`
 */
export async function authenticateUser(request: Request, env: FanoutEnv): Promise<Subscriber> {
  const { scopes: _, ...subscriber } = await readToken(request, env);
  return subscriber;
}

/**
 * The default {@link AuthenticatePublisher}: any JWT with `userId`, or only one with the scope
 * `publish` where `PUBLISH_REQUIRES_SCOPE` is set.
 *
 * @throws RollcallError like {@link authenticateUser}, and `forbidden` without the scope
 */
export async function authenticateScope(request: Request, env: FanoutEnv): Promise<Publisher> {
  const { scopes, userId } = await readToken(request, env);
  const isOpen = ["", "false", "0"].includes(env.PUBLISH_REQUIRES_SCOPE ?? "");
  if (isOpen || scopes.has("publish")) return { publisher: userId };
  throw new RollcallError("forbidden", "The token lacks the scope publish");
}
