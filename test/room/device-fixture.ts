import { env, exports } from "cloudflare:workers";
import type { DeviceInspection, Heartbeat } from "../../rooms/devices/contract.ts";
import { mintPresenceToken, type PresenceClaims } from "../../rooms/devices/token.ts";

/** What tests of devices share: heartbeats, tokens, and the routes to send them to. */
export const BASE = "https://rollcall.test";
export const BEARER = { Authorization: `Bearer ${env.PRESENCE_DO_INGEST_TOKEN}` };

/** A heartbeat of a device that nobody else uses, unless `changes` say otherwise. */
export function beatOf(changes: Partial<Heartbeat> = {}): Heartbeat {
  return {
    schema_version: 1,
    user_id: crypto.randomUUID(),
    device_id: crypto.randomUUID(),
    status: "online",
    source: "test",
    sent_at_ms: Date.now(),
    seq: 1,
    ttl_ms: 60_000,
    ...changes,
  };
}

export function post(
  path: string,
  body: unknown,
  headers: Record<string, string> = BEARER,
): Promise<Response> {
  const text = typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body);
  return exports.default.fetch(BASE + path, {
    method: "POST",
    headers,
    body: text as BodyInit,
  });
}

export const beat = (body: unknown, headers?: Record<string, string>): Promise<Response> =>
  post("/api/v1/daemon/presence/heartbeat", body, headers);

export const beatAll = (body: unknown, headers?: Record<string, string>): Promise<Response> =>
  post("/api/v1/daemon/presence/heartbeats", body, headers);

export function get(path: string, headers: Record<string, string> = {}): Promise<Response> {
  return exports.default.fetch(BASE + path, { headers });
}

export async function tokenFor(
  user_id: string,
  options: { scope?: string[]; ttlMs?: number; nowMs?: number; secret?: string } = {},
): Promise<string> {
  const { secret = env.PRESENCE_DO_TOKEN_SIGNING_KEY, nowMs, ...rest } = options;
  const grant = { user_id, device_id: crypto.randomUUID(), ...rest };
  return (await mintPresenceToken(grant, secret, nowMs)).token;
}
export type { PresenceClaims };

export async function list(userId: string): Promise<Heartbeat[]> {
  const Authorization = `Bearer ${await tokenFor(userId)}`;
  const response = await get(`/api/v1/mobile/presence?user_id=${userId}`, { Authorization });
  return ((await response.json()) as { devices: Heartbeat[] }).devices;
}

export async function inspect(userId: string): Promise<DeviceInspection> {
  const response = await get(`/debug/presence?user_id=${userId}`);
  return (await response.json()) as DeviceInspection;
}

/** An SSE stream, read as it comes. */
export class Stream {
  readonly events: Heartbeat[] = [];
  text = "";
  ended = false;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #decoder = new TextDecoder();

  private constructor(body: ReadableStream<Uint8Array>) {
    this.#reader = body.getReader();
  }

  static async open(userId: string, token?: string): Promise<Stream> {
    const Authorization = `Bearer ${token ?? (await tokenFor(userId))}`;
    const path = `/api/v1/mobile/presence/stream?user_id=${userId}`;
    const response = await get(path, { Authorization });
    if (response.status !== 200 || !response.body) {
      throw new Error(`no stream: ${response.status} ${await response.text()}`);
    }
    return new Stream(response.body);
  }

  async #read(): Promise<void> {
    const { done, value } = await this.#reader.read();
    if (done) {
      this.ended = true;
      return;
    }
    this.text += this.#decoder.decode(value, { stream: true });
    const blocks = this.text.split("\n\n").slice(0, -1);
    const seen = blocks.filter((block) => block.startsWith("data: "));
    for (const block of seen.slice(this.events.length)) {
      this.events.push(JSON.parse(block.slice("data: ".length)));
    }
  }

  /** Waits for the first event that fits. */
  async next(fits: (event: Heartbeat) => boolean): Promise<Heartbeat> {
    for (;;) {
      const found = this.events.find(fits);
      if (found) return found;
      if (this.ended) throw new Error(`the stream ended: ${this.text}`);
      await this.#read();
    }
  }

  /** Reads to the end. */
  async end(): Promise<void> {
    while (!this.ended) await this.#read();
  }

  cancel(): Promise<void> {
    return this.#reader.cancel();
  }
}
