import type { Access, Heartbeat } from "./access.ts";
import type { Line } from "./line.ts";
import { randomUuid, Store } from "./store.ts";

/** A device as the stream showed it. */
export interface Device {
  heartbeat: Heartbeat;
  /** When its ttl began to run, by this page's clock, in ms since the epoch. */
  aliveMs: number;
  /** How long after the end of its ttl we heard of it, in ms; null: it said goodbye, or we were away. */
  endedLateMs: number | null;
}

/** A daemon that this page simulates. */
export interface Daemon {
  deviceId: string;
  label: string;
  ttlMs: number;
  isRunning: boolean;
}

/** Each beat comes well before the last one's ttl has run out. */
const BEATS_PER_TTL = 3;
const LABELS = ["Laptop", "Workstation", "Build server", "Phone", "Tablet", "Raspberry Pi"];
/** Wait before the stream is opened anew, in ms. */
const REOPEN_MS = 1_000;

/** A user's devices as their phone sees them, and the daemons that beat for them. */
export class Devices {
  readonly devices = new Store<ReadonlyMap<string, Device>>(new Map());
  readonly daemons = new Store<readonly Daemon[]>([]);
  /** What went wrong last. */
  readonly fault = new Store<string | null>(null);
  readonly #access: Access;
  readonly #userUuid: string;
  readonly #line: Line;
  readonly #beats = new Map<string, ReturnType<typeof setInterval>>();
  readonly #unwatch: () => void;
  /** What the current stream has sent. */
  readonly #live = new Map<string, Device>();
  #stream: EventSource | null = null;
  #reopening: ReturnType<typeof setTimeout> | undefined;
  #isClosed = false;

  constructor(access: Access, userUuid: string, line: Line) {
    this.#access = access;
    this.#userUuid = userUuid;
    this.#line = line;
    this.#unwatch = line.cutUntilMs.watch(() => {
      if (line.cutUntilMs.value === null) void this.#open();
      else this.#drop();
    });
    line.report("devices", "connecting");
    void this.#open();
  }

  /** A new daemon, beating at once. */
  start(ttlMs: number): void {
    const started = this.daemons.value.length;
    const label = LABELS[started % LABELS.length] ?? "Daemon";
    const round = Math.floor(started / LABELS.length);
    const daemon = {
      deviceId: randomUuid(),
      label: round === 0 ? label : `${label} ${round + 1}`,
      ttlMs,
      isRunning: false,
    };
    this.daemons.value = [...this.daemons.value, daemon];
    this.resume(daemon.deviceId);
  }

  /** It beats again. */
  resume(deviceId: string): void {
    const daemon = this.#set(deviceId, true);
    if (!daemon || this.#beats.has(deviceId)) return;
    const beat = () => void this.#beat(daemon, "online");
    this.#beats.set(deviceId, setInterval(beat, daemon.ttlMs / BEATS_PER_TTL));
    beat();
  }

  /** It falls silent without a word: the server has to find out. */
  unplug(deviceId: string): void {
    clearInterval(this.#beats.get(deviceId));
    this.#beats.delete(deviceId);
    this.#set(deviceId, false);
  }

  /** It says goodbye. */
  shutDown(deviceId: string): void {
    this.unplug(deviceId);
    const daemon = this.daemons.value.find((known) => known.deviceId === deviceId);
    if (daemon) void this.#beat(daemon, "offline");
  }

  close(): void {
    this.#isClosed = true;
    this.#unwatch();
    this.#drop();
    for (const timer of this.#beats.values()) clearInterval(timer);
  }

  #set(deviceId: string, isRunning: boolean): Daemon | undefined {
    this.daemons.value = this.daemons.value.map((daemon) =>
      daemon.deviceId === deviceId ? { ...daemon, isRunning } : daemon,
    );
    return this.daemons.value.find((daemon) => daemon.deviceId === deviceId);
  }

  async #beat({ deviceId, label, ttlMs }: Daemon, status: Heartbeat["status"]): Promise<void> {
    const now = Date.now();
    try {
      await this.#access.beat({
        schema_version: 1,
        user_id: this.#userUuid,
        device_id: deviceId,
        status,
        source: label,
        sent_at_ms: now,
        // Grows over reloads of the page too.
        seq: now,
        ttl_ms: ttlMs,
      });
      this.fault.value = null;
    } catch (error) {
      this.fault.value = error instanceof Error ? error.message : String(error);
    }
  }

  async #open(): Promise<void> {
    let token: string;
    try {
      token = await this.#access.presenceToken();
    } catch (error) {
      this.fault.value = error instanceof Error ? error.message : String(error);
      this.#reopen();
      return;
    }
    if (this.#isClosed || this.#stream || this.#line.cutUntilMs.value !== null) return;
    const query = new URLSearchParams({ user_id: this.#userUuid, token });
    const stream = new EventSource(`/api/v1/mobile/presence/stream?${query}`);
    this.#stream = stream;
    this.#live.clear();
    stream.onopen = () => this.#line.report("devices", "connected");
    stream.onmessage = ({ data }) => this.#hear(JSON.parse(data) as Heartbeat);
    stream.onerror = () => {
      // EventSource would come back by itself, but with the token that may have expired.
      this.#drop();
      this.#reopen();
    };
  }

  #drop(): void {
    this.#stream?.close();
    this.#stream = null;
    if (!this.#isClosed) this.#line.report("devices", "reconnecting");
  }

  #reopen(): void {
    clearTimeout(this.#reopening);
    if (!this.#isClosed) this.#reopening = setTimeout(() => void this.#open(), REOPEN_MS);
  }

  #hear(heartbeat: Heartbeat): void {
    const now = Date.now();
    // A beat that comes with the snapshot was sent a while ago; clocks may differ.
    const ageMs = Math.min(Math.max(now - heartbeat.sent_at_ms, 0), heartbeat.ttl_ms);
    const before = this.#live.get(heartbeat.device_id);
    // An expiry bears the seq of the last beat, a goodbye one of its own.
    const hasExpired = heartbeat.status === "offline" && before?.heartbeat.seq === heartbeat.seq;
    const endedLateMs = hasExpired ? now - before.aliveMs - heartbeat.ttl_ms : null;
    const device = { heartbeat, aliveMs: now - ageMs, endedLateMs };
    this.#live.set(heartbeat.device_id, device);
    this.devices.value = new Map(this.devices.value).set(heartbeat.device_id, device);
  }
}
