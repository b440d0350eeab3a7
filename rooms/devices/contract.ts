import { z } from "zod";

/**
 * What daemons say of devices, and what watchers hear: shared by the route that judges heartbeats
 * and the room that keeps them.
 */

/** A UUID of version 1 to 8 in lower case; users write down any variant, so it is not looked at. */
export const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export const uuid = z.string().regex(UUID, { error: "must be a lowercase UUID" });

/** Longest time that a heartbeat may vouch for, in ms. */
const TTL_MAX_MS = 86_400_000;

const counter = z.int({ error: "must be a whole number" }).min(0, { error: "must be 0 or more" });

/** One sign of life of a device, or of its end. Times are the daemon's, in ms since the epoch. */
export const heartbeat = z.object(
  {
    schema_version: z.literal(1, { error: "must be 1" }),
    user_id: uuid,
    device_id: uuid,
    status: z.enum(["online", "offline"], { error: "must be online or offline" }),
    source: z.string({ error: "must be a string" }).min(1, { error: "must not be empty" }),
    sent_at_ms: counter,
    seq: counter,
    ttl_ms: z
      .int({ error: "must be a whole number" })
      .min(1, { error: "must be 1 or more" })
      .max(TTL_MAX_MS, { error: `must be at most ${TTL_MAX_MS}` }),
  },
  { error: "must be an object" },
);
export type Heartbeat = z.infer<typeof heartbeat>;

/** What is stored of a device, as `device:<device_id>`. */
export interface DeviceRecord extends Heartbeat {
  /** `sent_at_ms` of the last online heartbeat; null when there was none. */
  last_heartbeat_ms: number | null;
  /** `sent_at_ms` of the offline heartbeat, or the server's time of the expiry; null while online. */
  last_offline_ms: number | null;
  /** Server time of the last change, in ms: what expiry counts from. */
  updated_at_ms: number;
}

/** What the debug route tells. Times are in ms since the epoch, null where there is none. */
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
