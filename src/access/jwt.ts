import {
  decodeProtectedHeader,
  errors,
  type JWTPayload,
  type JWTVerifyGetKey,
  type JWTVerifyOptions,
  jwtVerify,
} from "jose";
import { log } from "../log.ts";
import { RollcallError } from "../wire/errors.ts";
import { hmacKeyOf } from "./hmac.ts";
import { parseJwks, RemoteJwks } from "./jwks.ts";
import { findSecret, isDevelopment } from "./secrets.ts";

/** The variables that say which tokens are good. */
export interface TokenEnv {
  ENVIRONMENT?: string;
  /** Signs users' tokens with HS256. */
  JWT_SECRET?: string;
  /** The secret before, while tokens of it are still about. */
  JWT_SECRET_PREVIOUS?: string;
  /** A JSON Web Key Set, as JSON: RS256, ES256, EdDSA. */
  JWT_JWKS?: string;
  /** Where a login provider publishes its set. https, outside development. */
  JWT_JWKS_URL?: string;
  /** What `iss` must be, if set. */
  JWT_ISSUER?: string;
  /** What `aud` must contain, if set. */
  JWT_AUDIENCE?: string;
  /** The longest lifetime of a token outside development, in seconds. Default 604 800. */
  JWT_MAX_LIFETIME_S?: string;
}

const PUBLIC_ALGORITHMS = ["RS256", "ES256", "EdDSA"];
/** Kinds of tokens that speak of a user: none, and those of RFC 7519 and RFC 9068. */
const KINDS: readonly unknown[] = [undefined, "JWT", "AT+JWT"];
const MAX_LIFETIME_S = 604_800;

const keySets = new Map<string, JWTVerifyGetKey>();

function keySetOf(source: string, make: () => JWTVerifyGetKey): JWTVerifyGetKey {
  let set = keySets.get(source);
  if (!set) {
    set = make();
    keySets.set(source, set);
  }
  return set;
}

interface Keys {
  secrets: string[];
  sets: JWTVerifyGetKey[];
}

/** @throws RollcallError `unavailable` (503) when a deployment has no key at all, or one that is unsafe */
function keysOf(env: TokenEnv): Keys {
  const { JWT_JWKS: text, JWT_JWKS_URL: url } = env;
  const names = ["JWT_SECRET", "JWT_SECRET_PREVIOUS"] as const;
  const secrets = names.flatMap((name) => findSecret(env, name) ?? []);
  const sets: JWTVerifyGetKey[] = [];
  if (text) sets.push(keySetOf(text, () => parseJwks(text)));
  if (url) {
    if (!url.startsWith("https://") && !isDevelopment(env)) {
      log("jwks_url_not_https");
      throw new RollcallError("unavailable", "Not configured");
    }
    sets.push(keySetOf(url, () => new RemoteJwks(url).get));
  }
  if (secrets.length + sets.length > 0) return { secrets, sets };
  log("not_configured", { name: "JWT_SECRET" });
  throw new RollcallError("unavailable", "Not configured");
}

/** @throws RollcallError `unavailable` when no token can be checked */
export function requireKeys(env: TokenEnv): void {
  keysOf(env);
}

/**
 * The claims of a user's token. Its key determines the algorithm: HS256 for a secret, RS256, ES256 or
 * EdDSA for a public key. Its `nbf` must be past, and its `exp` at most `graceSeconds` ago; outside
 * development it must have one, and not live for longer than `JWT_MAX_LIFETIME_S`.
 *
 * @throws RollcallError `token_expired`, `unavailable` without keys, or `unauthorized` for anything
 *   else: another algorithm (`none` included), a bad signature, another `iss`, `aud` or `typ`
 */
export async function verifyToken(
  token: string,
  env: TokenEnv,
  graceSeconds = 0,
): Promise<JWTPayload> {
  const keys = keysOf(env);
  try {
    return checkLifetime(await verify(token, keys, env), env);
  } catch (thrown) {
    if (thrown instanceof RollcallError) throw thrown;
    if (thrown instanceof errors.JWTExpired) {
      // jose checks `exp` last: the signature and all other claims are valid.
      const { exp } = thrown.payload;
      if (exp !== undefined && Date.now() / 1000 <= exp + graceSeconds && graceSeconds > 0) {
        return checkLifetime(thrown.payload, env);
      }
      throw new RollcallError("token_expired", "The token has expired");
    }
    throw new RollcallError("unauthorized", "The token is not valid");
  }
}

async function verify(token: string, { secrets, sets }: Keys, env: TokenEnv): Promise<JWTPayload> {
  const { alg, typ } = decodeProtectedHeader(token);
  const kind = typeof typ === "string" ? typ.toUpperCase().replace(/^APPLICATION\//, "") : typ;
  if (!KINDS.includes(kind))
    throw new RollcallError("unauthorized", "The token is of another kind");
  const { JWT_ISSUER: issuer, JWT_AUDIENCE: audience } = env;
  const options: JWTVerifyOptions = {
    ...(issuer && { issuer }),
    ...(audience && { audience }),
    requiredClaims: isDevelopment(env) ? [] : ["exp"],
  };
  let refusal: unknown;
  const isSecret = alg === "HS256";
  for (const key of isSecret ? secrets : sets) {
    try {
      const { payload } =
        typeof key === "string"
          ? await jwtVerify(token, await hmacKeyOf(key), { ...options, algorithms: ["HS256"] })
          : await jwtVerify(token, key, { ...options, algorithms: PUBLIC_ALGORITHMS });
      return payload;
    } catch (thrown) {
      // What another key says of it is no matter, once one has signed it.
      if (thrown instanceof errors.JWTExpired) throw thrown;
      refusal = refusal instanceof RollcallError ? refusal : thrown;
    }
  }
  throw refusal ?? new RollcallError("unauthorized", "The token is not valid");
}

/** The longest lifetime of a token, in seconds. */
export function longestLifetimeS({ JWT_MAX_LIFETIME_S }: TokenEnv): number {
  return Number(JWT_MAX_LIFETIME_S ?? MAX_LIFETIME_S);
}

/** A token that lives for years is a password. */
function checkLifetime(claims: JWTPayload, env: TokenEnv): JWTPayload {
  if (isDevelopment(env)) return claims;
  const { exp = Number.POSITIVE_INFINITY, iat } = claims;
  const longest = longestLifetimeS(env);
  const sinceS = Math.min(iat ?? Number.POSITIVE_INFINITY, Date.now() / 1000);
  if (exp - sinceS <= longest) return claims;
  throw new RollcallError("unauthorized", "The token lives for too long");
}

/** `exp` in ms since the epoch, if the token expires. */
export function expiryOf(claims: JWTPayload): number | undefined {
  return typeof claims.exp === "number" ? claims.exp * 1000 : undefined;
}

/** The user that a token speaks of: `userId`, else `sub`; undefined where it names none. */
export function userOf({ userId, sub }: JWTPayload): string | undefined {
  const user = userId ?? sub;
  return typeof user === "string" && user !== "" ? user : undefined;
}

const ROLES = ["owner", "admin", "member", "viewer"] as const;
/** What a user is in a workspace. A viewer reads only. */
export type Role = (typeof ROLES)[number];

function isRole(value: unknown): value is Role {
  return (ROLES as readonly unknown[]).includes(value);
}

/**
 * The user's role in a workspace, by the claim `workspaces`: `[{id, role}]`; undefined for one who is not
 * in it, or has a role that is not known.
 */
export function roleIn({ workspaces }: JWTPayload, workspaceId: string): Role | undefined {
  if (!Array.isArray(workspaces)) return undefined;
  for (const entry of workspaces as unknown[]) {
    const { id, role } = (entry ?? {}) as { id?: unknown; role?: unknown };
    if (id === workspaceId && isRole(role)) return role;
  }
  return undefined;
}
