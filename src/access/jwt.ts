import { errors, type JWTPayload, jwtVerify } from "jose";
import { RollcallError } from "../wire/errors.ts";

const encoder = new TextEncoder();
/** Keys by their secret, of which a server has one: importing a key costs as much as a check. */
const keys = new Map<string, CryptoKey>();

async function keyOf(secret: string): Promise<CryptoKey> {
  const known = keys.get(secret);
  if (known) return known;
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const bytes = encoder.encode(secret);
  const key = await crypto.subtle.importKey("raw", bytes, algorithm, false, ["verify"]);
  keys.set(secret, key);
  return key;
}

/**
 * The claims of a token that is signed with HS256 by `secret`. Its `nbf` must be past, and its `exp` at
 * most `graceSeconds` ago.
 *
 * @throws RollcallError `token_expired`, or `unauthorized` for anything else: another algorithm
 *   (`none` and RS256 included), a bad signature, a malformed token
 */
export async function verifyJwt(
  token: string,
  secret: string,
  graceSeconds = 0,
): Promise<JWTPayload> {
  try {
    const { payload } = await jwtVerify(token, await keyOf(secret), { algorithms: ["HS256"] });
    return payload;
  } catch (thrown) {
    if (thrown instanceof errors.JWTExpired) {
      // jose checks `exp` last: the signature and all other claims are valid.
      const { exp } = thrown.payload;
      if (exp !== undefined && Date.now() / 1000 <= exp + graceSeconds && graceSeconds > 0) {
        return thrown.payload;
      }
      throw new RollcallError("token_expired", "The token has expired");
    }
    throw new RollcallError("unauthorized", "The token is not valid");
  }
}

/** `exp` in ms since the epoch, if the token expires. */
export function expiryOf(claims: JWTPayload): number | undefined {
  return typeof claims.exp === "number" ? claims.exp * 1000 : undefined;
}

const ROLES: readonly unknown[] = ["owner", "admin", "member"];

/** Whether the `workspaces` claim, `[{id, role: owner|admin|member}]`, has this workspace. */
export function isMember(claims: JWTPayload, workspaceId: string): boolean {
  const { workspaces } = claims;
  if (!Array.isArray(workspaces)) return false;
  return workspaces.some(
    (entry: unknown) =>
      typeof entry === "object" &&
      entry !== null &&
      "id" in entry &&
      entry.id === workspaceId &&
      "role" in entry &&
      ROLES.includes(entry.role),
  );
}
