/**
 * The fan-out: `rollcall/rooms/fanout`.
 *
 * @example
 * const inbox = fanout({ authenticateSubscriber: readSession, authenticatePublisher: isBackend });
 * export class FanoutRoom extends createActorHandler(inbox) {}
 * export default inbox.routes();
 */
import { call } from "../../src/actor/call.ts";
import type { Limits } from "../../src/actor/limits.ts";
import { namespaceOf } from "../../src/http/binding.ts";
import type { System } from "../../src/http/system.ts";
import {
  type AuthenticatePublisher,
  type AuthenticateSubscriber,
  authenticateScope,
  authenticateUser,
  type FanoutEnv,
} from "./access.ts";
import { defineFanout, type FanoutRoom } from "./room.ts";
import { fanoutRoutes } from "./routes.ts";

export {
  type AuthenticatePublisher,
  type AuthenticateSubscriber,
  authenticateScope,
  authenticateUser,
  type FanoutEnv,
  type Subscriber,
} from "./access.ts";
export { describeFanout, type Publication, type PublishOutcome } from "./contract.ts";
export type { Envelope } from "./envelope.ts";
export type { Filter } from "./filters.ts";
export type { FanoutRoom } from "./room.ts";

export interface FanoutOptions<E> {
  /** Name of the room, for logs. Default `fanout-room`. */
  name?: string;
  /** Path of the upgrade, in the Worker and in the actor. Default `/ws/fanout`. */
  websocketPath?: string;
  /** Name of the Durable Object binding in `wrangler.toml`. Default `FANOUT`. */
  binding?: string;
  /**
   * The user who sends a request. Streams pass the header `Authorization` and `?token=` on to the
   * actor, nothing else. Default {@link authenticateUser}.
   */
  authenticateSubscriber?: AuthenticateSubscriber<E>;
  /** Whether a request may publish, to every user. Default {@link authenticateScope}. */
  authenticatePublisher?: AuthenticatePublisher<E>;
  /** Limits of the subscribers' sockets. Default `LIMITS`, with 4000 frames at once and 2000 a second. */
  limits?: Partial<Limits>;
  /**
   * How long envelopes are kept for clients that come back, in ms; 0: not at all. Default
   * `FANOUT_HISTORY_MS`, else 120 000; at most 7 days.
   */
  historyMs?: number;
}

const HISTORY_MS = 120_000;
const LONGEST_HISTORY_MS = 7 * 24 * 3_600_000;

/**
 * The fan-out: a backend publishes to a user, and the user's sockets receive what matches their
 * filters. The publisher gets their acks. One actor per user, named by the user's id.
 *
 * @returns the room, for `createActorHandler`, with its `routes()`, for the Worker
 */
export function fanout<E extends object = FanoutEnv>(
  options: FanoutOptions<E> = {},
): FanoutRoom<E> & System<E> {
  const {
    name = "fanout-room",
    websocketPath = "/ws/fanout",
    binding = "FANOUT",
    authenticateSubscriber = authenticateUser as AuthenticateSubscriber<object>,
    authenticatePublisher = authenticateScope as AuthenticatePublisher<object>,
    limits = {},
    historyMs,
  } = options;
  const room = defineFanout<E>({
    ...{ name, websocketPath, authenticateSubscriber, limits },
    historyMs(env) {
      const given = historyMs ?? Number((env as FanoutEnv).FANOUT_HISTORY_MS || HISTORY_MS);
      return given >= 0 ? Math.min(given, LONGEST_HISTORY_MS) : HISTORY_MS;
    },
  });
  const access = { authenticateSubscriber, authenticatePublisher };
  const routes = () => fanoutRoutes<E>({ websocketPath, binding, ...access });
  return Object.assign(room, {
    routes,
    async deleteUser(env: E, userId: string): Promise<void> {
      await call<FanoutRoom>(namespaceOf(env, binding).getByName(userId)).deleteUser();
    },
  });
}
