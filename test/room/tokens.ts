import { env } from "cloudflare:workers";
import { type JWTPayload, SignJWT } from "jose";

/** A token as the app's login would sign it. */
export function signedToken(
  claims: JWTPayload,
  { secret = env.JWT_SECRET, alg = "HS256" } = {},
): Promise<string> {
  return new SignJWT(claims).setProtectedHeader({ alg }).sign(new TextEncoder().encode(secret));
}
