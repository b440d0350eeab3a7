import { type Authenticate, identify } from "../../src/access/authenticate.ts";
import { type RevocationEnv, requireUnrevoked } from "../../src/access/claims.ts";
import { type GrantEnv, grantOf } from "../../src/access/grant.ts";
import type { TokenEnv } from "../../src/access/jwt.ts";
import { developerOf, type Identity, readToken } from "../../src/access/token.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import type { Cap } from "../../src/wire/grant.ts";
import { USER_ID_LENGTH } from "./contract.ts";

/** The variables that the defaults of `FanoutOptions` read. */
export interface FanoutEnv extends TokenEnv, GrantEnv, RevocationEnv {
  /**
   * `true`: only what a token itself says lets it publish: the scope `publish`, or its claim `cap`. A
   * misspelt value means `true` as well.
   */
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
  /** When the token was issued, in seconds since the epoch. A revocation covers one without it. */
  issuedAtS?: number;
}

/** The user of a client that watches people. */
export interface PeopleViewer extends Subscriber {
  /** What the token allows, by which the default `maySee` decides. Absent: everything. */
  cap?: Cap;
}

/** The user who connects to `/ws/people`. */
export type AuthenticateViewer<E> = Authenticate<E, PeopleViewer>;

/**
 * What the sender of a request may do to a user: `presence`, to read where the user is, or `revoke`. Called
 * in the Worker only.
 */
export type AuthenticateSupervisor<E> = Authenticate<
  E,
  {
    userId: string;
    /** Whether the sender may do `operation` to a user. */
    can(userId: string, operation: "presence" | "revoke"): boolean;
  }
>;

/** The user who sends a request: a socket or stream receives that user's envelopes. */
export type AuthenticateSubscriber<E> = Authenticate<E, Subscriber>;

/** A client that may publish. */
export interface Publisher {
  /**
   * A userId. Envelopes name it, and idempotency keys belong to it: others neither see nor block them.
   */
  publisher: string;
  /** Whether it may publish to a user. Default: to every user. */
  mayPublishTo?(userId: string): boolean;
}

/**
 * Whether the sender of a request may publish. Called in the Worker only.
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
    // No path can name them, so nobody could revoke their tokens.
    value !== "." &&
    value !== ".." &&
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
): Promise<Publisher> {
  // A null identity refuses, as does an error in an app's own function.
  const allowed = await identify(
    request,
    env,
    async () => (await authenticate(request, env)) || null,
  );
  return allowed === true ? { publisher: "" } : allowed;
}

/** @throws RollcallError `unauthorized` for a userId that addresses nobody */
async function readUser(request: Request, env: FanoutEnv): Promise<Identity> {
  const identity = await readToken(request, env);
  if (isUserId(identity.userId)) return identity;
  throw new RollcallError("unauthorized", "The token names no userId");
}

/**
 * The default {@link AuthenticateSubscriber}: a JWT, in the header or in the query, that allows
 * `subscribe` on `user:<its user>`.
 *
 * @throws RollcallError `unauthorized`, `token_expired` or `forbidden`, `unavailable` without keys
 */
export async function authenticateUser(request: Request, env: FanoutEnv): Promise<Subscriber> {
  const { userId, grant, expiresAtMs, issuedAtS } = await readUser(request, env);
  grant.require(`user:${userId}`, "subscribe");
  return {
    userId,
    ...(expiresAtMs !== undefined && { expiresAtMs }),
    ...(issuedAtS !== undefined && { issuedAtS }),
  };
}

/**
 * The default {@link AuthenticateViewer}: a JWT, in development also `user:<name>`.
 *
 * @throws RollcallError `unauthorized` or `token_expired`, `unavailable` without keys
 */
export async function authenticateViewer(request: Request, env: FanoutEnv): Promise<PeopleViewer> {
  const developer = developerOf(request, env);
  if (developer !== undefined) {
    await requireUnrevoked(developer, undefined, env);
    return { userId: developer };
  }
  const { userId, cap, expiresAtMs, issuedAtS } = await readUser(request, env);
  return {
    userId,
    ...(cap && { cap }),
    ...(expiresAtMs !== undefined && { expiresAtMs }),
    ...(issuedAtS !== undefined && { issuedAtS }),
  };
}

/** As {@link authorizeSubscriber}. */
export async function authorizeViewer<E>(
  request: Request,
  env: E,
  authenticate: AuthenticateViewer<E>,
): Promise<PeopleViewer> {
  const viewer = await identify(request, env, authenticate);
  if (isUserId(viewer.userId)) return viewer;
  throw new RollcallError("unauthorized", "The token names no userId");
}

/** The default {@link AuthenticateSupervisor}: by the token's grant on `user:<id>`. */
export async function authenticateByGrant(request: Request, env: FanoutEnv) {
  const developer = developerOf(request, env);
  if (developer !== undefined) {
    await requireUnrevoked(developer, undefined, env);
    return { userId: developer, can: () => true };
  }
  const { userId, grant } = await readUser(request, env);
  return {
    userId,
    can: (of: string, operation: string) => grant.can(`user:${of}`, operation),
  };
}

/**
 * The default {@link AuthenticatePublisher}: a JWT that allows `publish` on `user:<id>`. The scope
 * `publish` allows it for every user.
 *
 * @throws RollcallError like {@link authenticateUser}; `forbidden` where it may publish to nobody
 */
export async function authenticateScope(request: Request, env: FanoutEnv): Promise<Publisher> {
  const { userId, claims } = await readUser(request, env);
  const isOpen = ["", "false", "0"].includes(env.PUBLISH_REQUIRES_SCOPE ?? "");
  const grant = grantOf(claims, userId, env, !isOpen);
  if (!grant.mentions("publish")) {
    throw new RollcallError("forbidden", "The token does not allow to publish");
  }
  return { publisher: userId, mayPublishTo: (to) => grant.can(`user:${to}`, "publish") };
}
