import { requestToken } from "rollcall";

/** The app's own login. Rollcall knows nothing of it but `readSession`. */

/** Where your user database is. */
const PASSWORDS = new Map([
  ["ann", "correct-horse"],
  ["bob", "battery-staple"],
]);
const LIFETIME_MS = 3_600_000;

const encoder = new TextEncoder();

export interface SessionEnv {
  SESSION_SECRET: string;
}

export interface Session {
  userId: string;
  /** End of the session, in ms since the epoch. The rooms close its sockets then. */
  expiresAtMs: number;
}

function keyOf({ SESSION_SECRET }: SessionEnv): Promise<CryptoKey> {
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const secret = encoder.encode(SESSION_SECRET);
  return crypto.subtle.importKey("raw", secret, algorithm, false, ["sign", "verify"]);
}

/** A session's token: `<user>.<end>.<signature>`. Null for a wrong password. */
export async function logIn(
  name: unknown,
  password: unknown,
  env: SessionEnv,
): Promise<string | null> {
  if (typeof name !== "string" || PASSWORDS.get(name) !== password) return null;
  const content = `${name}.${Date.now() + LIFETIME_MS}`;
  const signature = await crypto.subtle.sign("HMAC", await keyOf(env), encoder.encode(content));
  return `${content}.${btoa(String.fromCharCode(...new Uint8Array(signature)))}`;
}

/** The session of a request, by its token in the header or, for sockets, beside the URL; else null. */
export async function readSession(request: Request, env: SessionEnv): Promise<Session | null> {
  const [userId = "", end = "", mac = ""] = (requestToken(request) ?? "").split(".");
  const signature = decodeBase64(mac);
  if (!signature) return null;
  const content = encoder.encode(`${userId}.${end}`);
  if (!(await crypto.subtle.verify("HMAC", await keyOf(env), signature, content))) return null;
  const expiresAtMs = Number(end);
  return expiresAtMs > Date.now() ? { userId, expiresAtMs } : null;
}

function decodeBase64(text: string): Uint8Array<ArrayBuffer> | null {
  try {
    return Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  } catch {
    return null;
  }
}
