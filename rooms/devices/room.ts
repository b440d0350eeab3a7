import * as z from "zod/mini";
import type { Limits } from "../../src/actor/limits.ts";
import type { VeraniActor } from "../../src/actor/room.ts";
import { type ConnectionMeta, defineRoom, perActor } from "../../src/actor/room.ts";
import { type AuthenticateWatcher, authorizeWatcher, type DeviceEnv } from "./access.ts";
import { beats } from "./contract.ts";
import type { DeviceEvents } from "./device.ts";
import { CHANNEL, Devices, type UnsavedRecords } from "./records.ts";

/** The runtime reports the end of a stream's socket, so dead sockets are rare: no frequent sweeps. */
const SWEEP_MS = 10 * 60_000;
const FLUSH_MS = 30_000;

export interface DeviceRoomOptions<E> {
  authenticateWatcher: AuthenticateWatcher<E>;
  /** Default: the variable `PRESENCE_DO_KEEPALIVE_FLUSH_MS`, else 30 000. */
  flushMs: number | undefined;
  forgetMs: number;
  limits: Partial<Limits>;
}

function configuredFlushMs({ PRESENCE_DO_KEEPALIVE_FLUSH_MS }: DeviceEnv): number {
  const configured = Number(PRESENCE_DO_KEEPALIVE_FLUSH_MS || Number.NaN);
  return configured >= 0 ? configured : FLUSH_MS;
}

/** The room of a devices system: one actor per user, named by the `user_id`. */
export function defineDevices<E extends object>(options: DeviceRoomOptions<E>) {
  const { authenticateWatcher, flushMs, forgetMs, limits } = options;
  const unsaved: UnsavedRecords = new Map();
  const devicesOf = perActor((actor: VeraniActor<ConnectionMeta, E, DeviceEvents>) => {
    const times = { flushMs: flushMs ?? configuredFlushMs(actor.env), forgetMs };
    return new Devices(actor, times, unsaved);
  });

  return (
    defineRoom<ConnectionMeta, E, DeviceEvents>({
      name: "device-room",
      websocketPath: "/ws/devices",
      liveness: { sweepMs: SWEEP_MS },
      // Every connection begins with all devices.
      graceMs: 0,
      resumeMs: 0,
      limits,

      async extractMeta(request, env) {
        const { userId, expiresAtMs } = await authorizeWatcher(request, env, authenticateWatcher);
        const clientId = crypto.randomUUID();
        const meta = { userId, clientId, channels: [CHANNEL] };
        return expiresAtMs === undefined ? meta : { ...meta, expiresAtMs };
      },

      onConnect({ actor, emit }) {
        emit.emit("device.sync", { devices: devicesOf(actor).payloads() });
      },

      onHibernationRestore(actor) {
        devicesOf(actor);
      },

      dueAt(actor) {
        return devicesOf(actor).nextDeadlineMs();
      },

      onDue(actor) {
        devicesOf(actor).expire();
      },
    })
      // Heartbeats in order; for each whether it was newer than the device's last.
      .call("beat", beats, (actor, received) => {
        const devices = devicesOf(actor);
        return received.map((beat) => devices.accept(beat));
      })
      .call("deleteUser", z.undefined(), (actor) => {
        devicesOf(actor).deleteAll();
      })
      .call("list", z.undefined(), (actor) => ({ devices: devicesOf(actor).payloads() }))
      .call("inspect", z.undefined(), (actor) => devicesOf(actor).inspect())
  );
}

/** A devices room: `createActorHandler` takes it, and its calls have types. */
export type DeviceRoom<E extends object = object> = ReturnType<typeof defineDevices<E>>;
