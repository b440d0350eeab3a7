/**
 * The fan-out: `rollcall/rooms/fanout`.
 *
 * @module
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
  type AuthenticateSupervisor,
  type AuthenticateViewer,
  authenticateByGrant,
  authenticateScope,
  authenticateUser,
  authenticateViewer as authenticateViewerToken,
  type FanoutEnv,
} from "./access.ts";
import { peopleRoutes } from "./people-routes.ts";
import { defineFanout, type FanoutRoom } from "./room.ts";
import { fanoutRoutes } from "./routes.ts";
import { type MaySee, seeByGrant } from "./watching.ts";

export {
  type AuthenticatePublisher,
  type AuthenticateSubscriber,
  type AuthenticateSupervisor,
  type AuthenticateViewer,
  authenticateByGrant,
  authenticateScope,
  authenticateUser,
  authenticateViewer,
  type FanoutEnv,
  type PeopleViewer,
  type Publisher,
  type Subscriber,
} from "./access.ts";
export {
  describeFanout,
  describePeople,
  type Publication,
  type PublishOutcome,
} from "./contract.ts";
export type { Envelope } from "./envelope.ts";
export type { Filter } from "./filters.ts";
export type { Whereabouts } from "./people.ts";
export type { FanoutRoom } from "./room.ts";
export { type MaySee, seeByGrant, type Viewer } from "./watching.ts";

/** Options of {@link fanout}. */
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
  /**
   * The user who connects to `/ws/people`. Default {@link authenticateViewer}, also beside an
   * `authenticateSubscriber` of your own.
   */
  authenticateViewer?: AuthenticateViewer<E>;
  /** What a request may do to a user. Default {@link authenticateByGrant}. */
  authenticateSupervisor?: AuthenticateSupervisor<E>;
  /**
   * Which users a viewer may see on `/ws/people`. Default {@link seeByGrant}; `createApp` has the same
   * option.
   */
  maySee?: MaySee<E>;
  /** Name of the devices' binding, whose records stand in where a user is. Default `DEVICES`. */
  devices?: string;
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
    authenticateViewer = authenticateViewerToken as AuthenticateViewer<object>,
    authenticateSupervisor = authenticateByGrant as AuthenticateSupervisor<object>,
    devices = "DEVICES",
    limits = {},
    historyMs,
  } = options;
  let { maySee = seeByGrant as MaySee<E> } = options;
  const room = defineFanout<E>({
    ...{ name, websocketPath, binding, devices, limits },
    ...{ authenticateSubscriber, authenticateViewer },
    maySee: (viewer, ids, env) => maySee(viewer, ids, env),
    historyMs(env) {
      const given = historyMs ?? Number((env as FanoutEnv).FANOUT_HISTORY_MS || HISTORY_MS);
      return given >= 0 ? Math.min(given, LONGEST_HISTORY_MS) : HISTORY_MS;
    },
  });
  const access = { authenticateSubscriber, authenticatePublisher };
  const people = { websocketPath, binding, devices, authenticateViewer, authenticateSupervisor };
  return Object.assign(room, {
    routes() {
      const app = fanoutRoutes<E>({ websocketPath, binding, ...access });
      return app.route("/", peopleRoutes<E>(people));
    },
    configure(given: { maySee?: MaySee<E> }): void {
      maySee = given.maySee ?? maySee;
    },
    async deleteUser(env: E, userId: string): Promise<void> {
      await call<FanoutRoom>(namespaceOf(env, binding).getByName(userId)).deleteUser();
    },
  });
}
