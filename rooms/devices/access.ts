import { type Authenticate, identify } from "../../src/access/authenticate.ts";
import { bearerToken, equalSecrets, requestToken } from "../../src/access/bearer.ts";
import { type RevocationEnv, requireUnrevoked } from "../../src/access/claims.ts";
import { findSecret, isDevelopment, requireSecret } from "../../src/access/secrets.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { UUID } from "./device.ts";
import { BEAT_SCOPE, looksLikeToken, READ_SCOPE, verifyPresenceToken } from "./token.ts";

/** The variables that the defaults of {@link DeviceOptions} read. */
export interface DeviceEnv extends RevocationEnv {
  ENVIRONMENT?: string;
  /** The bearer of daemons and backends that send heartbeats of every user. */
  PRESENCE_DO_INGEST_TOKEN?: string;
  /** The bearer of backends that mint tokens. In development, the ingest token is enough. */
  PRESENCE_DO_MINT_TOKEN?: string;
  /** Signs presence tokens, and tokens of daemons. */
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
  /** When the token was issued, in seconds since the epoch. A revocation covers one without it. */
  issuedAtS?: number;
}

/** Which user's devices the sender of a request may watch. */
export type AuthenticateWatcher<E> = Authenticate<E, Watcher>;

/** The one device that a daemon may send heartbeats of. */
export interface Daemon {
  userId: string;
  deviceId: string;
  /** Server time in ms at which its socket is closed with 4401. Default: never. */
  expiresAtMs?: number;
  /** When its token was issued, in seconds since the epoch. */
  issuedAtS?: number;
}

/**
 * Whose heartbeats a request may bring: true for those of every user, or those of one device. Called in
 * the Worker only.
 *
 * @returns false, or throws a RollcallError, to refuse the request
 */
export type AuthenticateDaemon<E> = (
  request: Request,
  env: E,
) => boolean | Daemon | Promise<boolean | Daemon>;

/**
 * Whether a request comes from a backend that may mint tokens for every user and device. Called in the
 * Worker only.
 *
 * @returns false, or throws a RollcallError, to refuse the request
 */
export type AuthenticateMinter<E> = (request: Request, env: E) => boolean | Promise<boolean>;

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
  const { scope, user_id, exp_ms, issued_at_ms } = await verifyPresenceToken(token, secret);
  if (!scope.includes(READ_SCOPE)) {
    throw new RollcallError("forbidden", `The token lacks the scope ${READ_SCOPE}`);
  }
  const issuedAtS = Math.floor(issued_at_ms / 1000);
  await requireUnrevoked(user_id, issuedAtS, env);
  return { userId: user_id, expiresAtMs: exp_ms, issuedAtS };
}

/**
 * Refuses a request that {@link AuthenticateDaemon} or {@link AuthenticateMinter} did not allow.
 *
 * @returns the one device whose heartbeats it may bring; null when it may bring those of every device
 * @throws RollcallError `unauthorized`
 */
export function requireDaemon(allowed: boolean | Daemon): Daemon | null {
  if (!allowed) throw new RollcallError("unauthorized", "The bearer token is missing or wrong");
  return allowed === true ? null : allowed;
}

/**
 * The device whose socket for heartbeats a request asks for, with `?user_id=` and `?device_id=`. A
 * browser cannot set headers: the token may be among the subprotocols, or in `?token=`. Called in the
 * Worker and in the actor, as {@link authorizeWatcher}.
 *
 * @throws RollcallError the refusals of `authenticate`, `invalid_payload` for the ids, and `forbidden` for
 *   another device than the daemon's own
 */
export async function authorizeBeats<E>(
  request: Request,
  env: E,
  authenticate: AuthenticateDaemon<E>,
): Promise<Daemon> {
  const asked = new Request(request.url, request);
  const token = requestToken(request);
  if (token !== null) asked.headers.set("Authorization", `Bearer ${token}`);
  const daemon = requireDaemon(await authenticate(asked, env));
  const userId = requestedUser(request);
  const deviceId = new URL(request.url).searchParams.get("device_id") ?? "";
  if (!UUID.test(deviceId)) {
    throw new RollcallError("invalid_payload", "device_id must be a lowercase UUID", "device_id");
  }
  requireOwn(daemon, { user_id: userId, device_id: deviceId });
  return daemon ?? { userId, deviceId };
}

/** @throws RollcallError `forbidden` for a heartbeat of another device than the daemon's own */
export function requireOwn(
  daemon: Daemon | null,
  { user_id, device_id }: { user_id: string; device_id: string },
): void {
  if (daemon === null || (daemon.userId === user_id && daemon.deviceId === device_id)) return;
  throw new RollcallError("forbidden", "The token is for another device");
}

/**
 * The default {@link AuthenticateDaemon}: the bearer `PRESENCE_DO_INGEST_TOKEN`, compared in constant
 * time, for every user; or a daemon's own token, for its user and device.
 *
 * @throws RollcallError `unauthorized` for a daemon's token that is not valid, `unavailable` when nothing
 *   is configured to compare with
 */
export async function authenticateDaemon(
  request: Request,
  env: DeviceEnv,
): Promise<boolean | Daemon> {
  const given = bearerToken(request);
  const key = findSecret(env, "PRESENCE_DO_TOKEN_SIGNING_KEY");
  if (given !== null && key !== undefined && looksLikeToken(given)) {
    const daemon = await readDaemonToken(given, key);
    await requireUnrevoked(daemon.userId, daemon.issuedAtS, env);
    return daemon;
  }
  const expected = requireSecret(env, "PRESENCE_DO_INGEST_TOKEN");
  return given !== null && equalSecrets(given, expected);
}

async function readDaemonToken(token: string, key: string): Promise<Daemon> {
  try {
    const claims = await verifyPresenceToken(token, key);
    const { scope, user_id, device_id, exp_ms, issued_at_ms } = claims;
    if (scope.includes(BEAT_SCOPE)) {
      const issuedAtS = Math.floor(issued_at_ms / 1000);
      return { userId: user_id, deviceId: device_id, expiresAtMs: exp_ms, issuedAtS };
    }
  } catch (thrown) {
    if (!(thrown instanceof RollcallError)) throw thrown;
    throw new RollcallError("unauthorized", thrown.message);
  }
  throw new RollcallError("unauthorized", "The token is no daemon's");
}

/**
 * The default {@link AuthenticateMinter}: the bearer `PRESENCE_DO_MINT_TOKEN`, compared in constant time;
 * in development also `PRESENCE_DO_INGEST_TOKEN`.
 *
 * @throws RollcallError `unavailable` when none is configured
 */
export function authenticateMinter(request: Request, env: DeviceEnv): boolean {
  const given = bearerToken(request) ?? "";
  if (isDevelopment(env)) {
    const mint = findSecret(env, "PRESENCE_DO_MINT_TOKEN");
    if (mint !== undefined && equalSecrets(given, mint)) return true;
    return equalSecrets(given, requireSecret(env, "PRESENCE_DO_INGEST_TOKEN"));
  }
  return equalSecrets(given, requireSecret(env, "PRESENCE_DO_MINT_TOKEN"));
}
