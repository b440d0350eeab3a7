import { identify } from "../../src/access/authenticate.ts";
import { requestToken } from "../../src/access/bearer.ts";
import { requiredClaimsVersion } from "../../src/access/claims.ts";
import type { GrantEnv } from "../../src/access/grant.ts";
import { roleIn, type TokenEnv } from "../../src/access/jwt.ts";
import { isDevelopment } from "../../src/access/secrets.ts";
import { readToken } from "../../src/access/token.ts";
import type { StandardSchemaV1 } from "../../src/actor/schema.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { exceedsBytes } from "../../src/wire/frames.ts";
import type { Cap } from "../../src/wire/grant.ts";
import type { AnyUser } from "./roster.ts";

/** Room names of the presence contract. */
const ROOM_NAME = /^[A-Za-z0-9_.:-]{1,64}$/;
const DEFAULT_ROOM = "lobby";
const WORKSPACE_PREFIX = "workspace:";
/** Tokens of development: `user:<name>`. */
const DEV_TOKEN = /^user:(.+)$/s;
const NAME_LENGTH = 256;
const USER_BYTES = 1_024;
/** Users that a client may watch. */
const WATCHED = 100;

/** How much of a room a client wants to know: the users, their number, or nothing. */
export type Detail = "roster" | "count" | "none";

/** A user who may join a presence room or read its snapshot. */
export interface Visitor {
  /** 1–256 characters. */
  userId: string;
  /** At most 256 characters. Default: the `userId`. */
  username?: string;
  /** What others see of the user beside the name: an avatar, a colour, a role. At most 1 KiB as JSON. */
  user?: AnyUser;
  /** Server time in ms at which the connection is closed with 4401. Default: never. */
  expiresAtMs?: number;
  /** False: the user sees the room, and is not seen in it. Default: as the query `listed=0` says. */
  listed?: boolean;
  /** What the token allows, of which a room asks for `state`. Default: everything. */
  cap?: Cap;
}

/**
 * Who sends this request for `room`. Both the Worker and the actor call it: the Worker so that a
 * refused request wakes no actor, the actor because it may be reached directly.
 *
 * @returns null, or throws, to refuse the request: a RollcallError with its status, anything else
 *   with 401
 */
export type Authenticate<E> = (
  request: Request,
  env: E,
  room: string,
) => Visitor | null | Promise<Visitor | null>;

/** A visitor, and the room that the visitor asks for. */
export interface RoomVisitor extends Visitor {
  room: string;
  username: string;
  detail?: Exclude<Detail, "roster">;
  watch?: string[];
}

/** Whether a client asks to see the room without being seen. */
function isUnlisted(request: Request): boolean {
  return new URL(request.url).searchParams.get("listed") === "0";
}

/** The variables that {@link authenticateToken} reads. */
export interface PresenceEnv extends TokenEnv, GrantEnv {
  /** As the workspaces' Worker has it: whose claim `workspaces` is too old. Without it, none is. */
  WORKSPACE_CLAIMS_VERSION?: KVNamespace;
}

/**
 * Who sends a request for a presence room, and for which room.
 *
 * @param schema of what the server knows of a user
 * @throws RollcallError `bad_request` for a malformed room, name or query, the refusals of
 *   `authenticate`, and `internal` for a `user` that is not as `schema` wants it
 */
export async function authorizeVisitor<E>(
  request: Request,
  env: E,
  authenticate: Authenticate<E>,
  schema?: StandardSchemaV1<unknown, unknown>,
): Promise<RoomVisitor> {
  const room = roomOf(request);
  const view = viewOf(request);
  const { userId, expiresAtMs, cap, listed, ...visitor } = await identify(
    request,
    env,
    (request, env) => authenticate(request, env, room),
  );
  if (!userId) throw new RollcallError("unauthorized", "Not authenticated");
  const username = visitor.username || userId;
  if (userId.length > NAME_LENGTH || username.length > NAME_LENGTH) {
    throw new RollcallError("bad_request", `Names have at most ${NAME_LENGTH} characters`);
  }
  const user = visitor.user && (await checkUser(visitor.user, schema));
  return {
    ...{ room, userId, username, ...view },
    ...(user && { user }),
    ...(expiresAtMs !== undefined && { expiresAtMs }),
    ...(cap && { cap }),
    ...((listed === false || isUnlisted(request)) && { listed: false }),
  };
}

/** What `authenticate` says of a user, checked: it is sent to everybody. */
async function checkUser(
  user: AnyUser,
  schema: StandardSchemaV1<unknown, unknown> | undefined,
): Promise<AnyUser> {
  const result = schema ? await schema["~standard"].validate(user) : { value: user };
  if (result.issues) {
    throw new RollcallError("internal", "The user is not as the room's schema wants it");
  }
  if (exceedsBytes(JSON.stringify(result.value) ?? "", USER_BYTES)) {
    throw new RollcallError("internal", `What is known of a user has at most ${USER_BYTES} bytes`);
  }
  return result.value as AnyUser;
}

/** What a client wants to know, by `detail=` and `watch=`. */
function viewOf(request: Request): Pick<RoomVisitor, "detail" | "watch"> {
  const { searchParams } = new URL(request.url);
  const detail = searchParams.get("detail") ?? "roster";
  if (detail !== "roster" && detail !== "count" && detail !== "none") {
    throw new RollcallError("bad_request", "detail must be roster, count or none", "detail");
  }
  const watch = [...new Set(searchParams.getAll("watch").flatMap((ids) => ids.split(",")))];
  if (watch.length > WATCHED || watch.some((id) => id.length > NAME_LENGTH)) {
    throw new RollcallError("bad_request", `watch takes at most ${WATCHED} user ids`, "watch");
  }
  const watched = watch.filter((id) => id !== "");
  return { ...(detail !== "roster" && { detail }), ...(watched.length > 0 && { watch: watched }) };
}

/**
 * The room that a request names with `?room=`; default `lobby`.
 *
 * @throws RollcallError `bad_request` for a malformed name, and for more than one
 */
function roomOf(request: Request): string {
  const [room = DEFAULT_ROOM, ...more] = new URL(request.url).searchParams.getAll("room");
  if (ROOM_NAME.test(room) && more.length === 0) return room;
  throw new RollcallError("bad_request", "room must be 1 to 64 of A-Z a-z 0-9 _ . : -", "room");
}

/**
 * The default {@link Authenticate}: a JWT signed with `JWT_SECRET`, whose claim `workspaces` must name
 * the workspace of a room `workspace:<id>`; in development also `user:<name>`. Its grant must allow
 * `join` on `room:<name>`; with `watch` the user sees the room without being seen, as `listed=0` asks.
 *
 * @throws RollcallError `unauthorized`/`token_expired` for the token, `forbidden` for the room of
 *   another workspace, `unavailable` without keys, or when the claims version cannot be read
 */
export async function authenticateToken(
  request: Request,
  env: PresenceEnv,
  room: string,
): Promise<Visitor> {
  const workspace = room.startsWith(WORKSPACE_PREFIX) ? room.slice(WORKSPACE_PREFIX.length) : null;
  const token = requestToken(request);

  const developer = isDevelopment(env) ? DEV_TOKEN.exec(token ?? "")?.[1] : undefined;
  if (developer !== undefined) {
    if (workspace !== null) throw new RollcallError("forbidden", "Not a member of this workspace");
    return { userId: developer };
  }

  const { userId, claims, grant, cap, expiresAtMs } = await readToken(request, env);
  if (workspace !== null) {
    if (roleIn(claims, workspace) === undefined) {
      throw new RollcallError("forbidden", "Not a member of this workspace");
    }
    await requireNewest(userId, claims.workspaceClaimsVersion, env.WORKSPACE_CLAIMS_VERSION);
  }
  const { username, user } = claims;
  const resource = `room:${room}`;
  const mayWatch = grant.can(resource, "watch");
  if (isUnlisted(request) ? !mayWatch : !mayWatch && !grant.can(resource, "join")) {
    throw new RollcallError("forbidden", "The token does not allow to join this room");
  }
  return {
    userId,
    ...(typeof username === "string" && username !== "" && { username }),
    ...(isObject(user) && { user }),
    ...(cap && { cap }),
    ...(!grant.can(resource, "join") && { listed: false }),
    ...(expiresAtMs !== undefined && { expiresAtMs }),
  };
}

/** @throws RollcallError `unauthorized` for claims of before the user's workspaces changed */
async function requireNewest(userId: string, version: unknown, kv?: KVNamespace): Promise<void> {
  const required = kv ? await requiredClaimsVersion(userId, kv) : 0;
  if (required <= 0 || (typeof version === "number" && version >= required)) return;
  throw new RollcallError("unauthorized", "The workspaces of this user have changed");
}

function isObject(value: unknown): value is AnyUser {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
