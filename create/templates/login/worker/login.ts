import { SignJWT } from "jose";

export interface LoginEnv {
  /** Signs the tokens that the rooms check: at least 32 bytes. */
  JWT_SECRET: string;
}

interface User {
  userId: string;
  username: string;
}

/**
 * Replace this function with your login: it returns the user that sends the request, by your cookie or
 * session, or null. As it stands, everybody is the user that they say they are.
 */
async function findUser(request: Request): Promise<User | null> {
  const { name } = (await request.json()) as { name?: unknown };
  if (typeof name !== "string" || !/^\S.{0,39}$/.test(name)) return null;
  return { userId: name, username: name };
}

/**
 * Answers `POST /login` with a token for one hour.
 *
 * @param claims more of the token, such as `scope` and `cap`
 */
export async function logIn(
  request: Request,
  env: LoginEnv,
  claims: Record<string, unknown> = {},
): Promise<Response> {
  const user = await findUser(request);
  if (!user) return Response.json({ error: "Not logged in" }, { status: 401 });
  const token = await new SignJWT({ ...claims, ...user })
    .setProtectedHeader({ alg: "HS256" })
    .setIssuedAt()
    .setExpirationTime("1h")
    .sign(new TextEncoder().encode(env.JWT_SECRET));
  return Response.json({ token });
}
