const encoder = new TextEncoder();

/** The token of `Authorization: Bearer <token>`, or null. */
export function bearerToken(request: Request): string | null {
  const match = /^Bearer +(\S+) *$/i.exec(request.headers.get("Authorization") ?? "");
  return match?.[1] ?? null;
}

/**
 * The token of a request: the header counts where both it and `?token=` are there, be it blank or
 * malformed. Another scheme than Bearer, such as a proxy's Basic, is none of our business.
 */
export function requestToken(request: Request): string | null {
  if (/^bearer\b/i.test(request.headers.get("Authorization") ?? "")) return bearerToken(request);
  return new URL(request.url).searchParams.get("token") || null;
}

/** Bytes of the longest secret that can be compared: a longer one equals nothing. */
const SECRET_BYTES = 1_024;

/**
 * Whether a secret is the configured one, in a time that tells neither where they differ nor their
 * length: both are compared over the same number of bytes.
 */
export function equalSecrets(given: string, expected: string): boolean {
  const [a, b] = [new Uint8Array(SECRET_BYTES), new Uint8Array(SECRET_BYTES)];
  const fits = encoder.encodeInto(given, a).read === given.length;
  encoder.encodeInto(expected, b);
  const isSame = crypto.subtle.timingSafeEqual(a, b);
  return isSame && fits && given.length === expected.length;
}
