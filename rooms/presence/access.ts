import { requestToken } from "../../src/access/bearer.ts";
import { expiryOf, isMember, verifyJwt } from "../../src/access/jwt.ts";
import { isDevelopment, requireSecret } from "../../src/access/secrets.ts";
import { RollcallError } from "../../src/wire/errors.ts";

/** Room names of the presence contract. */
const ROOM_NAME = /^[A-Za-z0-9_.:-]{1,64}$/;
const DEFAULT_ROOM = "lobby";
const WORKSPACE_PREFIX = "workspace:";
/** Tokens of development: `user:<name>`. */
const DEV_TOKEN = /^user:(.+)$/s;
const NAME_LENGTH = 256;

/** Who asks, for which presence room. */
export interface Visitor {
  room: string;
  userId: string;
  username: string;
  /** When the token expires, in ms since the epoch. */
  expiresAtMs?: number;
}

/**
 * Who may look at, or join, the room that the request names with `?room=`. Both the Worker, so that
 * nobody wakes an actor in vain, and the actor itself ask this.
 *
 * @throws RollcallError `bad_request` for a malformed room, `unauthorized`/`token_expired` for the
 *   token, `forbidden` for another's workspace, `unavailable` without `JWT_SECRET`
 */
export async function admitVisitor(
  request: Request,
  env: { ENVIRONMENT?: string },
): Promise<Visitor> {
  const room = new URL(request.url).searchParams.get("room") ?? DEFAULT_ROOM;
  if (!ROOM_NAME.test(room)) {
    throw new RollcallError("bad_request", "room must be 1 to 64 of A-Z a-z 0-9 _ . : -", "room");
  }
  const workspace = room.startsWith(WORKSPACE_PREFIX) ? room.slice(WORKSPACE_PREFIX.length) : null;
  const token = requestToken(request);

  const developer = isDevelopment(env) ? DEV_TOKEN.exec(token ?? "")?.[1] : undefined;
  if (developer !== undefined) {
    if (workspace !== null) throw new RollcallError("forbidden", "Not a member of this workspace");
    return { room, ...named(developer, developer) };
  }

  const secret = requireSecret(env, "JWT_SECRET");
  if (token === null) throw new RollcallError("unauthorized", "A token is required");
  const claims = await verifyJwt(token, secret);
  const userId = claims.userId ?? claims.sub;
  if (typeof userId !== "string" || userId === "") {
    throw new RollcallError("unauthorized", "The token names no userId");
  }
  if (workspace !== null && !isMember(claims, workspace)) {
    throw new RollcallError("forbidden", "Not a member of this workspace");
  }
  const { username } = claims;
  const expiresAtMs = expiryOf(claims);
  return {
    room,
    ...named(userId, typeof username === "string" && username !== "" ? username : userId),
    ...(expiresAtMs === undefined ? {} : { expiresAtMs }),
  };
}

function named(userId: string, username: string): { userId: string; username: string } {
  if (userId.length > NAME_LENGTH || username.length > NAME_LENGTH) {
    throw new RollcallError("bad_request", `Names have at most ${NAME_LENGTH} characters`);
  }
  return { userId, username };
}
