import { base64url } from "jose";
import * as z from "zod/mini";
import { hmacKeyOf } from "../../src/access/hmac.ts";
import { RollcallError } from "../../src/wire/errors.ts";

/** The scope of a token that may watch its user's devices. */
export const READ_SCOPE = "presence:read";
/** The scope of a daemon's token: heartbeats of its user and device, and nothing else. */
export const BEAT_SCOPE = "presence:heartbeat";

/** Default lifetime of a token, in ms. */
export const TOKEN_TTL_MS = 15 * 60_000;
/** Longest lifetime of a token, in ms. */
export const TOKEN_TTL_MAX_MS = 24 * 3_600_000;
/** Default lifetime of a daemon's token, in ms: 30 days. */
export const DAEMON_TTL_MS = 30 * 86_400_000;
/** Longest lifetime of a daemon's token, in ms: 366 days. */
export const DAEMON_TTL_MAX_MS = 366 * 86_400_000;

/** Characters of a token. A longer one is refused before its signature is computed. */
const TOKEN_LENGTH = 8_192;
/** Two parts; a SHA-256 has 43 characters. */
const FORM = /^([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{43})$/;

const claims = z.object({
  token_id: z.string(),
  user_id: z.string(),
  device_id: z.string(),
  scope: z.array(z.string()),
  issued_at_ms: z.number(),
  exp_ms: z.number(),
});

/** The payload of a presence token. Times are in ms since the epoch. */
export type PresenceClaims = z.infer<typeof claims>;

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** `base64url(JSON) + "." + base64url(HMAC-SHA256(base64url(JSON), secret))`, without padding. */
export async function signPresenceToken(payload: PresenceClaims, secret: string): Promise<string> {
  const body = base64url.encode(JSON.stringify(payload));
  const mac = await crypto.subtle.sign("HMAC", await hmacKeyOf(secret), encoder.encode(body));
  return `${body}.${base64url.encode(new Uint8Array(mac))}`;
}

/**
 * A new token.
 *
 * @param grant `scope` defaults to {@link READ_SCOPE}; `ttlMs`, the lifetime, to
 *   {@link TOKEN_TTL_MS}. The caller checks that it is at most {@link TOKEN_TTL_MAX_MS}.
 */
export async function mintPresenceToken(
  grant: { user_id: string; device_id: string; scope?: string[]; ttlMs?: number },
  secret: string,
  nowMs: number = Date.now(),
): Promise<{ token: string; expires_at_ms: number }> {
  const { user_id, device_id, scope = [READ_SCOPE], ttlMs = TOKEN_TTL_MS } = grant;
  const exp_ms = nowMs + ttlMs;
  const payload = { token_id: crypto.randomUUID(), user_id, device_id, scope };
  const token = await signPresenceToken({ ...payload, issued_at_ms: nowMs, exp_ms }, secret);
  return { token, expires_at_ms: exp_ms };
}

/** Whether a text has the form of a token. Its signature is not checked. */
export function looksLikeToken(text: string): boolean {
  return text.length <= TOKEN_LENGTH && FORM.test(text);
}

/**
 * The payload of a token that is signed with `secret` and has not expired.
 *
 * @throws RollcallError `forbidden` when form, signature or payload is wrong, or the token expired
 */
export async function verifyPresenceToken(
  token: string,
  secret: string,
  nowMs: number = Date.now(),
): Promise<PresenceClaims> {
  const [, body, mac] = (token.length <= TOKEN_LENGTH && FORM.exec(token)) || [];
  if (body === undefined || mac === undefined) {
    throw new RollcallError("forbidden", "The token is malformed");
  }
  // `verify` compares in constant time.
  const key = await hmacKeyOf(secret);
  const signature = base64url.decode(mac);
  if (!(await crypto.subtle.verify("HMAC", key, signature as BufferSource, encoder.encode(body)))) {
    throw new RollcallError("forbidden", "The token's signature is wrong");
  }
  const payload = parseClaims(body);
  if (!payload) throw new RollcallError("forbidden", "The token's payload is malformed");
  if (nowMs >= payload.exp_ms) throw new RollcallError("forbidden", "The token has expired");
  return payload;
}

function parseClaims(body: string): PresenceClaims | null {
  try {
    return claims.parse(JSON.parse(decoder.decode(base64url.decode(body))));
  } catch {
    return null;
  }
}
