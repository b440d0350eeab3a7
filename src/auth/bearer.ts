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

/** Whether two secrets are equal, in a time that tells neither where they differ nor their length. */
export async function equalSecrets(given: string, expected: string): Promise<boolean> {
  const [a, b] = await Promise.all(
    [given, expected].map((text) => crypto.subtle.digest("SHA-256", encoder.encode(text))),
  );
  return crypto.subtle.timingSafeEqual(a as ArrayBuffer, b as ArrayBuffer);
}
