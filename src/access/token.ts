import type { JWTPayload } from "jose";
import { RollcallError } from "../wire/errors.ts";
import type { Cap } from "../wire/grant.ts";
import { requestToken } from "./bearer.ts";
import { type RevocationEnv, requireUnrevoked } from "./claims.ts";
import { type Grant, type GrantEnv, grantOf } from "./grant.ts";
import { expiryOf, requireKeys, type TokenEnv, userOf, verifyToken } from "./jwt.ts";
import { isDevelopment } from "./secrets.ts";

/** Who sends a request, by its token. */
export interface Identity {
  userId: string;
  /** Server time in ms. Absent in development only, for a token that does not expire. */
  expiresAtMs?: number;
  /** When it was issued, in seconds since the epoch; absent where the token does not name it. */
  issuedAtS?: number;
  /** What the token allows; absent: everything. As a meta has it, for `ctx.can`. */
  cap?: Cap;
  grant: Grant;
  claims: JWTPayload;
}

/** Tokens of development: `user:<name>`. */
const DEV_TOKEN = /^user:(.+)$/s;

/** The user whom a token of development names; undefined elsewhere, and for other tokens. */
export function developerOf(request: Request, env: { ENVIRONMENT?: string }): string | undefined {
  return isDevelopment(env) ? DEV_TOKEN.exec(requestToken(request) ?? "")?.[1] : undefined;
}

/**
 * The user whose JWT comes with a request.
 *
 * @throws RollcallError `unauthorized` or `token_expired` for the token, `unavailable` without keys, or when
 *   it cannot be read whether the token was revoked
 *
 * @example
 * async extractMeta(request, env: Env) {
 *   const { userId, expiresAtMs, cap } = await readToken(request, env);
 *   return { userId, expiresAtMs, cap, clientId: crypto.randomUUID(), channels: ["default"] };
 * }
 */
export async function readToken(
  request: Request,
  env: TokenEnv & GrantEnv & RevocationEnv,
): Promise<Identity> {
  requireKeys(env);
  const token = requestToken(request);
  if (token === null) throw new RollcallError("unauthorized", "A token is required");
  const claims = await verifyToken(token, env);
  const userId = userOf(claims);
  if (userId === undefined) throw new RollcallError("unauthorized", "The token names no userId");
  await requireUnrevoked(userId, claims.iat, env);
  const grant = grantOf(claims, userId, env);
  const expiresAtMs = expiryOf(claims);
  return {
    ...{ userId, grant, claims },
    ...(expiresAtMs !== undefined && { expiresAtMs }),
    ...(typeof claims.iat === "number" && { issuedAtS: claims.iat }),
    ...(grant.cap && { cap: grant.cap }),
  };
}
