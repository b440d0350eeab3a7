/**
 * Presence rooms: `rollcall/rooms/presence`.
 *
 * @example
 * const lobby = presence({ statuses: ["online", "afk"], authenticate: readSession });
 * export class PresenceRoom extends createActorHandler(lobby) {}
 * export default lobby.routes();
 */
import type { System } from "../../src/http/system.ts";
import { type Authenticate, authenticateToken, type PresenceEnv } from "./access.ts";
import { definePresence, type PresenceRoom } from "./room.ts";
import { STATUSES, type Status } from "./roster.ts";
import { presenceRoutes } from "./routes.ts";

export {
  type Authenticate,
  authenticateToken,
  type PresenceEnv,
  type Visitor,
} from "./access.ts";
export { describePresence } from "./contract.ts";
export type { PresenceCalls, PresenceMeta, PresenceRoom } from "./room.ts";
export {
  applyDiff,
  applyEvent,
  type PresenceEvent,
  type PresenceEvents,
  type Roster,
  type RosterDiff,
  type RosterEntry,
  type RosterSync,
  rosterOf,
  STATUSES,
  type Status,
  snapshot,
} from "./roster.ts";

export interface PresenceOptions<E, S extends string = Status> {
  /** Name of the room, for logs. Default `presence-room`. */
  name?: string;
  /** Path of the upgrade, in the Worker and in the actor. Default `/ws/presence`. */
  websocketPath?: string;
  /** Name of the Durable Object binding in `wrangler.toml`. Default `PRESENCE`. */
  binding?: string;
  /**
   * Who sends a request. Default {@link authenticateToken}. One of your own also decides who may be in
   * a room `workspace:<id>`.
   */
  authenticate?: Authenticate<E>;
  /**
   * The statuses that a user may have, at least one. The first one is a user's status until the user
   * sets another. Default online, away, busy.
   */
  statuses?: readonly [S, ...S[]];
}

/**
 * Presence rooms: who is online, with how many devices and which status. One actor per room name.
 *
 * @returns the room, for `createActorHandler`, with its `routes()`, for the Worker
 * @throws RangeError when `statuses` is empty or has a status twice
 */
export function presence<E extends object = PresenceEnv, const S extends string = Status>(
  options: PresenceOptions<E, S> = {},
): PresenceRoom<E, S> & System<E> {
  const {
    name = "presence-room",
    websocketPath = "/ws/presence",
    binding = "PRESENCE",
    authenticate = authenticateToken as Authenticate<object>,
    statuses = STATUSES as readonly string[] as readonly S[],
  } = options;
  if (statuses.length === 0 || new Set(statuses).size < statuses.length) {
    throw new RangeError("statuses must be one or more different texts");
  }
  const room = definePresence<E, S>({ name, websocketPath, authenticate, statuses });
  const routes = () => presenceRoutes<E, S>({ websocketPath, binding, authenticate });
  return Object.assign(room, { routes });
}
