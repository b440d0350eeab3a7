import type { ConnectionMeta, VeraniActor } from "../../src/actor/room.ts";
import {
  type Acceptance,
  AHEAD_MAX_MS,
  type DeviceInspection,
  type DeviceRecord,
  deviceRecord,
  type Heartbeat,
  unsavedMark,
} from "./contract.ts";
import type { DeviceEvents } from "./device.ts";

type DeviceActor = VeraniActor<ConnectionMeta, unknown, DeviceEvents>;

/** The channel of all watchers. */
export const CHANNEL = "default";
const RECORD_PREFIX = "device:";
/** Key of {@link unsavedMark}. */
const UNSAVED_KEY = "held";
/** Devices of a user. */
const DEVICES = 100;
/** An actor sleeps after 10 s without an event. Events that are closer reached the same instance. */
const AWAKE_MS = 9_000;
/** Least time between two searches for other devices' keep-alives that must be stored, in ms. */
const FLUSH_CHECK_MS = 1_000;

/**
 * Keep-alives that are not stored yet, by actor and device. They belong to the isolate. It mostly
 * outlives a sleeping actor, whose next instance finds them here. If it does not, or after a crash,
 * each device gets extra time: as much as may have been lost.
 */
export type UnsavedRecords = Map<string, Map<string, DeviceRecord>>;

export interface DeviceTimes {
  /** A keep-alive may stay unsaved for so long, in ms. */
  flushMs: number;
  /** A device is forgotten so long after it went offline, in ms. */
  forgetMs: number;
}

interface Device {
  record: DeviceRecord;
  /** Server time of its last heartbeat, at the latest. Expiry counts from here. */
  aliveMs: number;
  /** `updated_at_ms` of the stored record. */
  storedMs: number;
}

/**
 * Whether a heartbeat is no newer than the last. A record with a time far ahead was stored by a release
 * that took such times: it counts for nothing.
 */
function isStale(beat: Heartbeat, last: DeviceRecord): boolean {
  if (last.sent_at_ms > last.updated_at_ms + AHEAD_MAX_MS) return false;
  return beat.seq <= last.seq && beat.sent_at_ms <= last.sent_at_ms;
}

/** The heartbeat as watchers see it. An expiry has the server's time, not the daemon's. */
function payloadOf(record: DeviceRecord): Heartbeat {
  const { schema_version, user_id, device_id, status, source, seq, ttl_ms } = record;
  const sent_at_ms = record.last_offline_ms ?? record.sent_at_ms;
  return { schema_version, user_id, device_id, status, source, sent_at_ms, seq, ttl_ms };
}

/** The record without its version, which is no part of the contract. */
function withoutVersion(record: DeviceRecord): DeviceRecord {
  const { v: _, ...fields } = record as DeviceRecord & { v?: unknown };
  return fields;
}

/** The devices of one user. Memory is up to date; storage is at most the flush time behind. */
export class Devices {
  readonly #actor: DeviceActor;
  readonly #flushMs: number;
  readonly #forgetMs: number;
  readonly #devices = new Map<string, Device>();
  readonly #unsavedByActor: UnsavedRecords;
  /** This actor's part of {@link UnsavedRecords}. */
  #unsaved: Map<string, DeviceRecord> | undefined;
  /** The last heartbeat of any device, and the first since which the actor cannot have slept. */
  #lastBeatMs: number;
  #awakeSinceMs: number;
  #flushedMs = 0;
  #puts = 0;
  #lists = 0;

  constructor(actor: DeviceActor, { flushMs, forgetMs }: DeviceTimes, unsaved: UnsavedRecords) {
    this.#actor = actor;
    this.#flushMs = flushMs;
    this.#forgetMs = forgetMs;
    this.#unsavedByActor = unsaved;
    this.#lastBeatMs = Date.now();
    this.#awakeSinceMs = this.#lastBeatMs;
    this.#load();
  }

  #load(): void {
    const now = Date.now();
    this.#unsaved = this.#unsavedByActor.get(this.#actor.name);
    const mayHaveLost = this.#unsaved === undefined && this.#isMarked();
    for (const stored of this.#stored()) {
      const storedMs = stored.updated_at_ms;
      const unsaved = this.#unsaved?.get(stored.device_id);
      // Another isolate may have run this actor in between. Then the unsaved record is outdated.
      const isNewer = unsaved !== undefined && unsaved.updated_at_ms > storedMs;
      if (unsaved && !isNewer) this.#unsaved?.delete(stored.device_id);
      const record = isNewer ? unsaved : stored;
      const lostMs = mayHaveLost ? Math.max(0, Math.min(this.#flushMs, now - storedMs)) : 0;
      const aliveMs = record.updated_at_ms + lostMs;
      this.#devices.set(record.device_id, { record, aliveMs, storedMs });
    }
    // The records of the others were deleted in another isolate.
    for (const id of this.#unsaved?.keys() ?? []) {
      if (!this.#devices.has(id)) this.#unsaved?.delete(id);
    }
    if (mayHaveLost) this.#openUnsaved();
    this.#forget(now);
    // The framework sets the alarm: at a start it asks for the next expiry.
    if (this.nextExpiryMs() === null) this.#closeUnsaved();
  }

  /** The records in storage. Other rows, and records that this release cannot read, stay there. */
  #stored(): DeviceRecord[] {
    this.#lists += 1;
    const records: DeviceRecord[] = [];
    for (const [key, row] of this.#actor.getStorage().kv.list({ prefix: RECORD_PREFIX })) {
      const record = deviceRecord.read(row);
      if (record && key === RECORD_PREFIX + record.device_id) records.push(record);
    }
    return records;
  }

  #isMarked(): boolean {
    return unsavedMark.read(this.#actor.getStorage().kv.get(UNSAVED_KEY)) !== undefined;
  }

  /**
   * Makes room for a new device: those that have been offline for longest are forgotten.
   *
   * @returns false when too many devices are online
   */
  #makeRoom(): boolean {
    const excess = this.#devices.size - DEVICES + 1;
    if (excess <= 0) return true;
    const offline = [...this.#devices.values()]
      .filter(({ record }) => record.status === "offline")
      .sort((a, b) => a.record.updated_at_ms - b.record.updated_at_ms);
    if (offline.length < excess) return false;
    for (const { record } of offline.slice(0, excess)) this.#delete(record.device_id);
    return true;
  }

  #delete(deviceId: string): void {
    this.#actor.getStorage().kv.delete(RECORD_PREFIX + deviceId);
    this.#devices.delete(deviceId);
  }

  /** Takes a heartbeat that the Worker has checked. */
  accept(beat: Heartbeat): Acceptance {
    const now = Date.now();
    const known = this.#devices.get(beat.device_id);
    if (known && isStale(beat, known.record)) return false;
    if (!known && !this.#makeRoom()) return null;
    if (now - this.#lastBeatMs >= AWAKE_MS) this.#awakeSinceMs = now;
    this.#lastBeatMs = now;
    const isOnline = beat.status === "online";
    const record: DeviceRecord = {
      // Fields of a later release stay.
      ...known?.record,
      ...beat,
      last_heartbeat_ms: isOnline ? beat.sent_at_ms : (known?.record.last_heartbeat_ms ?? null),
      last_offline_ms: isOnline ? null : beat.sent_at_ms,
      updated_at_ms: now,
    };
    if (known && this.#mayStayUnsaved(known, record)) {
      known.record = record;
      known.aliveMs = now;
      this.#openUnsaved().set(record.device_id, record);
    } else this.#store(record);
    if (now - this.#flushedMs >= FLUSH_CHECK_MS) this.#flush(now);
    if (isOnline) this.#actor.timers.wakeAt(now + record.ttl_ms);
    else this.#settle();
    this.#actor.emit.to(CHANNEL).emit("device.update", payloadOf(record));
    return true;
  }

  /**
   * Whether `record` is a mere keep-alive that can stay in this instance's memory for now. It can if
   * events since the device's last heartbeat were close enough to keep the actor awake.
   */
  #mayStayUnsaved({ record: known, storedMs }: Device, record: DeviceRecord): boolean {
    return (
      known.status === "online" &&
      record.status === "online" &&
      record.ttl_ms === known.ttl_ms &&
      record.source === known.source &&
      known.updated_at_ms >= this.#awakeSinceMs &&
      record.updated_at_ms - storedMs < this.#flushMs
    );
  }

  /** The place of unsaved keep-alives. From now on storage has a mark that there may be some. */
  #openUnsaved(): Map<string, DeviceRecord> {
    if (!this.#unsaved) {
      this.#unsaved = new Map();
      this.#unsavedByActor.set(this.#actor.name, this.#unsaved);
      if (!this.#isMarked()) {
        this.#actor.getStorage().kv.put(UNSAVED_KEY, unsavedMark.write({ held: true }));
      }
    }
    return this.#unsaved;
  }

  /** All devices are offline: no keep-alive is unsaved any more. */
  #closeUnsaved(): void {
    if (!this.#unsaved) return;
    this.#unsaved = undefined;
    this.#unsavedByActor.delete(this.#actor.name);
    this.#actor.getStorage().kv.delete(UNSAVED_KEY);
  }

  #store(record: DeviceRecord): void {
    const { device_id, updated_at_ms } = record;
    this.#actor.getStorage().kv.put(RECORD_PREFIX + device_id, deviceRecord.write(record));
    this.#puts += 1;
    this.#devices.set(device_id, { record, aliveMs: updated_at_ms, storedMs: updated_at_ms });
    this.#unsaved?.delete(device_id);
  }

  /** Stores old keep-alives of devices whose own next heartbeat would come too late to do it. */
  #flush(now: number): void {
    this.#flushedMs = now;
    for (const record of [...(this.#unsaved?.values() ?? [])]) {
      const storedMs = this.#devices.get(record.device_id)?.storedMs ?? 0;
      if (now - record.updated_at_ms >= AWAKE_MS && now - storedMs >= this.#flushMs) {
        this.#store(record);
      }
    }
  }

  /** The deadline has come: devices whose heartbeats stopped turn offline. */
  expire(): void {
    const now = Date.now();
    for (const { record, aliveMs } of [...this.#devices.values()]) {
      if (record.status !== "online" || now < aliveMs + record.ttl_ms) continue;
      const expired: DeviceRecord = {
        ...record,
        status: "offline",
        last_offline_ms: now,
        updated_at_ms: now,
      };
      this.#store(expired);
      this.#actor.emit.to(CHANNEL).emit("device.update", payloadOf(expired));
    }
    this.#flush(now);
    this.#forget(now);
    this.#settle();
  }

  #forget(now: number): void {
    for (const [id, { record }] of [...this.#devices]) {
      if (record.status !== "offline" || now - record.updated_at_ms < this.#forgetMs) continue;
      this.#delete(id);
    }
  }

  /** Sets the alarm no later than the earliest expiry; deletes it when all devices are offline. */
  #settle(): void {
    const next = this.nextExpiryMs();
    if (next !== null) {
      this.#actor.timers.wakeAt(next);
      return;
    }
    this.#actor.timers.release();
    this.#closeUnsaved();
  }

  /** Deletes all that is known of the user's devices. */
  deleteAll(): void {
    const storage = this.#actor.getStorage();
    storage.transactionSync(() => {
      for (const [key] of storage.kv.list({ prefix: RECORD_PREFIX })) storage.kv.delete(key);
    });
    this.#devices.clear();
    this.#closeUnsaved();
    this.#actor.timers.release();
    this.#actor.emit.to(CHANNEL).emit("device.sync", { devices: [] });
  }

  /** When the next device turns offline, or is forgotten, in ms. It follows from the records. */
  nextDeadlineMs(): number | undefined {
    let next = this.nextExpiryMs() ?? Number.POSITIVE_INFINITY;
    for (const { record } of this.#devices.values()) {
      if (record.status === "offline") next = Math.min(next, record.updated_at_ms + this.#forgetMs);
    }
    return Number.isFinite(next) ? next : undefined;
  }

  /** When the next device may turn offline, in ms. It follows from the records and is not stored. */
  nextExpiryMs(): number | null {
    let next = Number.POSITIVE_INFINITY;
    for (const { record, aliveMs } of this.#devices.values()) {
      if (record.status === "online") next = Math.min(next, aliveMs + record.ttl_ms);
    }
    return Number.isFinite(next) ? next : null;
  }

  payloads(): Heartbeat[] {
    return [...this.#devices.values()].map(({ record }) => payloadOf(record));
  }

  inspect(): DeviceInspection {
    const { timers, sessions } = this.#actor;
    const records = Object.fromEntries(
      this.#stored().map((record) => [RECORD_PREFIX + record.device_id, withoutVersion(record)]),
    );
    const flushes = [...(this.#unsaved?.keys() ?? [])].map(
      (id) => (this.#devices.get(id)?.storedMs ?? 0) + this.#flushMs,
    );
    return {
      active_streams: sessions.size,
      alarm: timers.alarmAt === null ? null : new Date(timers.alarmAt).toISOString(),
      records,
      dirty_devices: flushes.length,
      next_flush_ms: flushes.length === 0 ? null : Math.min(...flushes),
      next_expiry_ms: this.nextExpiryMs(),
      next_alarm_ms: timers.alarmAt,
      stats: {
        storage_puts_total: this.#puts,
        set_alarm_total: timers.stats.alarmsSet,
        delete_alarm_total: timers.stats.alarmsDeleted,
        list_records_total: this.#lists,
      },
    };
  }
}
