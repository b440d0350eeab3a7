import { base64url } from "jose";
import { equalSecrets } from "../../src/access/bearer.ts";
import { type GrantEnv, grantOf } from "../../src/access/grant.ts";
import { hmacKeyOf } from "../../src/access/hmac.ts";
import { findSecret, isDevelopment, requireSecret } from "../../src/access/secrets.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { parseSessionId } from "./fields.ts";

/** The variables that the room and its routes read. */
export interface MoodEnv extends GrantEnv {
  MOOD_SHARDS?: string;
  /**
   * `false`: sessions may have ids that their clients made up, which others may guess or repeat.
   * Default: `false` in development only.
   */
  MOODS_SIGNED?: string;
  /** Signs session ids. */
  PRESENCE_DO_TOKEN_SIGNING_KEY?: string;
}

const RANDOM_BYTES = 16;
/** Of a SHA-256, so that an id has fewer characters than one may have. */
const MAC_BYTES = 24;
const SIGNED = /^([\w-]{22})\.([\w-]{32})$/;

/**
 * Nobody needs an account, but only what `DEFAULT_CAP` allows is open to everybody.
 *
 * @throws RollcallError `forbidden` where that does not contain `"moods": ["join"]`
 */
export function requireOpenMoods(env: GrantEnv): void {
  grantOf({}, "", env).require("moods", "join");
}

function isSigned(env: MoodEnv): boolean {
  return env.MOODS_SIGNED ? env.MOODS_SIGNED !== "false" : !isDevelopment(env);
}

async function macOf(random: string, key: string): Promise<string> {
  // No other text that this key signs has a colon.
  const text = new TextEncoder().encode(`moods:${random}`);
  const mac = await crypto.subtle.sign("HMAC", await hmacKeyOf(key), text);
  return base64url.encode(new Uint8Array(mac, 0, MAC_BYTES));
}

/**
 * A new session id, which nobody can guess, and which is signed if there is a key.
 *
 * @throws RollcallError `unavailable` where ids must be signed, and there is no key
 */
export async function issueSession(env: MoodEnv): Promise<string> {
  const name = "PRESENCE_DO_TOKEN_SIGNING_KEY";
  const key = isSigned(env) ? requireSecret(env, name) : findSecret(env, name);
  const random = base64url.encode(crypto.getRandomValues(new Uint8Array(RANDOM_BYTES)));
  return key === undefined ? random : `${random}.${await macOf(random, key)}`;
}

/**
 * The id of a session. Where ids must be signed, only {@link issueSession} makes them.
 *
 * @throws RollcallError `bad_request` for a value that is no id, `unauthorized` for one that was not issued
 */
export async function requireSession(value: unknown, env: MoodEnv): Promise<string> {
  const sessionId = parseSessionId(value);
  if (!isSigned(env)) return sessionId;
  const key = requireSecret(env, "PRESENCE_DO_TOKEN_SIGNING_KEY");
  const [, random, mac] = SIGNED.exec(sessionId) ?? [];
  if (random && mac && equalSecrets(mac, await macOf(random, key))) return sessionId;
  throw new RollcallError("unauthorized", "sessionId is none that this server has issued");
}
