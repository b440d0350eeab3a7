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

/** Digests of configured secrets, of which there are a few: each request is held against them. */
const expectedDigests = new Map<string, ArrayBuffer>();

function digest(text: string): Promise<ArrayBuffer> {
  return crypto.subtle.digest("SHA-256", encoder.encode(text));
}

/**
 * Whether a secret is the configured one, in a time that tells neither where they differ nor their
 * length.
 */
export async function equalSecrets(given: string, expected: string): Promise<boolean> {
  const known = expectedDigests.get(expected) ?? (await digest(expected));
  expectedDigests.set(expected, known);
  return crypto.subtle.timingSafeEqual(await digest(given), known);
}
