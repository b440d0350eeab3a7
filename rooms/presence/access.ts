import { identify } from "../../src/access/authenticate.ts";
import { requiredClaimsVersion, requireUnrevoked } from "../../src/access/claims.ts";
import type { GrantEnv } from "../../src/access/grant.ts";
import { roleIn, type TokenEnv } from "../../src/access/jwt.ts";
import { developerOf, type Identity, readToken } from "../../src/access/token.ts";
import type { StandardSchemaV1 } from "../../src/actor/schema.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { exceedsBytes } from "../../src/wire/frames.ts";
import type { Cap } from "../../src/wire/grant.ts";
import { isWellFormed } from "../../src/wire/text.ts";
import type { AnyUser } from "./roster.ts";
import type { WebhookEnv } from "./webhooks.ts";

/** Room names of the presence contract. */
const ROOM_NAME = /^[A-Za-z0-9_.:-]{1,64}$/;
const DEFAULT_ROOM = "lobby";
const WORKSPACE_PREFIX = "workspace:";
const NAME_LENGTH = 256;
const USER_BYTES = 1_024;
/** Users that a client may watch. */
const WATCHED = 100;

/** How much of a room a client wants to know: the users, their number, or nothing. */
export type Detail = "roster" | "count" | "none";

/** A user who may join a presence room or read its snapshot. */
export interface Visitor<User = AnyUser> {
  /** 1–256 characters. */
  userId: string;
  /** At most 256 characters. Default: the `userId`. */
  username?: string;
  /** What others see of the user beside the name: an avatar, a colour, a role. At most 1 KiB as JSON. */
  user?: User;
  /** Server time in ms at which the connection is closed with 4401. Default: never. */
  expiresAtMs?: number;
  /** When the token was issued, in seconds since the epoch. A revocation covers one without it. */
  issuedAtS?: number;
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
export type Authenticate<E, User = AnyUser> = (
  request: Request,
  env: E,
  room: string,
) => Visitor<User> | null | Promise<Visitor<User> | null>;

/** A visitor, and the room that the visitor asks for. */
export interface RoomVisitor extends Visitor {
  room: string;
  username: string;
  detail?: Exclude<Detail, "roster">;
  watch?: string[];
  /** A stream over HTTP, and the cursor that it begins after. */
  stream?: true;
  after?: string;
}

/** Whether a client asks to see the room without being seen. */
function isUnlisted(request: Request): boolean {
  return new URL(request.url).searchParams.get("listed") === "0";
}

/** The variables that {@link authenticateToken} reads. */
export interface PresenceEnv extends TokenEnv, GrantEnv, WebhookEnv {
  /**
   * As the workspaces' Worker has it: whose claim `workspaces` is too old, without it none is; and whose
   * tokens were revoked.
   */
  WORKSPACE_CLAIMS_VERSION?: KVNamespace;
  /** `on`: rooms report their users to the users' actors. */
  DIRECTORY?: string;
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
  const { userId, expiresAtMs, issuedAtS, cap, listed, ...visitor } = await identify(
    request,
    env,
    (request, env) => authenticate(request, env, room),
  );
  if (!userId) throw new RollcallError("unauthorized", "Not authenticated");
  checkUserId(userId);
  const username = visitor.username || userId;
  if (username.length > NAME_LENGTH) {
    throw new RollcallError("bad_request", `Names have at most ${NAME_LENGTH} characters`);
  }
  const user = visitor.user && (await checkUser(visitor.user, schema));
  const isHidden = listed === false || isUnlisted(request);
  return {
    ...{ room, userId, username, ...view },
    // A stream shows what was published before it began, so it is for those that may watch.
    ...(isHidden && streamOf(request)),
    ...(user && { user }),
    ...(expiresAtMs !== undefined && { expiresAtMs }),
    ...(issuedAtS !== undefined && { issuedAtS }),
    ...(cap && { cap }),
    ...(isHidden && { listed: false }),
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

/** Characters of a cursor: longer text is none. */
const CURSOR_LENGTH = 128;

function streamOf(request: Request): Pick<RoomVisitor, "stream" | "after"> {
  const { searchParams } = new URL(request.url);
  if (searchParams.get("stream") !== "1") return {};
  const after = searchParams.get("after")?.slice(0, CURSOR_LENGTH);
  return { stream: true, ...(after !== undefined && { after }) };
}

/** @throws RollcallError `bad_request` for a malformed name */
export function checkRoom(room: string): string {
  if (ROOM_NAME.test(room)) return room;
  throw new RollcallError("bad_request", "room must be 1 to 64 of A-Z a-z 0-9 _ . : -", "room");
}

/** @throws RollcallError `bad_request` for what no path can name: nobody could kick such a user */
export function checkUserId(userId: string): string {
  const isNamed = userId.trim() !== "" && userId !== "." && userId !== "..";
  if (isNamed && userId.length <= NAME_LENGTH && isWellFormed(userId)) return userId;
  throw new RollcallError(
    "bad_request",
    `A user's id has 1 to ${NAME_LENGTH} characters, not . or ..`,
  );
}

/**
 * The room that a request names with `?room=`; default `lobby`.
 *
 * @throws RollcallError `bad_request` for a malformed name, and for more than one
 */
function roomOf(request: Request): string {
  const [room = DEFAULT_ROOM, ...more] = new URL(request.url).searchParams.getAll("room");
  return checkRoom(more.length === 0 ? room : "");
}

function workspaceOf(room: string): string | null {
  return room.startsWith(WORKSPACE_PREFIX) ? room.slice(WORKSPACE_PREFIX.length) : null;
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
  const workspace = workspaceOf(room);
  const developer = developerOf(request, env);
  if (developer !== undefined) {
    if (workspace !== null) throw new RollcallError("forbidden", "Not a member of this workspace");
    await requireUnrevoked(developer, undefined, env);
    return { userId: developer };
  }

  const identity = await readToken(request, env);
  const { userId, claims, grant, cap, expiresAtMs, issuedAtS } = identity;
  if (workspace !== null) await requireMember(identity, workspace, env);
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
    ...(issuedAtS !== undefined && { issuedAtS }),
  };
}

/** @throws RollcallError `forbidden` unless the user is a member, and as {@link requireNewest} */
async function requireMember(
  { userId, claims }: Identity,
  workspace: string,
  env: PresenceEnv,
): Promise<void> {
  if (roleIn(claims, workspace) === undefined) {
    throw new RollcallError("forbidden", "Not a member of this workspace");
  }
  await requireNewest(userId, claims.workspaceClaimsVersion, env.WORKSPACE_CLAIMS_VERSION);
}

/** What the sender of a request may do to a room from outside. */
export interface Operator {
  /** Room events that it publishes name it, and idempotency keys belong to it. */
  userId: string;
  /** Whether it may `publish`, `kick` or `watch`, which is to read who came and left. */
  can(operation: string): boolean;
}

/**
 * Who publishes to a room over HTTP, kicks users out of it, or reads its changes. Called in the Worker only.
 *
 * @returns null, or throws, to refuse the request
 */
export type AuthenticateOperator<E> = (
  request: Request,
  env: E,
  room: string,
) => Operator | null | Promise<Operator | null>;

/**
 * The default {@link AuthenticateOperator}: as {@link authenticateToken}, by what the token's grant allows on
 * `room:<name>`.
 *
 * @throws RollcallError as {@link authenticateToken}
 */
export async function authenticateGrant(
  request: Request,
  env: PresenceEnv,
  room: string,
): Promise<Operator> {
  const workspace = workspaceOf(room);
  const developer = developerOf(request, env);
  if (developer !== undefined && workspace === null) {
    await requireUnrevoked(developer, undefined, env);
    return { userId: developer, can: () => true };
  }
  const identity = await readToken(request, env);
  if (workspace !== null) await requireMember(identity, workspace, env);
  const { userId, grant } = identity;
  return { userId, can: (operation) => grant.can(`room:${room}`, operation) };
}

/**
 * The sender of a request, if it is allowed an operation on a room.
 *
 * @throws RollcallError the refusals of `authenticate`, `forbidden`
 */
export async function authorizeOperator<E>(
  request: Request,
  env: E,
  room: string,
  operation: "publish" | "kick" | "watch",
  authenticate: AuthenticateOperator<E>,
): Promise<Operator> {
  const operator = await identify(request, env, (request, env) => authenticate(request, env, room));
  if (operator.can(operation)) return operator;
  throw new RollcallError("forbidden", `The token does not allow to ${operation} here`);
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
