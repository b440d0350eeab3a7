import { requestToken } from "../../src/access/bearer.ts";
import { expiryOf, verifyJwt } from "../../src/access/jwt.ts";
import { requireSecret } from "../../src/access/secrets.ts";
import { RollcallError } from "../../src/wire/errors.ts";

/** Characters of a user's id. */
const ID_LENGTH = 256;

/** Who asks, by a JWT of the fan-out contract. */
export interface Bearer {
  userId: string;
  /** When the token expires, in ms since the epoch. */
  expiresAtMs?: number;
  /** Words of the `scope` claim. */
  scopes: ReadonlySet<string>;
}

/**
 * Whether a string can address a user: not blank, of at most 256 characters, and whole Unicode, since
 * half a surrogate pair would be replaced on the way and could meet another user's name.
 */
export function isUserId(value: unknown): value is string {
  return (
    typeof value === "string" &&
    value.trim() !== "" &&
    value.length <= ID_LENGTH &&
    value.isWellFormed()
  );
}

function scopesOf(scope: unknown): ReadonlySet<string> {
  if (Array.isArray(scope)) return new Set(scope.filter((word) => typeof word === "string"));
  return new Set(typeof scope === "string" ? scope.split(/\s+/) : []);
}

/**
 * Who shows this token, in the header or in the query. `sub` is no substitute for `userId`.
 *
 * @throws RollcallError `unauthorized` or `token_expired`, `unavailable` without `JWT_SECRET`
 */
export async function identify(request: Request, env: { ENVIRONMENT?: string }): Promise<Bearer> {
  const secret = requireSecret(env, "JWT_SECRET");
  const token = requestToken(request);
  if (token === null) throw new RollcallError("unauthorized", "A token is required");
  const claims = await verifyJwt(token, secret);
  const { userId, scope } = claims;
  if (!isUserId(userId)) throw new RollcallError("unauthorized", "The token names no userId");
  const expiresAtMs = expiryOf(claims);
  return {
    userId,
    scopes: scopesOf(scope),
    ...(expiresAtMs === undefined ? {} : { expiresAtMs }),
  };
}

/**
 * Lets pass who may publish: anyone with a token, or only who has the scope `publish` where
 * `PUBLISH_REQUIRES_SCOPE` says so. A misspelt value of it counts as yes.
 *
 * @throws RollcallError as {@link identify}, and `forbidden`
 */
export async function admitPublisher(
  request: Request,
  env: { ENVIRONMENT?: string; PUBLISH_REQUIRES_SCOPE?: string },
): Promise<void> {
  const { scopes } = await identify(request, env);
  const isOpen = ["", "false", "0"].includes(env.PUBLISH_REQUIRES_SCOPE ?? "");
  if (!isOpen && !scopes.has("publish")) {
    throw new RollcallError("forbidden", "The token lacks the scope publish");
  }
}
