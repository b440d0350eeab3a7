import * as z from "zod/mini";
import {
  type ConnectionMeta,
  defineRoom,
  perActor,
  type VeraniActor,
} from "../../src/actor/room.ts";
import { admitWatcher } from "./access.ts";
import type { DeviceInspection, DeviceRecord, Heartbeat } from "./contract.ts";
import type { DeviceEvents } from "./events.ts";

type DeviceActor = VeraniActor<ConnectionMeta, Env, DeviceEvents>;

const CHANNEL = "default";
const RECORD_PREFIX = "device:";
/** Stored while keep-alives of this actor may be in memory only. */
const HELD_KEY = "held";
/** An actor sleeps after 10 s of silence: what follows within this time was heard by the same one. */
const AWAKE_MS = 9_000;
const FLUSH_MS = 30_000;
/** Heartbeats look this often, in ms, whether others' keep-alives are to be stored. */
const FLUSH_LOOK_MS = 1_000;
const FORGET_MS = 30 * 24 * 3_600_000;
/** The Worker holds the streams' sockets, and the runtime tells when one goes: no need to look often. */
const SWEEP_MS = 10 * 60_000;

/**
 * Keep-alives that are not stored yet, by actor and device. They belong to the isolate, which
 * mostly outlives an actor that sleeps: its next instance finds them here. Where it does not, or
 * after a crash, devices get the time that may have been lost on top.
 */
const heldByActor = new Map<string, Map<string, DeviceRecord>>();

interface Device {
  record: DeviceRecord;
  /** Server time up to which it may have been heard; expiry counts from here. */
  aliveMs: number;
  /** `updated_at_ms` of what is stored. */
  storedMs: number;
}

/** The heartbeat as watchers see it. An expiry is told with the server's time, not the daemon's. */
function payloadOf(record: DeviceRecord): Heartbeat {
  const { schema_version, user_id, device_id, status, source, seq, ttl_ms } = record;
  const sent_at_ms = record.last_offline_ms ?? record.sent_at_ms;
  return { schema_version, user_id, device_id, status, source, sent_at_ms, seq, ttl_ms };
}

/** The devices of one user: in memory as they are, in storage at most the flush time behind. */
class Devices {
  readonly #actor: DeviceActor;
  readonly #flushMs: number;
  readonly #devices = new Map<string, Device>();
  /** This actor's part of {@link heldByActor}. */
  #held: Map<string, DeviceRecord> | undefined;
  /** The last heartbeat of any device, and the first since which the actor cannot have slept. */
  #heardMs: number;
  #awakeSinceMs: number;
  #flushedMs = 0;
  #puts = 0;
  #lists = 0;

  constructor(actor: DeviceActor) {
    this.#actor = actor;
    const configured = Number(actor.env.PRESENCE_DO_KEEPALIVE_FLUSH_MS || Number.NaN);
    this.#flushMs = configured >= 0 ? configured : FLUSH_MS;
    this.#heardMs = Date.now();
    this.#awakeSinceMs = this.#heardMs;
    this.#load();
  }

  #load(): void {
    const now = Date.now();
    this.#held = heldByActor.get(this.#actor.name);
    const mayHaveLost =
      this.#held === undefined && this.#actor.getStorage().kv.get(HELD_KEY) === true;
    for (const stored of this.#stored()) {
      const storedMs = stored.updated_at_ms;
      const held = this.#held?.get(stored.device_id);
      // Another isolate may have run this actor since: then what we hold is older, or over.
      const isNewer = held !== undefined && held.updated_at_ms > storedMs;
      if (held && !isNewer) this.#held?.delete(stored.device_id);
      const record = isNewer ? held : stored;
      const unheardMs = mayHaveLost ? Math.max(0, Math.min(this.#flushMs, now - storedMs)) : 0;
      const aliveMs = record.updated_at_ms + unheardMs;
      this.#devices.set(record.device_id, { record, aliveMs, storedMs });
    }
    if (mayHaveLost) this.#hold();
    this.#forget(now);
    // The alarm is seen to by whoever starts the actor: it asks for the next expiry.
    if (this.nextExpiryMs() === null) this.#letGo();
  }

  #stored(): DeviceRecord[] {
    this.#lists += 1;
    const { kv } = this.#actor.getStorage();
    return [...kv.list<DeviceRecord>({ prefix: RECORD_PREFIX })].map(([, record]) => record);
  }

  /** Takes a heartbeat that has the right form; false when it is older than what is known. */
  accept(beat: Heartbeat): boolean {
    const now = Date.now();
    const known = this.#devices.get(beat.device_id);
    if (known && beat.seq <= known.record.seq && beat.sent_at_ms <= known.record.sent_at_ms) {
      return false;
    }
    if (now - this.#heardMs >= AWAKE_MS) this.#awakeSinceMs = now;
    this.#heardMs = now;
    const isOnline = beat.status === "online";
    const record: DeviceRecord = {
      ...beat,
      last_heartbeat_ms: isOnline ? beat.sent_at_ms : (known?.record.last_heartbeat_ms ?? null),
      last_offline_ms: isOnline ? null : beat.sent_at_ms,
      updated_at_ms: now,
    };
    if (known && this.#mayWait(known, record)) {
      known.record = record;
      known.aliveMs = now;
      this.#hold().set(record.device_id, record);
    } else this.#store(record);
    if (now - this.#flushedMs >= FLUSH_LOOK_MS) this.#flush(now);
    if (isOnline) this.#actor.timers.wakeAt(now + record.ttl_ms);
    else this.#settle();
    this.#actor.emit.to(CHANNEL).emit("device.update", payloadOf(record));
    return true;
  }

  /**
   * Whether `record` is a mere keep-alive that this very instance may keep to itself for now: between
   * it and the device's last one there was always another in time to keep the actor awake.
   */
  #mayWait({ record: known, storedMs }: Device, record: DeviceRecord): boolean {
    return (
      known.status === "online" &&
      record.status === "online" &&
      record.ttl_ms === known.ttl_ms &&
      record.source === known.source &&
      known.updated_at_ms >= this.#awakeSinceMs &&
      record.updated_at_ms - storedMs < this.#flushMs
    );
  }

  /** Where keep-alives are held, from now on also noted in storage. */
  #hold(): Map<string, DeviceRecord> {
    if (!this.#held) {
      this.#held = new Map();
      heldByActor.set(this.#actor.name, this.#held);
      const { kv } = this.#actor.getStorage();
      if (kv.get(HELD_KEY) !== true) kv.put(HELD_KEY, true);
    }
    return this.#held;
  }

  #store(record: DeviceRecord): void {
    this.#actor.getStorage().kv.put(RECORD_PREFIX + record.device_id, record);
    this.#puts += 1;
    const heardMs = record.updated_at_ms;
    this.#devices.set(record.device_id, { record, aliveMs: heardMs, storedMs: heardMs });
    this.#held?.delete(record.device_id);
  }

  /** Stores what has waited long enough, of devices that will hardly do it with their own next beat. */
  #flush(now: number): void {
    this.#flushedMs = now;
    for (const record of [...(this.#held?.values() ?? [])]) {
      const storedMs = this.#devices.get(record.device_id)?.storedMs ?? 0;
      if (now - record.updated_at_ms >= AWAKE_MS && now - storedMs >= this.#flushMs) {
        this.#store(record);
      }
    }
  }

  /** The deadline has come: whoever was not heard in time is offline. */
  expire(): void {
    const now = Date.now();
    for (const { record, aliveMs } of [...this.#devices.values()]) {
      if (record.status !== "online" || now < aliveMs + record.ttl_ms) continue;
      const gone: DeviceRecord = {
        ...record,
        status: "offline",
        last_offline_ms: now,
        updated_at_ms: now,
      };
      this.#store(gone);
      this.#actor.emit.to(CHANNEL).emit("device.update", payloadOf(gone));
    }
    this.#flush(now);
    this.#forget(now);
    this.#settle();
  }

  #forget(now: number): void {
    for (const [id, { record }] of [...this.#devices]) {
      if (record.status !== "offline" || now - record.updated_at_ms <= FORGET_MS) continue;
      this.#actor.getStorage().kv.delete(RECORD_PREFIX + id);
      this.#devices.delete(id);
    }
  }

  /** The alarm stands no later than the earliest expiry, or nowhere when all are offline. */
  #settle(): void {
    const next = this.nextExpiryMs();
    if (next !== null) {
      this.#actor.timers.wakeAt(next);
      return;
    }
    this.#actor.timers.release();
    this.#letGo();
  }

  /** No keep-alive is held any more: all devices are offline. */
  #letGo(): void {
    if (!this.#held) return;
    this.#held = undefined;
    heldByActor.delete(this.#actor.name);
    this.#actor.getStorage().kv.delete(HELD_KEY);
  }

  /** The earliest that a device may turn offline, in ms; it follows from the records, and is stored nowhere. */
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
      this.#stored().map((record) => [RECORD_PREFIX + record.device_id, record]),
    );
    const flushes = [...(this.#held?.keys() ?? [])].map(
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

const devicesOf = perActor((actor: DeviceActor) => new Devices(actor));

/** Which devices of a user are online. One actor per `user_id`. */
export const devices = defineRoom<ConnectionMeta, Env, DeviceEvents>({
  name: "device-room",
  websocketPath: "/ws/devices",
  liveness: { sweepMs: SWEEP_MS },

  async extractMeta(request, env) {
    const watcher = await admitWatcher(request, env);
    return { ...watcher, clientId: crypto.randomUUID(), channels: [CHANNEL] };
  },

  onConnect({ actor, emit }) {
    emit.emit("device.sync", { devices: devicesOf(actor).payloads() });
  },

  onHibernationRestore(actor) {
    devicesOf(actor);
  },

  dueAt(actor) {
    return devicesOf(actor).nextExpiryMs() ?? undefined;
  },

  onDue(actor) {
    devicesOf(actor).expire();
  },
});

/** Heartbeats in order, judged by the route; tells of each whether it was news. */
devices.ingest("beat", z.custom<Heartbeat[]>(), (actor, beats) => {
  const here = devicesOf(actor);
  return beats.map((beat) => here.accept(beat));
});

devices.ingest("list", z.undefined(), (actor) => ({ devices: devicesOf(actor).payloads() }));
devices.ingest("inspect", z.undefined(), (actor) => devicesOf(actor).inspect());
