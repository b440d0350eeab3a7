import { randomUUID } from "node:crypto";
import type { DeviceInspection, Heartbeat } from "../../rooms/devices/contract.ts";
import { getJson, post } from "./http.ts";
import { type Stage, signWatcher } from "./stage.ts";
import { Stream, type StreamEvents } from "./streams.ts";

/** A valid heartbeat; `fields` replace its values. */
export function beatOf(fields: Partial<Heartbeat> & Pick<Heartbeat, "user_id" | "seq">): Heartbeat {
  return {
    schema_version: 1,
    device_id: fields.user_id,
    status: "online",
    source: "kit",
    sent_at_ms: Date.now(),
    ttl_ms: 60_000,
    ...fields,
  };
}

/** Writes the heartbeats of one device, by a clock of its own. */
export class Daemon {
  readonly userId: string;
  readonly deviceId = randomUUID();
  source = "kit";
  seq = 0;
  ttlMs: number;
  /** The difference of its clock from ours, in ms. */
  skewMs = 0;

  constructor(userId: string, ttlMs: number) {
    this.userId = userId;
    this.ttlMs = ttlMs;
  }

  /** The next heartbeat: every one has the next number. */
  next(status: Heartbeat["status"] = "online"): Heartbeat {
    this.seq += 1;
    return beatOf({
      user_id: this.userId,
      device_id: this.deviceId,
      status,
      source: this.source,
      sent_at_ms: Math.max(0, Date.now() + this.skewMs),
      seq: this.seq,
      ttl_ms: this.ttlMs,
    });
  }
}

/** @returns the status of the answer; 0 where none came */
export async function postBeat(
  { url, ingestToken }: Stage,
  beat: Heartbeat,
  timeoutMs?: number,
): Promise<number> {
  const options = { token: ingestToken, ...(timeoutMs !== undefined && { timeoutMs }) };
  return (await post(`${url}/api/v1/daemon/presence/heartbeat`, beat, options)).status;
}

/** @returns the status of each heartbeat; 0 where no answer came */
export async function postBeats(
  { url, ingestToken }: Stage,
  heartbeats: readonly Heartbeat[],
): Promise<number[]> {
  const path = "/api/v1/daemon/presence/heartbeats";
  const { status, text } = await post(url + path, { heartbeats }, { token: ingestToken });
  const results = status === 200 ? (JSON.parse(text).results as { status: number }[]) : [];
  return heartbeats.map((_, i) => results[i]?.status ?? status);
}

/** A user's devices as the server has them. */
export async function readDevices({ direct }: Stage, userId: string, token: string) {
  const url = `${direct}/api/v1/mobile/presence?user_id=${userId}`;
  return (await getJson<{ devices: Heartbeat[] }>(url, token)).devices;
}

export function inspectDevices({ direct }: Stage, userId: string): Promise<DeviceInspection> {
  return getJson(`${direct}/debug/presence?user_id=${userId}`);
}

export interface PhoneEvents extends Omit<StreamEvents, "onData"> {
  /** `before`: what the phone showed of this device. */
  onBeat?(beat: Heartbeat, before: Heartbeat | undefined): void;
}

/** A phone that watches a user's devices by a stream. */
export class Phone {
  /** The last heartbeat received, by device. */
  readonly shown = new Map<string, Heartbeat>();
  losses = 0;
  readonly #stream: Stream;

  private constructor(url: string, { onBeat, onLost, ...events }: PhoneEvents) {
    this.#stream = new Stream(url, {
      ...events,
      onData: (data) => {
        const beat = JSON.parse(data) as Heartbeat;
        const before = this.shown.get(beat.device_id);
        this.shown.set(beat.device_id, beat);
        onBeat?.(beat, before);
      },
      onLost: (why) => {
        this.losses += 1;
        onLost?.(why);
      },
    });
  }

  static async open(stage: Stage, userId: string, events: PhoneEvents = {}): Promise<Phone> {
    const query = new URLSearchParams({ user_id: userId, token: await signWatcher(stage, userId) });
    return new Phone(`${stage.url}/api/v1/mobile/presence/stream?${query}`, events);
  }

  close(): void {
    this.#stream.close();
  }
}
