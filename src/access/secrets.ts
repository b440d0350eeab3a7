import { log } from "../log.ts";
import { RollcallError } from "../wire/errors.ts";

/** The beginning of every value in `.dev.vars.example`. Such a value is public and protects nothing. */
const EXAMPLE_PREFIX = "development-only-";

/** The secrets that a deployment sets. */
export type SecretName =
  | "JWT_SECRET"
  | "JWT_SECRET_PREVIOUS"
  | "PRESENCE_DO_INGEST_TOKEN"
  | "PRESENCE_DO_MINT_TOKEN"
  | "PRESENCE_DO_TOKEN_SIGNING_KEY"
  | "SERVER_BYPASS_TOKEN";

/** Only the exact word turns development on: an unset or misspelt ENVIRONMENT means production. */
export function isDevelopment(env: { ENVIRONMENT?: string }): boolean {
  return env.ENVIRONMENT === "development";
}

/** Bytes of the shortest secret that protects anything: those of the keys of HS256, by RFC 7518. */
const SECRET_BYTES = 32;

/**
 * A configured secret; undefined when it is unset, has fewer than 32 bytes, or is an example's value
 * outside development.
 */
export function findSecret(env: { ENVIRONMENT?: string }, name: SecretName): string | undefined {
  const value = (env as Record<string, unknown>)[name];
  if (typeof value !== "string" || new TextEncoder().encode(value).byteLength < SECRET_BYTES) {
    return undefined;
  }
  return value.startsWith(EXAMPLE_PREFIX) && !isDevelopment(env) ? undefined : value;
}

/**
 * A configured secret.
 *
 * @throws RollcallError `unavailable` (503) when there is none. So a missing secret never lets anybody
 *   in. Only the log names it.
 */
export function requireSecret(env: { ENVIRONMENT?: string }, name: SecretName): string {
  const secret = findSecret(env, name);
  if (secret !== undefined) return secret;
  log("not_configured", { name });
  throw new RollcallError("unavailable", "Not configured");
}
