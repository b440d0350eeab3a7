import type { ConnectionMeta, VeraniActor } from "../../src/actor/room.ts";
import type { Session } from "../../src/actor/session.ts";
import { CLOSE } from "../../src/wire/close.ts";
import {
  type Acceptance,
  AHEAD_MAX_MS,
  type DeviceInspection,
  type DeviceRecord,
  deviceRecord,
  type Heartbeat,
  keepAlives,
  unsavedMark,
} from "./contract.ts";
import type { DeviceEvents } from "./device.ts";

/** A connection to the devices of a user: a watcher's, or a daemon's, which has a `deviceId`. */
export interface DeviceMeta extends ConnectionMeta {
  deviceId?: string;
  /** A heartbeat came over it: its pings keep the device online. */
  vouches?: boolean;
  /** A watcher that sends `device.probe`. For other watchers an alarm finds silent devices. */
  canProbe?: boolean;
}

type DeviceActor = VeraniActor<DeviceMeta, unknown, DeviceEvents>;
type DeviceSession = Session<DeviceMeta>;

/** The channel of all watchers. */
export const CHANNEL = "default";
const RECORD_PREFIX = "device:";
/** Key of {@link keepAlives}. */
const KEEP_ALIVES_KEY = "alive";
/** Key of {@link unsavedMark}. */
const UNSAVED_KEY = "held";
/** Devices of a user. */
const DEVICES = 100;
/** A heartbeat still counts as expected when it is so late, in ms. */
const LATE_MS = 500;
/** A socket that keeps no device online is closed after this silence, in ms, or its device's ttl if longer. */
const SILENT_MS = 60_000;
/**
 * With a flush time below this, in ms, the alarm is no substitute for storing keep-alives. A deployment with
 * a short flush time wants the last `seq` and `sent_at_ms` to survive a crash.
 */
const PROOF_MS = 10_000;
/** A watcher probes so long after a deadline, in ms: then the device has expired for certain. */
const PROBE_MARGIN_MS = 200;

/** Identifies this isolate. Unsaved keep-alives are in the memory of one isolate only. */
let isolate: string | undefined;
function thisIsolate(): string {
  isolate ??= crypto.randomUUID();
  return isolate;
}

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
  /**
   * Server time of its last heartbeat over HTTP, or of the end of its last socket, in ms. Expiry counts
   * from here, or from the last ping of its sockets if that is later.
   */
  aliveMs: number;
  /** `updated_at_ms` as storage has it. */
  storedMs: number;
  /** Time between its last two heartbeats, in ms; Infinity while there is none. */
  gapMs: number;
  /** Keep-alives may have been lost: `aliveMs` is the latest possible time. */
  isGuessed: boolean;
  /**
   * This isolate has not stored it yet. Its next heartbeat is stored: after a rollback the previous release
   * reads the record and not the alarm.
   */
  isNew: boolean;
}

/**
 * Whether a heartbeat is no newer than the last. A record with a time far ahead was stored by a release
 * that took such times: it counts for nothing.
 */
function isStale(beat: Heartbeat, last: DeviceRecord): boolean {
  if (last.sent_at_ms > last.updated_at_ms + AHEAD_MAX_MS) return false;
  return beat.seq <= last.seq && beat.sent_at_ms <= last.sent_at_ms;
}

/** Whether a record changes nothing but times. */
function isKeepAlive(known: DeviceRecord, record: DeviceRecord): boolean {
  return (
    known.status === "online" &&
    record.status === "online" &&
    record.ttl_ms === known.ttl_ms &&
    record.source === known.source &&
    record.via === known.via
  );
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

function withoutVia(record: DeviceRecord): DeviceRecord {
  const { via: _, ...fields } = record;
  return fields;
}

/**
 * The devices of one user. Memory is up to date. For a keep-alive over HTTP often only the alarm is written.
 * The alarm is never later than the deadline of a device, so its time proves when each device was alive.
 */
export class Devices {
  readonly #actor: DeviceActor;
  readonly #flushMs: number;
  /**
   * Keep-alives of so long may be lost, in ms. With 30 s, heartbeats that come every 10 s and a little late
   * would just miss the limit, so it is a little longer than the flush time.
   */
  readonly #lossMs: number;
  /** Whether the alarm may replace a stored keep-alive. */
  readonly #isProven: boolean;
  readonly #forgetMs: number;
  readonly #devices = new Map<string, Device>();
  readonly #unsavedByActor: UnsavedRecords;
  /** This actor's part of {@link UnsavedRecords}. */
  #unsaved: Map<string, DeviceRecord> | undefined;
  readonly #loadedMs = Date.now();
  /** The time of the next probe that was sent to watchers, in ms. */
  #probeAtMs = Number.POSITIVE_INFINITY;
  #puts = 0;
  #lists = 0;

  constructor(actor: DeviceActor, { flushMs, forgetMs }: DeviceTimes, unsaved: UnsavedRecords) {
    this.#actor = actor;
    this.#flushMs = flushMs;
    this.#isProven = flushMs >= PROOF_MS;
    this.#lossMs = this.#isProven ? flushMs + flushMs / 30 : flushMs;
    this.#forgetMs = forgetMs;
    this.#unsavedByActor = unsaved;
    this.#load();
  }

  // ── Storage ─────────────────────────────────────────────────────────────────────────────────

  #load(): void {
    const now = this.#loadedMs;
    const mark = this.#mark();
    // If another isolate ran this actor in between, the unsaved keep-alives of this one are outdated.
    const isOurs = mark?.isolate === thisIsolate();
    const memory = this.#unsavedByActor.get(this.#actor.name);
    this.#unsaved = isOurs ? memory : undefined;
    const mayHaveLost = mark !== undefined && this.#unsaved === undefined;
    for (const stored of this.#stored()) {
      const storedMs = stored.updated_at_ms;
      const unsaved = this.#unsaved?.get(stored.device_id);
      const isNewer = unsaved !== undefined && unsaved.updated_at_ms >= storedMs;
      if (unsaved && !isNewer) this.#unsaved?.delete(stored.device_id);
      const record = isNewer ? unsaved : stored;
      const device = {
        ...{ record, aliveMs: record.updated_at_ms, storedMs },
        ...{ gapMs: Number.POSITIVE_INFINITY, isGuessed: mayHaveLost },
        isNew: memory === undefined,
      };
      this.#devices.set(record.device_id, device);
      // The runtime does not list an alarm that is ringing. Its time was now at the latest.
      if (mayHaveLost) this.#guess(device, this.#actor.timers.alarmAt ?? now);
    }
    this.#forget(now);
    // The framework sets the alarm: at a start it asks for the next expiry.
    if (!this.#isAnyOnline()) this.#closeUnsaved();
  }

  /** The records in storage. Other rows, and records that this release cannot read, stay there. */
  #stored(): DeviceRecord[] {
    this.#lists += 1;
    const { kv } = this.#actor.getStorage();
    const beats = keepAlives.read(kv.get(KEEP_ALIVES_KEY))?.beats ?? {};
    const records: DeviceRecord[] = [];
    for (const [key, row] of kv.list({ prefix: RECORD_PREFIX })) {
      const record = deviceRecord.read(row);
      if (!record || key !== RECORD_PREFIX + record.device_id) continue;
      const [updated_at_ms = 0, sent_at_ms = 0, seq = 0] = beats[record.device_id] ?? [];
      const isBeaten =
        record.status === "online" &&
        updated_at_ms >= record.updated_at_ms &&
        (seq > record.seq || sent_at_ms > record.sent_at_ms);
      const later = { updated_at_ms, sent_at_ms, seq, last_heartbeat_ms: sent_at_ms };
      records.push(isBeaten ? { ...record, ...later } : record);
    }
    return records;
  }

  #mark() {
    return unsavedMark.read(this.#actor.getStorage().kv.get(UNSAVED_KEY));
  }

  /** The latest time at which storage and an alarm at `alarmMs` prove that a device was alive, in ms. */
  #provenMs({ record, storedMs }: Device, alarmMs: number | null): number {
    const isAlarmed = record.status === "online" && record.via === undefined && alarmMs !== null;
    return isAlarmed && this.#isProven ? Math.max(storedMs, alarmMs - record.ttl_ms) : storedMs;
  }

  /** Keep-alives of the device may be lost: sets the latest time at which it may have been alive. */
  #guess(device: Device, alarmMs: number): void {
    const { record } = device;
    if (record.status !== "online") return;
    const provenMs = this.#provenMs(device, alarmMs);
    device.aliveMs = Math.max(provenMs, Math.min(provenMs + this.#lossMs, this.#loadedMs));
    // The next instance finds it here.
    this.#openUnsaved().set(record.device_id, { ...record, updated_at_ms: device.aliveMs });
  }

  /** The unsaved keep-alives. From the first one on, a mark in storage says that some may be unsaved. */
  #openUnsaved(): Map<string, DeviceRecord> {
    if (!this.#unsaved) {
      this.#unsaved = new Map();
      this.#unsavedByActor.set(this.#actor.name, this.#unsaved);
      const mark = unsavedMark.write({ ...this.#mark(), held: true, isolate: thisIsolate() });
      this.#actor.getStorage().kv.put(UNSAVED_KEY, mark);
    }
    return this.#unsaved;
  }

  /** All devices are offline: no keep-alive is unsaved any more. */
  #closeUnsaved(): void {
    this.#unsavedByActor.delete(this.#actor.name);
    if (!this.#unsaved) return;
    this.#unsaved = undefined;
    this.#actor.getStorage().kv.delete(UNSAVED_KEY);
  }

  /** Stores a change. @param aliveMs when the device was heard over HTTP */
  #store(record: DeviceRecord, aliveMs = record.updated_at_ms): void {
    const { device_id, updated_at_ms } = record;
    this.#actor.getStorage().kv.put(RECORD_PREFIX + device_id, deviceRecord.write(record));
    this.#puts += 1;
    this.#devices.set(device_id, {
      ...{ record, aliveMs, storedMs: updated_at_ms },
      ...{ gapMs: this.#devices.get(device_id)?.gapMs ?? Number.POSITIVE_INFINITY },
      ...{ isGuessed: false, isNew: false },
    });
    const { name } = this.#actor;
    if (!this.#unsavedByActor.has(name)) this.#unsavedByActor.set(name, new Map());
    this.#unsaved?.delete(device_id);
  }

  /** Stores the keep-alives of all devices. */
  #flush(): void {
    const beats: Record<string, [number, number, number]> = {};
    for (const [id, device] of this.#devices) {
      const { status, updated_at_ms, sent_at_ms, seq } = device.record;
      if (status !== "online") continue;
      beats[id] = [updated_at_ms, sent_at_ms, seq];
      device.storedMs = updated_at_ms;
    }
    this.#actor.getStorage().kv.put(KEEP_ALIVES_KEY, keepAlives.write({ beats }));
    this.#puts += 1;
    this.#unsaved?.clear();
  }

  #delete(deviceId: string): void {
    this.#actor.getStorage().kv.delete(RECORD_PREFIX + deviceId);
    this.#devices.delete(deviceId);
  }

  #forget(now: number): void {
    for (const [id, { record }] of [...this.#devices]) {
      if (record.status !== "offline" || now - record.updated_at_ms < this.#forgetMs) continue;
      this.#delete(id);
    }
  }

  /** Deletes all that is known of the user's devices. */
  deleteAll(): void {
    const storage = this.#actor.getStorage();
    storage.transactionSync(() => {
      for (const [key] of storage.kv.list({ prefix: RECORD_PREFIX })) storage.kv.delete(key);
      storage.kv.delete(KEEP_ALIVES_KEY);
    });
    this.#devices.clear();
    this.#closeUnsaved();
    this.#actor.timers.release();
    this.#actor.emit.to(CHANNEL).emit("device.sync", { devices: [] });
  }

  // ── Heartbeats ──────────────────────────────────────────────────────────────────────────────

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

  /**
   * Takes a heartbeat that has been checked.
   *
   * @param isBySocket it came over a socket, whose pings keep the device online from now on
   */
  accept(beat: Heartbeat, isBySocket = false): Acceptance {
    const now = Date.now();
    const known = this.#devices.get(beat.device_id);
    if (known && isStale(beat, known.record)) return false;
    if (!known && !this.#makeRoom()) return null;
    const isOnline = beat.status === "online";
    const isVouched = isOnline && (isBySocket || this.#seenAtMs(known?.record) !== undefined);
    const record: DeviceRecord = {
      // Fields of a later release stay.
      ...(known && withoutVia(known.record)),
      ...beat,
      last_heartbeat_ms: isOnline ? beat.sent_at_ms : (known?.record.last_heartbeat_ms ?? null),
      last_offline_ms: isOnline ? null : beat.sent_at_ms,
      updated_at_ms: now,
      ...(isVouched && { via: "socket" }),
    };
    if (known && !known.isNew && isKeepAlive(known.record, record))
      this.#keepAlive(known, record, isBySocket);
    else {
      this.#store(record, isVouched && isBySocket ? (known?.aliveMs ?? 0) : now);
      if (isOnline && !isBySocket) this.#actor.timers.wakeAt(now + record.ttl_ms);
      else this.#settle();
    }
    this.#actor.emit.to(CHANNEL).emit("device.update", payloadOf(record));
    if (isVouched) this.#scheduleProbe();
    return true;
  }

  #keepAlive(device: Device, record: DeviceRecord, isBySocket: boolean): void {
    const now = record.updated_at_ms;
    device.record = record;
    this.#openUnsaved().set(record.device_id, record);
    if (!isBySocket) {
      device.gapMs = now - device.aliveMs;
      device.aliveMs = now;
      device.isGuessed = false;
    }
    const { timers } = this.#actor;
    const isDue = () => now - this.#provenMs(device, timers.alarmAt) >= this.#lossMs;
    if (this.#ringsForNothing(now) || (isDue() && this.#ringsWithin(now, this.#flushMs))) {
      timers.release(1);
    }
    if (isDue()) this.#flush();
  }

  /**
   * Whether the alarm would ring before the next heartbeat that is expected of any device. If so, it must
   * be moved now.
   */
  #ringsForNothing(now: number): boolean {
    let nextBeatMs = Number.POSITIVE_INFINITY;
    for (const { record, aliveMs, gapMs } of this.#devices.values()) {
      const lateMs = aliveMs + gapMs + LATE_MS;
      if (record.status === "online" && lateMs >= now) nextBeatMs = Math.min(nextBeatMs, lateMs);
    }
    return this.#ringsWithin(now, nextBeatMs - now);
  }

  #ringsWithin(now: number, ms: number): boolean {
    const { alarmAt } = this.#actor.timers;
    return alarmAt !== null && alarmAt - now <= ms;
  }

  /** A connection of a daemon has ended, with the close code `code`. */
  left({ deviceId = "", vouches }: DeviceMeta, code: number): void {
    const device = this.#devices.get(deviceId);
    if (!vouches || device?.record.via === undefined) return;
    // Another connection of the device vouches for it.
    if (this.#seenAtMs(device.record) !== undefined) return;
    if (code === CLOSE.leave) this.#turnOffline(device, Date.now());
    else this.#lose(device);
    this.#settle();
  }

  /** The socket of a device is gone: the device turns offline after its `ttl_ms` unless it comes back. */
  #lose({ record }: Device): void {
    const now = Date.now();
    this.#store({ ...withoutVia(record), updated_at_ms: now });
    this.#actor.timers.wakeAt(now + record.ttl_ms);
  }

  /** Runs when an instance starts: finds devices that lost their sockets in a crash. */
  restore(): void {
    this.#closeSilent();
    for (const device of [...this.#devices.values()]) {
      const { via } = device.record;
      if (via !== undefined && this.#seenAtMs(device.record) === undefined) this.#lose(device);
    }
  }

  #turnOffline({ record }: Device, now: number): void {
    const expired: DeviceRecord = {
      ...withoutVia(record),
      status: "offline",
      last_offline_ms: now,
      updated_at_ms: now,
    };
    this.#store(expired);
    this.#actor.emit.to(CHANNEL).emit("device.update", payloadOf(expired));
  }

  /** Turns devices offline whose deadline has passed. Runs at the alarm, a probe and each read. */
  expire(): void {
    const now = Date.now();
    const { rangAt } = this.#actor.timers;
    let isChanged = false;
    for (const device of [...this.#devices.values()]) {
      const { record } = device;
      if (record.status !== "online") continue;
      // The alarm that started this instance now gives the exact time.
      if (device.isGuessed && rangAt !== undefined) this.#guess(device, rangAt);
      if (now < this.#deadlineOf(device)) continue;
      const silent = this.#socketsOf(record);
      this.#turnOffline(device, now);
      isChanged = true;
      for (const session of silent) session.close(CLOSE.dead, "No ping", "dead");
    }
    this.#closeSilent();
    if (isChanged) this.#settle();
  }

  /** Closes the dead sockets of daemons that keep no device online. */
  #closeSilent(): void {
    const now = Date.now();
    for (const session of [...this.#actor.sessions.values()]) {
      const { deviceId } = session.meta;
      if (deviceId === undefined) continue;
      const { status, ttl_ms } = this.#devices.get(deviceId)?.record ?? { ttl_ms: 0 };
      const isNeeded = status === "online" && session.meta.vouches;
      const deadMs = session.seenAtMs + Math.max(ttl_ms, SILENT_MS);
      if (!isNeeded && now >= deadMs) session.close(CLOSE.dead, "No ping", "dead");
    }
  }

  /** The alarm has come. */
  ring(): void {
    this.expire();
    this.#forget(Date.now());
    this.#settle();
  }

  /** Sets the alarm no later than the earliest expiry; deletes it when all devices are offline. */
  #settle(): void {
    const next = this.#nextExpiryMs((device) => this.#isAlarmed(device));
    if (next !== null) this.#actor.timers.wakeAt(next);
    else this.#actor.timers.release();
    if (!this.#isAnyOnline()) this.#closeUnsaved();
  }

  // ── Sockets ─────────────────────────────────────────────────────────────────────────────────

  /** The sockets that vouch for a device. */
  #socketsOf(record: DeviceRecord | undefined): DeviceSession[] {
    if (record?.via === undefined) return [];
    const sockets: DeviceSession[] = [];
    for (const session of this.#actor.sessions.values()) {
      const { deviceId, vouches } = session.meta;
      if (deviceId === record.device_id && vouches) sockets.push(session);
    }
    return sockets;
  }

  /** The last sign of life of the sockets that vouch for a device, in ms; undefined without any. */
  #seenAtMs(record: DeviceRecord | undefined): number | undefined {
    const sockets = this.#socketsOf(record);
    return sockets.length > 0 ? Math.max(...sockets.map((one) => one.seenAtMs)) : undefined;
  }

  /** When it turns offline if nothing comes, in ms. */
  #deadlineOf({ record, aliveMs }: Device): number {
    return Math.max(aliveMs, this.#seenAtMs(record) ?? 0) + record.ttl_ms;
  }

  /** Whether a device needs an alarm at its deadline. One with an open socket mostly does not. */
  #isAlarmed({ record, aliveMs }: Device): boolean {
    if (record.via === undefined) return true;
    const seenAtMs = this.#seenAtMs(record);
    // Its socket has closed while the actor slept: `restore` follows.
    if (seenAtMs === undefined) return false;
    return aliveMs > seenAtMs || this.#hasWatcherWithoutProbes();
  }

  /** Whether some watchers do not probe. */
  #hasWatcherWithoutProbes(): boolean {
    for (const { meta } of this.#actor.sessions.values()) {
      if (meta.deviceId === undefined && !meta.canProbe) return true;
    }
    return false;
  }

  /** A watcher has connected. @returns when it must probe, in ms from now; undefined for never */
  watch({ canProbe }: DeviceMeta): number | undefined {
    this.expire();
    if (canProbe) return this.#nextProbeMs();
    this.#settle();
    return undefined;
  }

  /** A watcher probes. */
  probe(): void {
    this.expire();
    this.#probeAtMs = Number.POSITIVE_INFINITY;
    this.#scheduleProbe();
  }

  /** The time until the next deadline of a device with a socket, in ms. */
  #nextProbeMs(): number | undefined {
    const next = this.#nextExpiryMs(({ record }) => record.via !== undefined);
    // Nothing is due: a watcher that has connected since the last probe was sent knows of none.
    this.#probeAtMs = next ?? Number.POSITIVE_INFINITY;
    if (next === null) return undefined;
    return Math.max(0, next - Date.now()) + PROBE_MARGIN_MS;
  }

  /** Sends watchers the time of the next probe, if it is earlier than the last one that was sent. */
  #scheduleProbe(): void {
    const sentMs = this.#probeAtMs > Date.now() ? this.#probeAtMs : Number.POSITIVE_INFINITY;
    const in_ms = this.#nextProbeMs();
    if (in_ms === undefined || this.#probeAtMs >= sentMs) return;
    const canProbe = ({ meta }: DeviceSession) => meta.canProbe === true;
    this.#actor.emit.where(canProbe).emit("device.probe", { in_ms });
  }

  // ── What is known ───────────────────────────────────────────────────────────────────────────

  #isAnyOnline(): boolean {
    for (const { record } of this.#devices.values()) if (record.status === "online") return true;
    return false;
  }

  #nextExpiryMs(isMeant: (device: Device) => boolean = () => true): number | null {
    let next = Number.POSITIVE_INFINITY;
    for (const device of this.#devices.values()) {
      if (device.record.status !== "online" || !isMeant(device)) continue;
      next = Math.min(next, this.#deadlineOf(device));
    }
    return Number.isFinite(next) ? next : null;
  }

  /** The time of the next alarm, at which a device turns offline or is forgotten, in ms. */
  nextDeadlineMs(): number | undefined {
    const isAlarmed = (device: Device) => this.#isAlarmed(device);
    let next = this.#nextExpiryMs(isAlarmed) ?? Number.POSITIVE_INFINITY;
    for (const { record } of this.#devices.values()) {
      if (record.status === "offline") next = Math.min(next, record.updated_at_ms + this.#forgetMs);
    }
    return Number.isFinite(next) ? next : undefined;
  }

  /** All devices, as they are now. */
  payloads(): Heartbeat[] {
    this.expire();
    return [...this.#devices.values()].map(({ record }) => payloadOf(record));
  }

  inspect(): DeviceInspection {
    const { timers, sessions } = this.#actor;
    const records = Object.fromEntries(
      this.#stored().map((record) => [RECORD_PREFIX + record.device_id, withoutVersion(record)]),
    );
    const flushes = [...(this.#unsaved?.keys() ?? [])].flatMap((id) => {
      const device = this.#devices.get(id);
      return device ? [this.#provenMs(device, timers.alarmAt) + this.#flushMs] : [];
    });
    const isWatcher = ({ meta }: DeviceSession) => meta.deviceId === undefined;
    return {
      active_streams: [...sessions.values()].filter(isWatcher).length,
      alarm: timers.alarmAt === null ? null : new Date(timers.alarmAt).toISOString(),
      records,
      dirty_devices: flushes.length,
      next_flush_ms: flushes.length === 0 ? null : Math.min(...flushes),
      next_expiry_ms: this.#nextExpiryMs(),
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
