import { Hono } from "hono";
import { spend } from "../../src/access/quota.ts";
import { requireSecret } from "../../src/access/secrets.ts";
import { call } from "../../src/actor/call.ts";
import { namespaceOf } from "../../src/http/binding.ts";
import { readJson } from "../../src/http/body.ts";
import { errorResponse } from "../../src/http/errors.ts";
import { guardRoutes } from "../../src/http/guard.ts";
import { type DelayedMessage, openStream, type StreamEvent } from "../../src/http/sse.ts";
import { inSpan } from "../../src/http/trace.ts";
import { forwardUpgrade, requireUpgrade } from "../../src/http/upgrade.ts";
import { log } from "../../src/log.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { PING, parseFrames, parseJson, unwrapEvent } from "../../src/wire/frames.ts";
import {
  type AuthenticateDaemon,
  type AuthenticateMinter,
  type AuthenticateWatcher,
  authorizeBeats,
  authorizeWatcher,
  type Daemon,
  requireDaemon,
  requireOwn,
} from "./access.ts";
import {
  type Acceptance,
  batch,
  daemonTokenRequest,
  faultOf,
  heartbeat,
  parsePayload,
  STALE,
  TOO_MANY,
  tokenRequest,
} from "./contract.ts";
import type { Heartbeat } from "./device.ts";
import { BEATS, type DeviceRoom, SOCKET_PATH } from "./room.ts";
import { BEAT_SCOPE, DAEMON_TTL_MS, mintPresenceToken } from "./token.ts";

/** Bytes of one heartbeat, or of a request for a token. */
const BODY_BYTES = 8_192;
/** Bytes of a batch. */
const BATCH_BYTES = 262_144;

/** The contract's words, for daemons' routes too. */
const CORS = { methods: "GET, POST, OPTIONS", headers: "Content-Type, Authorization" };

const PROBE = JSON.stringify({ type: "device.probe" });

const BACKEND = { methods: ["POST"], cors: CORS, isForBackends: true } as const;

export interface DeviceRouteOptions<E> {
  binding: string;
  authenticateWatcher: AuthenticateWatcher<E>;
  authenticateDaemon: AuthenticateDaemon<E>;
  authenticateMinter: AuthenticateMinter<E>;
}

/** @throws RollcallError `invalid_payload` */
function readBody(request: Request, limitBytes: number): Promise<unknown> {
  const codes = { tooLarge: "invalid_payload", notJson: "invalid_payload" } as const;
  return readJson(request, { limitBytes, ...codes, parse: parseJson });
}

interface BeatResult {
  status: number;
  error?: string;
  details?: string;
}

function refusalOf(thrown: unknown): BeatResult {
  if (!(thrown instanceof RollcallError)) throw thrown;
  return { status: thrown.status, error: thrown.code, details: thrown.message };
}

function resultOf(accepted: Acceptance | undefined): BeatResult {
  if (accepted) return { status: 204 };
  return accepted === null
    ? { status: 400, error: "invalid_payload", details: TOO_MANY }
    : { status: 409, error: "invalid_payload", details: STALE };
}

/** Frames of the devices room as events of a stream: each device's payload without an event name. */
function toEvents(message: string): StreamEvent[] {
  return parseFrames(message).flatMap((frame) => {
    const { event, data } = unwrapEvent(frame);
    if (event === "device.sync") {
      return (data as { devices: Heartbeat[] }).devices.map((device) => ({
        data: JSON.stringify(device),
      }));
    }
    if (event !== "device.update") return [];
    const { type: _, ...payload } = data as Heartbeat & { type: string };
    return [{ data: JSON.stringify(payload) }];
  });
}

/** The probe that a message of the actor asks for. */
function toProbe(message: string): DelayedMessage | undefined {
  if (!message.includes('"device.probe"')) return undefined;
  const canProbe = parseFrames(message)
    .map(unwrapEvent)
    .filter(({ event }) => event === "device.probe");
  const inMs = Number(canProbe.at(-1)?.data.in_ms);
  return inMs >= 0 ? { inMs, text: PROBE } : undefined;
}

/** Device presence: heartbeats come in, presence goes out. */
export function deviceRoutes<E extends object>(
  options: DeviceRouteOptions<E>,
): Hono<{ Bindings: E }> {
  const { binding, authenticateWatcher, authenticateDaemon, authenticateMinter } = options;
  const app = new Hono<{ Bindings: E }>();
  const stubOf = (env: E, userId: string) => namespaceOf(env, binding).getByName(userId);

  /** Sends heartbeats of one user to its actor. */
  const send = (env: E, userId: string, beats: Heartbeat[]): Promise<Acceptance[]> =>
    call<DeviceRoom>(stubOf(env, userId)).beat(beats);

  /** One result per entry, in order. If a user's actor fails, the others' results stand. */
  async function sendAll(env: E, entries: unknown[], daemon: Daemon | null): Promise<BeatResult[]> {
    const results: BeatResult[] = [];
    const byUser = new Map<string, { beats: Heartbeat[]; places: number[] }>();
    for (const [place, entry] of entries.entries()) {
      const { success, data, error } = heartbeat.safeParse(entry);
      if (!success) {
        results[place] = { status: 400, error: "invalid_payload", details: faultOf(error) };
        continue;
      }
      try {
        requireOwn(daemon, data);
      } catch (thrown) {
        results[place] = refusalOf(thrown);
        continue;
      }
      const group = byUser.get(data.user_id) ?? { beats: [], places: [] };
      group.beats.push(data);
      group.places.push(place);
      byUser.set(data.user_id, group);
    }
    await Promise.all(
      [...byUser].map(async ([userId, { beats, places }]) => {
        try {
          await spend(env, "LIMIT_HEARTBEATS", userId);
          const accepted = await send(env, userId, beats);
          for (const [i, place] of places.entries()) {
            results[place] = resultOf(accepted[i]);
          }
        } catch (error) {
          const isRefused = error instanceof RollcallError;
          if (!isRefused) log("beat_failed", { error });
          const fault = isRefused ? error : new RollcallError("unavailable", "Try again");
          for (const place of places) results[place] = refusalOf(fault);
        }
      }),
    );
    return results;
  }

  guardRoutes(app, {
    "/api/v1/daemon/presence/heartbeat": BACKEND,
    "/api/v1/daemon/presence/heartbeats": BACKEND,
    "/api/v1/presence/tokens": BACKEND,
    "/api/v1/devices/tokens": BACKEND,
    "/api/v1/mobile/presence": { methods: ["GET"], cors: CORS },
    "/api/v1/mobile/presence/stream": { methods: ["GET"], cors: CORS, isStream: true },
    [SOCKET_PATH]: { methods: ["GET"] },
    [`${SOCKET_PATH}/beat`]: { methods: ["GET"] },
  });

  app.post("/api/v1/daemon/presence/heartbeat", async (c) => {
    const daemon = requireDaemon(await authenticateDaemon(c.req.raw, c.env));
    const beat = parsePayload(heartbeat, await readBody(c.req.raw, BODY_BYTES));
    requireOwn(daemon, beat);
    await spend(c.env, "LIMIT_HEARTBEATS", beat.user_id);
    const [accepted] = await send(c.env, beat.user_id, [beat]);
    const { status, ...body } = resultOf(accepted);
    return status === 204 ? c.body(null, 204) : Response.json(body, { status });
  });

  app.post("/api/v1/daemon/presence/heartbeats", async (c) => {
    const daemon = requireDaemon(await authenticateDaemon(c.req.raw, c.env));
    const { heartbeats } = parsePayload(batch, await readBody(c.req.raw, BATCH_BYTES));
    // A single heartbeat has no span of its own: the runtime's span of the call shows as much.
    const work = () => sendAll(c.env, heartbeats, daemon);
    return c.json({ results: await inSpan("ingest", work, { heartbeats: heartbeats.length }) });
  });

  app.post("/api/v1/presence/tokens", async (c) => {
    requireDaemon(await authenticateMinter(c.req.raw, c.env));
    const secret = requireSecret(c.env, "PRESENCE_DO_TOKEN_SIGNING_KEY");
    const { ttl_ms, ...grant } = parsePayload(tokenRequest, await readBody(c.req.raw, BODY_BYTES));
    const wanted = ttl_ms === undefined ? grant : { ...grant, ttlMs: ttl_ms };
    return c.json(await mintPresenceToken(wanted, secret), 201);
  });

  app.post("/api/v1/devices/tokens", async (c) => {
    requireDaemon(await authenticateMinter(c.req.raw, c.env));
    const secret = requireSecret(c.env, "PRESENCE_DO_TOKEN_SIGNING_KEY");
    const wanted = parsePayload(daemonTokenRequest, await readBody(c.req.raw, BODY_BYTES));
    const { ttl_ms: ttlMs = DAEMON_TTL_MS, ...device } = wanted;
    const grant = { ...device, ttlMs, scope: [BEAT_SCOPE] };
    return c.json(await mintPresenceToken(grant, secret), 201);
  });

  app.get("/api/v1/mobile/presence", async (c) => {
    const { userId } = await authorizeWatcher(c.req.raw, c.env, authenticateWatcher);
    await spend(c.env, "LIMIT_CONNECTS", userId);
    return Response.json(await call<DeviceRoom>(stubOf(c.env, userId)).list());
  });

  app.get("/api/v1/mobile/presence/stream", async (c) => {
    const { userId } = await authorizeWatcher(c.req.raw, c.env, authenticateWatcher);
    await spend(c.env, "LIMIT_CONNECTS", userId);
    const query = new URLSearchParams({ v: "2", probe_devices: "1", user_id: userId });
    const token = c.req.query("token");
    if (token) query.set("token", token);
    const stub = stubOf(c.env, userId);
    const path = `${SOCKET_PATH}?${query}`;
    return openStream(c.req.raw, { stub, path, toEvents, toDelayed: toProbe, ping: PING });
  });

  app.get(`${SOCKET_PATH}/beat`, async (c) => {
    const { userId } = await authorizeBeats(c.req.raw, c.env, authenticateDaemon);
    await spend(c.env, "LIMIT_CONNECTS", userId);
    requireUpgrade(c.req.raw);
    const url = new URL(c.req.url);
    url.pathname = SOCKET_PATH;
    url.searchParams.set(BEATS, "");
    return forwardUpgrade(stubOf(c.env, userId), c.req.raw, url);
  });

  app.get(SOCKET_PATH, async (c) => {
    const { userId } = await authorizeWatcher(c.req.raw, c.env, authenticateWatcher);
    await spend(c.env, "LIMIT_CONNECTS", userId);
    requireUpgrade(c.req.raw);
    return forwardUpgrade(stubOf(c.env, userId), c.req.raw);
  });

  app.onError((thrown, c) => errorResponse(thrown, c.req.raw));
  return app;
}
