import { subprotocolToken } from "../wire/subprotocol.ts";

const encoder = new TextEncoder();

/** The token of `Authorization: Bearer <token>`, or null. */
export function bearerToken(request: Request): string | null {
  const match = /^Bearer +(\S+) *$/i.exec(request.headers.get("Authorization") ?? "");
  return match?.[1] ?? null;
}

/**
 * The token of a request, from the header, from the subprotocols of an upgrade or from `?token=`. If the
 * header names the scheme Bearer, the others are ignored, even when the header's token is blank or malformed. Other schemes are ignored:
 * a proxy may have its own, such as Basic.
 */
export function requestToken(request: Request): string | null {
  if (/^bearer\b/i.test(request.headers.get("Authorization") ?? "")) return bearerToken(request);
  return subprotocolToken(request) ?? (new URL(request.url).searchParams.get("token") || null);
}

/** Bytes of the longest secret that can be compared. A longer one equals nothing. */
const SECRET_BYTES = 1_024;

/**
 * Whether a secret is the configured one. The time it takes depends neither on the place of the first
 * difference nor on the lengths: both are compared over the same number of bytes.
 */
export function equalSecrets(given: string, expected: string): boolean {
  const [a, b] = [new Uint8Array(SECRET_BYTES), new Uint8Array(SECRET_BYTES)];
  const fits = encoder.encodeInto(given, a).read === given.length;
  encoder.encodeInto(expected, b);
  const isSame = crypto.subtle.timingSafeEqual(a, b);
  return isSame && fits && given.length === expected.length;
}
