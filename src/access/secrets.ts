import { RollcallError } from "../wire/errors.ts";

/** The beginning of every value in `.dev.vars.example`. Such a value is public and protects nothing. */
const EXAMPLE_PREFIX = "development-only-";

/** The secrets that a deployment sets. */
export type SecretName =
  | "JWT_SECRET"
  | "PRESENCE_DO_INGEST_TOKEN"
  | "PRESENCE_DO_TOKEN_SIGNING_KEY"
  | "SERVER_BYPASS_TOKEN";

/** Only the exact word turns development on: an unset or misspelt ENVIRONMENT means production. */
export function isDevelopment(env: { ENVIRONMENT?: string }): boolean {
  return env.ENVIRONMENT === "development";
}

/**
 * A configured secret.
 *
 * @throws RollcallError `unavailable` (503) when it is unset or empty, or an example value outside
 *   development. So a missing secret never lets anybody in.
 */
export function requireSecret(env: { ENVIRONMENT?: string }, name: SecretName): string {
  const value = (env as Record<string, unknown>)[name];
  const usable = typeof value === "string" && value !== "";
  if (!usable || (value.startsWith(EXAMPLE_PREFIX) && !isDevelopment(env))) {
    throw new RollcallError("unavailable", `${name} is not configured`);
  }
  return value;
}
