const encoder = new TextEncoder();
/** By their secrets, of which a server has few: importing a key costs as much as a check. */
const keys = new Map<string, CryptoKey>();

/** The key of HMAC-SHA256 with a secret. */
export async function hmacKeyOf(secret: string): Promise<CryptoKey> {
  const known = keys.get(secret);
  if (known) return known;
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const bytes = encoder.encode(secret);
  const key = await crypto.subtle.importKey("raw", bytes, algorithm, false, ["sign", "verify"]);
  keys.set(secret, key);
  return key;
}
