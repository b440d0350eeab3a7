/**
 * Presence rooms: `rollcall/rooms/presence`.
 *
 * @module
 *
 * @example
 * const lobby = presence({ statuses: ["online", "afk"], authenticate: readSession });
 * export class PresenceRoom extends createActorHandler(lobby) {}
 * export default lobby.routes();
 */
import type { StandardSchemaV1 } from "../../src/actor/schema.ts";
import type { System } from "../../src/http/system.ts";
import {
  type Authenticate,
  type AuthenticateOperator,
  authenticateGrant,
  authenticateToken,
  type PresenceEnv,
} from "./access.ts";
import { inOneOrder, shardsOfRoom } from "./large.ts";
import { definePresence, type PresenceChange, type PresenceRoom } from "./room.ts";
import { type AnyState, type AnyUser, STATUSES, type Status } from "./roster.ts";
import { presenceRoutes } from "./routes.ts";

export {
  type Authenticate,
  type AuthenticateOperator,
  authenticateGrant,
  authenticateToken,
  type Operator,
  type PresenceEnv,
  type Visitor,
} from "./access.ts";
export { type Change, describePresence } from "./contract.ts";
export type { PresenceCalls, PresenceChange, PresenceMeta, PresenceRoom } from "./room.ts";
export {
  type AnyState,
  type AnyUser,
  applyDiff,
  applyEvent,
  type LeaveReason,
  type PresenceCount,
  type PresenceEvent,
  type PresenceEvents,
  type PresentSession,
  type Roster,
  type RosterDiff,
  type RosterEntry,
  type RosterPage,
  type RosterSync,
  rosterOf,
  STATUSES,
  type StateChange,
  type Status,
  snapshot,
} from "./roster.ts";

const ROSTER_LIMIT = 1_000;

/** Options of {@link presence}. */
export interface PresenceOptions<
  E,
  S extends string = Status,
  State extends object = AnyState,
  User extends object = AnyUser,
> {
  /** Name of the room, for logs. Default `presence-room`. */
  name?: string;
  /** Path of the upgrade, in the Worker and in the actor. Default `/ws/presence`. */
  websocketPath?: string;
  /** Name of the Durable Object binding in `wrangler.toml`. Default `PRESENCE`. */
  binding?: string;
  /**
   * Who sends a request. Default {@link authenticateToken}. One of your own also decides who may be in
   * a room `workspace:<id>`. The type of the `user` that it gives is the one that clients get.
   */
  authenticate?: Authenticate<E, User>;
  /**
   * Who publishes to a room over HTTP, kicks users, and reads changes. Default {@link authenticateGrant}, also
   * beside an `authenticate` of your own.
   */
  authenticateOperator?: AuthenticateOperator<E>;
  /**
   * Name of the binding of the users' actors, which are the fan-out's. Rooms report to them who is here,
   * where the variable `DIRECTORY` is `on`. Default `FANOUT`.
   */
  directory?: string;
  /**
   * The statuses that a user may have, at least one. The first one is a user's status until the user
   * sets another. Default online, away, busy.
   */
  statuses?: readonly [S, ...S[]];
  /** What a connection may say of itself. Default: any JSON object. At most 4 KiB in any case. */
  state?: StandardSchemaV1<unknown, State>;
  /** What `authenticate` may say of a user. Default: any JSON object. At most 1 KiB in any case. */
  user?: StandardSchemaV1<unknown, User>;
  /** How long a session without a socket counts as present, in ms. Default 5 000. */
  graceMs?: number;
  /**
   * Users in a room above which clients of protocol 3 get the number of users, pages of them and those
   * that they watch, and no longer all. Default 1 000.
   */
  rosterLimit?: number;
  /**
   * Distributes each room over so many actors, 1 to 256. Then clients of the room get the number of users,
   * pages of them and those that they watch, however few there are; protocols 1 and 2 are refused. Default: by
   * the variable `LARGE_ROOMS`.
   */
  shards?: number | ((room: string, env: E) => number);
  /** Runs in the actor after each flush in which users came, left or changed, but for their status and states. */
  onChange?(change: PresenceChange<S, State, User>, env: E): unknown;
}

/**
 * Presence rooms: who is online, with how many devices, which status and which states. One actor per
 * room name.
 *
 * @example
 * const board = presence<{ cursor: { x: number; y: number } }>({ name: "board" });
 *
 * @returns the room, for `createActorHandler`, with its `routes()`, for the Worker
 * @throws RangeError when `statuses` is empty or has a status twice
 */
export function presence<
  State extends object = AnyState,
  User extends object = AnyUser,
  const S extends string = Status,
  E extends object = PresenceEnv,
>(options: PresenceOptions<E, S, State, User> = {}): PresenceRoom<E, S, State, User> & System<E> {
  const {
    name = "presence-room",
    websocketPath = "/ws/presence",
    binding = "PRESENCE",
    authenticate = authenticateToken as Authenticate<object>,
    authenticateOperator = authenticateGrant as AuthenticateOperator<object>,
    directory = "FANOUT",
    statuses = STATUSES as readonly string[] as readonly S[],
    rosterLimit = ROSTER_LIMIT,
  } = options;
  const shards = inOneOrder<E>(options.shards ?? shardsOfRoom);
  const { state, user, graceMs, onChange } = options;
  if (statuses.length === 0 || new Set(statuses).size < statuses.length) {
    throw new RangeError("statuses must be one or more different texts");
  }
  const room = definePresence<E, S, State, User>({
    ...{ name, websocketPath, binding, directory, authenticate, statuses },
    ...{ state, user, graceMs, rosterLimit, shards, onChange },
  });
  const access = { authenticate, authenticateOperator };
  const routes = () => presenceRoutes<E, S>({ websocketPath, binding, shards, ...access });
  return Object.assign(room, { routes });
}
