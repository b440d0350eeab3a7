/**
 * Device presence: `rollcall/rooms/devices`.
 *
 * @module
 *
 * @example
 * const phones = devices({ authenticateWatcher: readLogin });
 * export class DeviceRoom extends createActorHandler(phones) {}
 * export default phones.routes();
 */

import { call } from "../../src/actor/call.ts";
import type { Limits } from "../../src/actor/limits.ts";
import { namespaceOf } from "../../src/http/binding.ts";
import type { System } from "../../src/http/system.ts";
import {
  type AuthenticateDaemon,
  type AuthenticateMinter,
  type AuthenticateWatcher,
  authenticateDaemon as authenticateDaemonToken,
  authenticateMinter as authenticateMintToken,
  authenticatePresenceToken,
  type DeviceEnv,
} from "./access.ts";
import { UUID } from "./device.ts";
import { type DeviceRoom, defineDevices } from "./room.ts";
import { deviceRoutes } from "./routes.ts";

export {
  type AuthenticateDaemon,
  type AuthenticateMinter,
  type AuthenticateWatcher,
  authenticateDaemon,
  authenticateMinter,
  authenticatePresenceToken,
  type Daemon,
  type DeviceEnv,
  requireDaemon,
  type Watcher,
} from "./access.ts";
export { type DeviceInspection, type DeviceRecord, describeDevices } from "./contract.ts";
export { type DeviceEvents, type Heartbeat, replaceDevice, UUID } from "./device.ts";
export type { DeviceRoom } from "./room.ts";
export {
  BEAT_SCOPE,
  DAEMON_TTL_MAX_MS,
  DAEMON_TTL_MS,
  mintPresenceToken,
  type PresenceClaims,
  READ_SCOPE,
  TOKEN_TTL_MAX_MS,
  TOKEN_TTL_MS,
} from "./token.ts";

/** Options of {@link devices}. */
export interface DeviceOptions<E> {
  /** Name of the Durable Object binding in `wrangler.toml`. Default `DEVICES`. */
  binding?: string;
  /**
   * Which user's devices the sender of a request may watch. Streams pass the header `Authorization`
   * and `?token=` on to the actor, nothing else. Default {@link authenticatePresenceToken}.
   */
  authenticateWatcher?: AuthenticateWatcher<E>;
  /** Whose heartbeats a request may bring. Default {@link authenticateDaemon}. */
  authenticateDaemon?: AuthenticateDaemon<E>;
  /** Whether a request may mint tokens for every user. Default {@link authenticateMinter}. */
  authenticateMinter?: AuthenticateMinter<E>;
  /**
   * A keep-alive (a heartbeat that changes nothing but times) may be so long neither stored nor proven by
   * the alarm, in ms. Below 10 000 keep-alives are stored themselves.
   * Default: the variable `PRESENCE_DO_KEEPALIVE_FLUSH_MS`, else 30 000. 0 stores each.
   */
  flushMs?: number;
  /** A device is forgotten so long after it went offline, in ms. Default 30 days. */
  forgetMs?: number;
  /** Limits of the watchers' sockets. Default `LIMITS`. */
  limits?: Partial<Limits>;
}

const FORGET_MS = 30 * 24 * 3_600_000;

/**
 * Device presence: daemons send heartbeats over HTTP, and clients watch their user's devices over a
 * socket or a stream. One actor per user, named by the `user_id`.
 *
 * @returns the room, for `createActorHandler`, with its `routes()`, for the Worker
 */
export function devices<E extends object = DeviceEnv>(
  options: DeviceOptions<E> = {},
): DeviceRoom<E> & System<E> {
  const {
    binding = "DEVICES",
    authenticateWatcher = authenticatePresenceToken as AuthenticateWatcher<object>,
    authenticateDaemon = authenticateDaemonToken as AuthenticateDaemon<object>,
    authenticateMinter = authenticateMintToken as AuthenticateMinter<object>,
    flushMs,
    forgetMs = FORGET_MS,
    limits = {},
  } = options;
  const room = defineDevices<E>({
    authenticateWatcher,
    authenticateDaemon,
    flushMs,
    forgetMs,
    limits,
  });
  const access = { authenticateWatcher, authenticateDaemon, authenticateMinter };
  const routes = () => deviceRoutes<E>({ binding, ...access });
  return Object.assign(room, {
    routes,
    async deleteUser(env: E, userId: string): Promise<void> {
      if (!UUID.test(userId)) return;
      await call<DeviceRoom>(namespaceOf(env, binding).getByName(userId)).deleteUser();
    },
  });
}
