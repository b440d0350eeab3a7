import type { Heartbeat } from "../rooms/devices/device.ts";
import { RollcallError } from "../src/wire/errors.ts";
import { parseFrames } from "../src/wire/frames.ts";
import {
  ReconnectingSocket,
  type SocketOptions,
  toSocketUrl,
  type WebSocketClass,
} from "./socket.ts";

/**
 * `connecting`: no heartbeat was accepted yet on this connection. `online`: the last heartbeat was accepted.
 * `unreachable`: the last attempts failed, and more follow. `refused`: the server refuses the device, and no
 * attempt follows. `closed`: {@link DeviceClient.close} was called.
 */
export type DeviceState = "connecting" | "online" | "unreachable" | "refused" | "closed";

/** Options of a {@link DeviceClient}. */
export interface DeviceClientOptions {
  /** Where the server is: `https://example.com`, or a path prefix below it. */
  url: string;
  /** UUIDs in lower case. */
  userId: string;
  deviceId: string;
  /** The device's own token, or the ingest token; or a function that gives one for each attempt. */
  token: string | (() => string | Promise<string>);
  /** The program that reports, 1–64 characters. Default `device-client`. */
  source?: string;
  /** The device turns offline when nothing comes for so long, in ms. Default 35 000. */
  ttlMs?: number;
  /** Called with each new state. */
  onState?(state: DeviceState): void;
  /** Called with each error, also where another attempt follows. */
  onError?(error: Error): void;
  /** The WebSocket class, where there is no global one. Without any, it beats over HTTP. */
  WebSocket?: WebSocketClass;
}

/** Pings or heartbeats in a ttl: two may get lost. */
const BEATS_PER_TTL = 3;
const TTL_MS = 35_000;
/** After so many failed sockets in a row it beats over HTTP. Attempts at sockets go on. */
const FAILURES = 2;
/** After so many refusals over HTTP in a row it gives up. */
const REFUSALS = 3;
const ANSWER_MS = 5_000;
const GOODBYE_MS = 2_000;
const RETRY_MOST_MS = 30_000;
/** Time until the next attempt at a socket after a final refusal, in ms: an earlier release refuses all. */
const REOPEN_MS = 300_000;

/** Between half and all of `ms`: a fleet that started together does not beat together. */
function jitter(ms: number): number {
  return ms * (0.5 + Math.random() / 2);
}

/**
 * Reports that a device is there, from now until {@link close}: by a socket, which costs the server
 * nothing while nothing changes, or by heartbeats over HTTP where sockets fail.
 *
 * @throws TypeError when `url` is none
 *
 * @example
 * const device = new DeviceClient({ url: "https://example.com", userId, deviceId, token });
 * process.once("SIGTERM", () => device.close());
 */
export class DeviceClient {
  readonly #options: DeviceClientOptions;
  readonly #base: string;
  readonly #socketOptions: SocketOptions;
  readonly #socket: ReconnectingSocket | undefined;
  #source: string;
  #ttlMs: number;
  #state: DeviceState = "connecting";
  #via: "socket" | "http" | null = null;
  #seq = 0;
  /** Sockets that failed since one was accepted. */
  #failures = 0;
  /** Requests that failed in a row. */
  #httpFailures = 0;
  #refusals = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #reopening: ReturnType<typeof setTimeout> | undefined;

  constructor(options: DeviceClientOptions) {
    const { url, userId, deviceId, source = "device-client", ttlMs = TTL_MS, WebSocket } = options;
    this.#options = options;
    this.#base = url.replace(/[?#].*$/, "").replace(/\/+$/, "");
    this.#source = source;
    this.#ttlMs = ttlMs;
    const target = toSocketUrl(`${this.#base}/ws/devices/beat`);
    const query = { user_id: userId, device_id: deviceId, v: "3" };
    for (const [name, value] of Object.entries(query)) target.searchParams.set(name, value);
    const pingMs = ttlMs / BEATS_PER_TTL;
    this.#socketOptions = {
      reconnection: {
        enabled: true,
        maxAttempts: 0,
        initialDelay: 500,
        maxDelay: RETRY_MOST_MS,
        backoffMultiplier: 2,
      },
      pingInterval: pingMs,
      pongTimeout: pingMs,
      connectionTimeout: ANSWER_MS,
      ...(WebSocket && { WebSocket }),
    };
    this.#socket = this.#open(async () => ({ url: target.href, token: await this.#token() }));
    if (this.#socket) this.#socket.open();
    else void this.#beatByHttp();
  }

  /** How it is doing. */
  get state(): DeviceState {
    return this.#state;
  }

  /** The transport of the last heartbeat that was accepted; null before the first. */
  get via(): "socket" | "http" | null {
    return this.#via;
  }

  /** Reports a change, now or as soon as the server can be reached. */
  set(changes: { source?: string; ttlMs?: number }): void {
    this.#source = changes.source ?? this.#source;
    this.#ttlMs = changes.ttlMs ?? this.#ttlMs;
    const pingMs = this.#ttlMs / BEATS_PER_TTL;
    Object.assign(this.#socketOptions, { pingInterval: pingMs, pongTimeout: pingMs });
    if (this.#isStopped) return;
    this.#socket?.pingWithin(pingMs);
    if (!this.#beatBySocket() && this.#timer !== undefined) void this.#beatByHttp();
  }

  /** Reports the device as offline and stops. Resolves when the report was sent, or after 2 s. */
  async close(): Promise<void> {
    if (this.#isStopped) return;
    const isSent = this.#beatBySocket("offline");
    this.#end("closed");
    if (isSent || this.#seq === 0) return;
    await this.#post("offline", GOODBYE_MS).catch((error) => this.#report(error));
  }

  get #isStopped(): boolean {
    return this.#state === "closed" || this.#state === "refused";
  }

  async #token(): Promise<string> {
    const { token } = this.#options;
    return typeof token === "string" ? token : token();
  }

  #next(status: Heartbeat["status"]): Heartbeat {
    this.#seq += 1;
    return {
      schema_version: 1,
      user_id: this.#options.userId,
      device_id: this.#options.deviceId,
      status,
      source: this.#source,
      sent_at_ms: Date.now(),
      seq: this.#seq,
      ttl_ms: this.#ttlMs,
    };
  }

  // ── By socket ───────────────────────────────────────────────────────────────────────────────

  #open(address: () => Promise<{ url: string; token: string }>): ReconnectingSocket | undefined {
    try {
      return new ReconnectingSocket(address, this.#socketOptions, {
        state() {},
        error: (error) => this.#report(error),
        open: () => {
          this.#beatBySocket();
        },
        message: (raw) => {
          for (const { type, id, error } of parseFrames(raw)) {
            // Only the response to the newest heartbeat counts.
            if (id !== String(this.#seq)) continue;
            if (type === "ack") this.#accepted("socket");
            else if (type === "nack" && error) {
              this.#rejected(RollcallError.from(error).status, error.message);
              this.#schedule(() => this.#beat());
            }
          }
        },
        close: ({ code, reason }, isFinal) => {
          if (this.#isStopped) return;
          this.#failures += isFinal ? FAILURES : 1;
          if (isFinal) {
            this.#report(new RollcallError("unavailable", `No socket: ${code} ${reason}`));
            this.#reopening = setTimeout(() => this.#socket?.open(), jitter(REOPEN_MS));
          }
          // It beats over HTTP already.
          if (this.#timer !== undefined) return;
          // A refused socket does not mean a refused device: the response over HTTP decides.
          if (this.#failures >= FAILURES) void this.#beatByHttp();
          else this.#enter("connecting");
        },
      });
    } catch {
      return undefined;
    }
  }

  /** @returns false where no socket is open */
  #beatBySocket(status: Heartbeat["status"] = "online"): boolean {
    if (!this.#socket?.isOpen) return false;
    const data = this.#next(status);
    return this.#socket.send(JSON.stringify({ type: "device.beat", id: String(data.seq), data }));
  }

  #beat(): void {
    this.#timer = undefined;
    if (!this.#beatBySocket()) void this.#beatByHttp();
  }

  // ── Over HTTP ───────────────────────────────────────────────────────────────────────────────

  /** One heartbeat, and the next in time, until a socket takes over. */
  async #beatByHttp(): Promise<void> {
    this.#schedule(() => this.#beat());
    try {
      const answer = await this.#post("online", ANSWER_MS);
      if (this.#isStopped) return;
      // 409 says only that a later heartbeat came first.
      if (answer.ok || answer.status === 409) this.#accepted("http");
      else this.#rejected(answer.status, await answer.text());
    } catch (error) {
      if (this.#isStopped) return;
      this.#report(error);
      this.#unreachable();
      this.#schedule(() => this.#beat());
    }
  }

  async #post(status: Heartbeat["status"], limitMs: number): Promise<Response> {
    const token = await this.#token();
    return fetch(`${this.#base}/api/v1/daemon/presence/heartbeat`, {
      method: "POST",
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
      body: JSON.stringify(this.#next(status)),
      signal: AbortSignal.timeout(limitMs),
    });
  }

  // ── Outcomes ──────────────────────────────────────────────────────────────────────────────

  /** Schedules the next heartbeat: a third of the ttl from now, or later while requests fail. */
  #schedule(beat: () => unknown): void {
    clearTimeout(this.#timer);
    const beatMs = this.#ttlMs / BEATS_PER_TTL;
    const retryMs = this.#httpFailures > 0 ? 500 * 2 ** this.#httpFailures : 0;
    this.#timer = setTimeout(beat, jitter(Math.max(beatMs, Math.min(retryMs, RETRY_MOST_MS))));
  }

  #accepted(via: "socket" | "http"): void {
    this.#via = via;
    this.#refusals = 0;
    this.#httpFailures = 0;
    // A socket that works ends the heartbeats over HTTP.
    if (via === "socket") {
      this.#failures = 0;
      clearTimeout(this.#timer);
      this.#timer = undefined;
    }
    this.#enter("online");
  }

  /** The server did not accept the heartbeat. */
  #rejected(status: number, why: string): void {
    this.#report(new RollcallError("unavailable", `${status}: ${why}`));
    const isLasting = status < 500 && status !== 429 && status !== 409;
    this.#refusals = isLasting ? this.#refusals + 1 : 0;
    if (this.#refusals >= REFUSALS) this.#refuse(`${status}`);
    else this.#unreachable();
  }

  #refuse(why: string): void {
    this.#report(new RollcallError("forbidden", `The server refuses this device: ${why}`));
    this.#end("refused");
  }

  #end(state: DeviceState): void {
    this.#enter(state);
    clearTimeout(this.#timer);
    clearTimeout(this.#reopening);
    this.#timer = undefined;
    this.#socket?.stop();
  }

  #unreachable(): void {
    this.#httpFailures += 1;
    this.#enter("unreachable");
  }

  #enter(state: DeviceState): void {
    if (state === this.#state) return;
    this.#state = state;
    this.#options.onState?.(state);
  }

  #report(error: unknown): void {
    this.#options.onError?.(error instanceof Error ? error : new Error("The socket failed"));
  }
}
