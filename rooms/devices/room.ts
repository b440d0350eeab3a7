import * as z from "zod/mini";
import { isRevoked, revoked } from "../../src/access/claims.ts";
import type { Limits } from "../../src/actor/limits.ts";
import type { VeraniActor } from "../../src/actor/room.ts";
import { defineRoom, perActor } from "../../src/actor/room.ts";
import { CLOSE } from "../../src/wire/close.ts";
import { type Codec, veraniCodec } from "../../src/wire/codec.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { type MessageFrame, parseJson } from "../../src/wire/frames.ts";
import {
  type AuthenticateDaemon,
  type AuthenticateWatcher,
  authorizeBeats,
  authorizeWatcher,
  type DeviceEnv,
} from "./access.ts";
import { beats, heartbeat, parsePayload, STALE, TOO_MANY } from "./contract.ts";
import type { DeviceEvents } from "./device.ts";
import { CHANNEL, type DeviceMeta, Devices, type UnsavedRecords } from "./records.ts";

/** The runtime reports the end of a stream's socket, so dead sockets are rare: no frequent sweeps. */
const SWEEP_MS = 10 * 60_000;
const FLUSH_MS = 30_000;
/** Storage key of the second up to which the user's tokens were revoked. */
const FLOOR_KEY = "revoked";
/** Heartbeats that a socket may send in a second: each change is a row. */
const BEATS_PER_SECOND = 5;

/** Path of the sockets, with {@link BEATS} in the query for a daemon's. */
export const SOCKET_PATH = "/ws/devices";
export const BEATS = "beats";

export interface DeviceRoomOptions<E> {
  authenticateWatcher: AuthenticateWatcher<E>;
  authenticateDaemon: AuthenticateDaemon<E>;
  /** Default: the variable `PRESENCE_DO_KEEPALIVE_FLUSH_MS`, else 30 000. */
  flushMs: number | undefined;
  forgetMs: number;
  limits: Partial<Limits>;
}

function configuredFlushMs({ PRESENCE_DO_KEEPALIVE_FLUSH_MS }: DeviceEnv): number {
  const configured = Number(PRESENCE_DO_KEEPALIVE_FLUSH_MS || Number.NaN);
  return configured >= 0 ? configured : FLUSH_MS;
}

/** A heartbeat may come without a frame around it, as over HTTP. */
const codec: Codec = {
  ...veraniCodec,
  parse(raw, limitBytes): MessageFrame | null {
    if (raw === "ping") return { type: "ping" };
    if (typeof raw === "string" && raw.includes('"schema_version"') && raw.length <= limitBytes) {
      const data = bareBeat(raw);
      if (data !== undefined) return { type: "device.beat", data };
    }
    return veraniCodec.parse(raw, limitBytes);
  },
};

function bareBeat(text: string): object | undefined {
  try {
    const value = parseJson(text);
    const isBare = typeof value === "object" && value !== null && !("type" in value);
    return isBare && "schema_version" in value ? value : undefined;
  } catch {
    // The codec says what is wrong.
    return undefined;
  }
}

/** The room of a devices system: one actor per user, named by the `user_id`. */
export function defineDevices<E extends object>(options: DeviceRoomOptions<E>) {
  const { authenticateWatcher, authenticateDaemon, flushMs, forgetMs, limits } = options;
  const unsaved: UnsavedRecords = new Map();
  const devicesOf = perActor((actor: VeraniActor<DeviceMeta, E, DeviceEvents>) => {
    const times = { flushMs: flushMs ?? configuredFlushMs(actor.env), forgetMs };
    return new Devices(actor, times, unsaved);
  });

  const room = defineRoom<DeviceMeta, E, DeviceEvents>({
    name: "device-room",
    websocketPath: SOCKET_PATH,
    codec,
    newest: { "device.beat": BEATS_PER_SECOND },
    liveness: { sweepMs: SWEEP_MS },
    // Every connection begins with all devices.
    graceMs: 0,
    resumeMs: 0,
    limits,

    async extractMeta(request, env): Promise<DeviceMeta> {
      const { searchParams } = new URL(request.url);
      const clientId = crypto.randomUUID();
      if (searchParams.has(BEATS)) {
        const { userId, deviceId, ...token } = await authorizeBeats(
          request,
          env,
          authenticateDaemon,
        );
        return { userId, clientId, channels: [], deviceId, mayBeSilent: true, ...token };
      }
      const { userId, ...token } = await authorizeWatcher(request, env, authenticateWatcher);
      const canProbe = searchParams.get("probe_devices") === "1";
      return { userId, clientId, channels: [CHANNEL], ...(canProbe && { canProbe }), ...token };
    },

    onConnect({ actor, session, emit }) {
      const { meta } = session;
      requireUnrevoked(actor, meta);
      if (meta.deviceId !== undefined) return;
      const devices = devicesOf(actor);
      const in_ms = devices.watch(meta);
      emit.emit("device.sync", { devices: devices.payloads() });
      if (in_ms !== undefined) emit.emit("device.probe", { in_ms });
    },

    onRefresh({ actor }, fresh) {
      requireUnrevoked(actor, fresh);
    },

    onDisconnect({ actor, session }, { code }) {
      devicesOf(actor).left(session.meta, code);
    },

    onHibernationRestore(actor) {
      devicesOf(actor).restore();
    },

    dueAt(actor) {
      return devicesOf(actor).nextDeadlineMs();
    },

    onDue(actor) {
      devicesOf(actor).ring();
    },
  });

  room.on("device.beat", (ctx, data) => {
    const { deviceId, userId, vouches } = ctx.session.meta;
    if (deviceId === undefined) throw new RollcallError("forbidden", "Watchers send no heartbeats");
    const beat = parsePayload(heartbeat, data);
    if (beat.user_id !== userId || beat.device_id !== deviceId) {
      throw new RollcallError("forbidden", "The socket is for another device");
    }
    if (!vouches) ctx.meta.vouches = true;
    const accepted = devicesOf(ctx.actor).accept(beat, true);
    if (accepted) return;
    if (!vouches) delete ctx.meta.vouches;
    throw accepted === null
      ? new RollcallError("invalid_payload", TOO_MANY)
      : new RollcallError("conflict", STALE);
  });

  room.on("device.probe", ({ actor, session }) => {
    if (!session.meta.canProbe)
      throw new RollcallError("forbidden", "Connect with probe_devices=1");
    devicesOf(actor).probe();
  });

  return (
    room
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
      .call(
        "closeUser",
        z.object({ userId: z.string(), floorS: z.optional(z.number()) }),
        (actor, { userId, floorS }) => {
          const { kv } = actor.getStorage();
          if (floorS !== undefined && floorS > (kv.get<number>(FLOOR_KEY) ?? 0)) {
            kv.put(FLOOR_KEY, floorS);
          }
          return actor.closeUser(
            userId,
            CLOSE.unauthorized,
            floorS === undefined ? "Disconnected" : "The token was revoked",
            ({ meta }) =>
              isOwnToken(meta) && (floorS === undefined || isRevoked(meta.issuedAtS, floorS)),
          );
        },
      )
  );
}

/** @throws RollcallError `unauthorized` for a token of the user that was revoked */
function requireUnrevoked(actor: { getStorage(): DurableObjectStorage }, meta: DeviceMeta): void {
  if (!isOwnToken(meta)) return;
  if (isRevoked(meta.issuedAtS, actor.getStorage().kv.get(FLOOR_KEY))) throw revoked();
}

/** Whether a connection has a token of its user, and not the bearer of those that may send for everybody. */
function isOwnToken({ deviceId, issuedAtS }: DeviceMeta): boolean {
  return deviceId === undefined || issuedAtS !== undefined;
}

/** A devices room: `createActorHandler` takes it, and its calls have types. */
export type DeviceRoom<E extends object = object> = ReturnType<typeof defineDevices<E>>;
