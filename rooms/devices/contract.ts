import * as z from "zod/mini";
import { defineRecord } from "../../src/actor/record.ts";
import { answered, limited, refused, type SystemDescription } from "../../src/http/describe.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { isWellFormed } from "../../src/wire/text.ts";
import { type DeviceEvents, type Heartbeat, UUID } from "./device.ts";
import { DAEMON_TTL_MAX_MS, READ_SCOPE, TOKEN_TTL_MAX_MS } from "./token.ts";

export type { DeviceEvents, Heartbeat } from "./device.ts";

/** The longest time for which a heartbeat can keep a device online, in ms. */
const TTL_MAX_MS = 86_400_000;
/** How far a daemon's clock may be ahead, in ms. Later heartbeats with the right time must count. */
export const AHEAD_MAX_MS = 86_400_000;
const SOURCE_LENGTH = 64;
/** Heartbeats of one batch. */
const BATCH_LENGTH = 500;
/** What a presence token may allow. */
const SCOPES = [READ_SCOPE] as const;

// ── What comes in ───────────────────────────────────────────────────────────────────────────────

const isObject = { error: "must be an object" };

export const uuid = z
  .string({ error: "must be a string" })
  .check(z.regex(UUID, { error: "must be a lowercase UUID" }));

const counter = z
  .int({ error: "must be a whole number" })
  .check(z.gte(0, { error: "must be 0 or more" }));

function duration(maxMs: number) {
  return z
    .int({ error: "must be a whole number" })
    .check(
      z.gte(1, { error: "must be 1 or more" }),
      z.lte(maxMs, { error: `must be at most ${maxMs}` }),
    );
}

/**
 * A heartbeat as it is stored and sent to watchers. Earlier releases stored any time and any source:
 * the limits of what comes in are not those of what is read.
 */
const payload = z.object(
  {
    schema_version: z.literal(1, { error: "must be 1" }),
    user_id: uuid,
    device_id: uuid,
    status: z.enum(["online", "offline"], { error: "must be online or offline" }),
    source: z
      .string({ error: "must be a string" })
      .check(z.minLength(1, { error: "must not be empty" })),
    sent_at_ms: counter,
    seq: counter,
    ttl_ms: duration(TTL_MAX_MS),
  },
  isObject,
) satisfies z.ZodMiniType<Heartbeat>;

/** The body of a heartbeat. */
export const heartbeat = z.extend(payload, {
  source: payload.shape.source.check(
    z.maxLength(SOURCE_LENGTH, { error: `must have at most ${SOURCE_LENGTH} characters` }),
    z.refine(isWellFormed, { error: "must be well-formed text" }),
  ),
  sent_at_ms: counter.check(
    z.refine((sentAtMs) => sentAtMs <= Date.now() + AHEAD_MAX_MS, {
      error: "must be at most 24 hours ahead",
    }),
    z.describe("At most 24 hours ahead of the server"),
  ),
});

/** The body of a batch. Each entry is checked by itself: a bad one does not affect the others. */
export const batch = z.object(
  {
    heartbeats: z
      .array(z.unknown(), { error: "must be a list" })
      .check(z.maxLength(BATCH_LENGTH, { error: `must have at most ${BATCH_LENGTH} entries` })),
  },
  isObject,
);

/** A request for a presence token. */
export const tokenRequest = z.object(
  {
    user_id: uuid,
    device_id: uuid,
    scope: z._default(
      z
        .array(z.enum(SCOPES, { error: `must be ${SCOPES.join(" or ")}` }), {
          error: "must be a list",
        })
        .check(z.maxLength(SCOPES.length, { error: "names a scope twice" })),
      [READ_SCOPE],
    ),
    ttl_ms: z.optional(duration(TOKEN_TTL_MAX_MS)),
  },
  isObject,
);

/** A request for a daemon's token. */
export const daemonTokenRequest = z.object(
  { user_id: uuid, device_id: uuid, ttl_ms: z.optional(duration(DAEMON_TTL_MAX_MS)) },
  isObject,
);

/** Why a heartbeat is refused that can be read. */
export const STALE = "Non-monotonic seq";
export const TOO_MANY = "A user has at most 100 devices";

/** The first fault of a payload, in words. */
export function faultOf({ issues: [issue] }: z.core.$ZodError): string {
  const path = issue?.path.map(String).join(".");
  return `${path || "The payload"} ${issue?.message}`;
}

/** @throws RollcallError `invalid_payload` */
export function parsePayload<T>(schema: z.ZodMiniType<T>, value: unknown): T {
  const { success, data, error } = schema.safeParse(value);
  if (success) return data;
  throw new RollcallError("invalid_payload", faultOf(error));
}

// ── Calls and records ───────────────────────────────────────────────────────────────────────────

/** What this release reads of a heartbeat that a Worker sends to an actor. */
function isHeartbeat(value: unknown): value is Heartbeat {
  const beat = value as Partial<Heartbeat> | null | undefined;
  return (
    typeof beat?.device_id === "string" &&
    typeof beat.status === "string" &&
    typeof beat.sent_at_ms === "number" &&
    typeof beat.seq === "number" &&
    typeof beat.ttl_ms === "number"
  );
}

/**
 * Heartbeats from a Worker, maybe of another release, which has checked them in full. This costs
 * little, and leaves alone the fields that a later release may add.
 */
export const beats = z.custom<Heartbeat[]>(
  (value) => Array.isArray(value) && value.every(isHeartbeat),
  { error: "must be a list of heartbeats" },
);

/**
 * What an actor answers for a heartbeat: true when it was accepted, false when it was not newer than the
 * device's last, null when the user has too many devices online. Null, because a Worker of the previous
 * release takes what is falsy for a refusal.
 */
export type Acceptance = boolean | null;

/** A device in storage, at `device:<device_id>`. */
export interface DeviceRecord extends Heartbeat {
  /** `sent_at_ms` of the last online heartbeat; null when there was none. */
  last_heartbeat_ms: number | null;
  /** `sent_at_ms` of the offline heartbeat, or the server's time of the expiry; null while online. */
  last_offline_ms: number | null;
  /** Server time of the last change, in ms. Expiry counts from here. */
  updated_at_ms: number;
  /** `socket` while a socket vouches for it: expiry counts from that socket's last sign of life. */
  via?: string | undefined;
}

export const deviceRecord = defineRecord<DeviceRecord>({
  version: 1,
  schema: z.extend(payload, {
    last_heartbeat_ms: z.nullable(z.number()),
    last_offline_ms: z.nullable(z.number()),
    updated_at_ms: z.number(),
    via: z.optional(z.string()),
  }),
});

/** Keep-alives of all online devices, in one row: what they have changed since the devices' own rows. */
export const keepAlives = defineRecord({
  version: 1,
  schema: z.object({
    /** By `device_id`: `updated_at_ms`, `sent_at_ms` and `seq` of the last one. */
    beats: z.record(z.string(), z.tuple([z.number(), z.number(), z.number()])),
  }),
});

/** Stored while some keep-alives of an actor are in the memory of an isolate only. */
export const unsavedMark = defineRecord({
  version: 1,
  schema: z.object({ held: z.literal(true), isolate: z.optional(z.string()) }),
  // Earlier releases stored a bare `true`.
  bare: "held",
});

/** What the debug route shows. Times are in ms since the epoch; null where there is none. */
export interface DeviceInspection {
  /** Watching connections: streams, and sockets of clients. */
  active_streams: number;
  alarm: string | null;
  /** As stored. */
  records: Record<string, DeviceRecord>;
  /** Devices with keep-alives that are not stored yet. */
  dirty_devices: number;
  next_flush_ms: number | null;
  next_expiry_ms: number | null;
  next_alarm_ms: number | null;
  /** Counts of this instance; puts and lists are those of records. */
  stats: {
    storage_puts_total: number;
    set_alarm_total: number;
    delete_alarm_total: number;
    list_records_total: number;
  };
}

// ── Description ─────────────────────────────────────────────────────────────────────────────────

/** Routes and sockets of device presence. */
export function describeDevices(): SystemDescription {
  const out = {
    "device.sync": z.object({ devices: z.array(payload) }),
    "device.update": payload,
    "device.probe": z.object({ in_ms: z.number() }),
  } satisfies { [K in keyof DeviceEvents["out"]]: z.ZodMiniType<DeviceEvents["out"][K]> };
  const json = (schema: z.ZodMiniType) => ({ content: { "application/json": schema } });

  const ingest = ["ingest"] as const;
  const ingestRefusals = {
    400: refused("The payload is not as described, or too large"),
    401: refused("Missing or wrong bearer token"),
    403: refused("The daemon's token is for another device"),
    429: limited(),
    503: refused("The ingest token is not configured"),
  };
  const mint = ["mint"] as const;
  const minted = answered("The token", z.object({ token: z.string(), expires_at_ms: z.int() }));
  const mintRefusals = {
    400: refused("The payload is not as described, or too large"),
    401: refused("Missing or wrong bearer token"),
    503: refused("The minting token or the signing key is not configured"),
  };
  const watch = ["presenceToken", "presenceTokenQuery"] as const;
  const watched = z.object({ user_id: uuid });
  const anyUuid = z.string().check(z.describe("A UUID in lower case"));
  const watchRefusals = {
    400: refused("user_id is missing or no UUID"),
    401: refused("No token, or one that was revoked"),
    403: refused("The token is not valid here, or has expired"),
    429: limited(),
    503: refused("The signing key is not configured"),
  };

  return {
    tag: {
      name: "Devices",
      description: "Which devices of a user are online, by their heartbeats.",
    },
    routes: [
      {
        method: "post",
        path: "/api/v1/daemon/presence/heartbeat",
        summary: "One heartbeat of a device",
        security: ingest,
        body: json(heartbeat),
        responses: {
          204: { description: "Accepted" },
          ...ingestRefusals,
          409: refused("Older than the device's last heartbeat"),
        },
      },
      {
        method: "post",
        path: "/api/v1/daemon/presence/heartbeats",
        summary: "Heartbeats of many devices and users",
        security: ingest,
        body: json(z.object({ heartbeats: z.array(heartbeat).check(z.maxLength(BATCH_LENGTH)) })),
        responses: {
          200: answered(
            "One result per heartbeat, in order",
            z.object({
              results: z.array(
                z.object({
                  status: z.int().check(z.describe("204, or the refusal: 400, 403, 409, 429, 503")),
                  error: z.optional(z.string()),
                  details: z.optional(z.string()),
                }),
              ),
            }),
          ),
          ...ingestRefusals,
        },
      },
      {
        method: "post",
        path: "/api/v1/presence/tokens",
        summary: "A presence token, for a backend to hand to its phones",
        security: mint,
        body: json(tokenRequest),
        responses: { 201: minted, ...mintRefusals },
      },
      {
        method: "post",
        path: "/api/v1/devices/tokens",
        summary: "A daemon's own token: for heartbeats of one device, and nothing else",
        security: mint,
        body: json(daemonTokenRequest),
        responses: { 201: minted, ...mintRefusals },
      },
      {
        method: "get",
        path: "/api/v1/mobile/presence",
        summary: "The devices of a user",
        security: watch,
        query: watched,
        responses: { 200: answered("The devices", out["device.sync"]), ...watchRefusals },
      },
      {
        method: "get",
        path: "/api/v1/mobile/presence/stream",
        summary: "The devices of a user and their changes, as server-sent events",
        security: watch,
        query: watched,
        responses: {
          200: {
            description: "One event per device, then each heartbeat and change",
            content: { "text/event-stream": payload },
          },
          ...watchRefusals,
        },
      },
    ],
    channels: {
      devices: {
        address: "/ws/devices",
        title: "The devices of a user",
        description:
          "All of them first, then each heartbeat and change. With `probe_devices=1` the client receives the time at which to probe for silent devices that beat by a socket; then no alarm is needed.",
        query: z.object({
          user_id: anyUuid,
          probe_devices: z.optional(z.literal("1")),
        }),
        security: watch,
        wire: "room",
        in: { "device.probe": z.object({}) },
        out,
      },
      deviceBeats: {
        address: "/ws/devices/beat",
        title: "Heartbeats of one device",
        description:
          "The first frame is a heartbeat, bare as over HTTP or as a `device.beat`; another is due only when something changes. Between them pings tell that the device is there, one in each third of its `ttl_ms`. The device turns offline `ttl_ms` after the last ping, or after the socket closed; at once after an `offline` heartbeat or the close code 1000.",
        query: z.object({ user_id: anyUuid, device_id: anyUuid }),
        security: ingest,
        wire: "room",
        in: { "device.beat": heartbeat },
        out: {},
      },
      deviceStream: {
        address: "/api/v1/mobile/presence/stream",
        title: "The devices of a user, as server-sent events",
        description: "One event per device, then each heartbeat and change.",
        security: watch,
        wire: "plain",
        in: {},
        out: { device: payload },
      },
    },
  };
}
