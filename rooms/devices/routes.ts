import { createRoute, type OpenAPIHono, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { requireSecret } from "../../src/access/secrets.ts";
import { callIngest } from "../../src/actor/call.ts";
import { readBody } from "../../src/http/body.ts";
import { allowCors } from "../../src/http/cors.ts";
import type { AppEnv } from "../../src/http/routes.ts";
import { createRoutes, refused } from "../../src/http/routes.ts";
import { openStream, type StreamEvent } from "../../src/http/sse.ts";
import { inSpan } from "../../src/http/trace.ts";
import { log } from "../../src/log.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { PING, parseFrames, parseJson, unwrapEvent } from "../../src/wire/frames.ts";
import { admitWatcher, requireIngestBearer } from "./access.ts";
import { type Heartbeat, heartbeat, uuid } from "./contract.ts";
import { mintPresenceToken, READ_SCOPE, TOKEN_TTL_MAX_MS } from "./token.ts";

/** Bytes of one heartbeat, or of a request for a token. */
const BODY_BYTES = 8_192;
/** Bytes of a batch, and how many heartbeats it has at most. */
const BATCH_BYTES = 262_144;
const BATCH_LENGTH = 500;
/** Scopes of a token, and the characters of each. */
const SCOPES = 16;
const SCOPE_LENGTH = 64;

const STALE = { error: "invalid_payload", details: "Non-monotonic seq" } as const;

const batch = z.object({
  heartbeats: z
    .array(z.unknown(), { error: "must be a list" })
    .max(BATCH_LENGTH, { error: `must have at most ${BATCH_LENGTH} entries` }),
});

const tokenRequest = z.object({
  user_id: uuid,
  device_id: uuid,
  scope: z.array(z.string().min(1).max(SCOPE_LENGTH)).max(SCOPES).default([READ_SCOPE]),
  ttl_ms: z.int().min(1).max(TOKEN_TTL_MAX_MS).optional(),
});

// ── What the routes are, for their description ──────────────────────────────────────────────────

const CORS = { methods: "GET, POST, OPTIONS", headers: "Content-Type, Authorization" };

const tags = ["Devices"];
const answered = <T extends z.ZodType>(description: string, schema: T) => ({
  description,
  content: { "application/json": { schema } },
});
const takes = <T extends z.ZodType>(schema: T) => ({
  body: { required: true, content: { "application/json": { schema } } },
});
const ingestSecurity = [{ ingest: [] }];
const watchSecurity = [{ presenceToken: [] }, { presenceTokenQuery: [] }];
const watched = { query: z.object({ user_id: uuid }) };
const watchRefusals = {
  400: refused("user_id is missing or no UUID"),
  401: refused("No token"),
  403: refused("The token does not do, or has expired"),
  503: refused("The signing key is not configured"),
};
const ingestRefusals = {
  400: refused("The payload is not as described, or too large"),
  401: refused("Missing or wrong ingest token"),
  503: refused("The ingest token is not configured"),
};

const beatRoute = createRoute({
  method: "post",
  path: "/api/v1/daemon/presence/heartbeat",
  summary: "One heartbeat of a device",
  tags,
  security: ingestSecurity,
  request: takes(heartbeat),
  responses: {
    204: { description: "Accepted" },
    ...ingestRefusals,
    409: refused("Older than what is known of the device"),
  },
});

const batchRoute = createRoute({
  method: "post",
  path: "/api/v1/daemon/presence/heartbeats",
  summary: "Heartbeats of many devices and users",
  tags,
  security: ingestSecurity,
  request: takes(z.object({ heartbeats: z.array(heartbeat).max(BATCH_LENGTH) })),
  responses: {
    200: answered(
      "One result per heartbeat, in order",
      z.object({
        results: z.array(
          z.object({
            status: z.int().openapi({ description: "204, or why not: 400, 409, 503" }),
            error: z.string().optional(),
            details: z.string().optional(),
          }),
        ),
      }),
    ),
    ...ingestRefusals,
  },
});

const tokenRoute = createRoute({
  method: "post",
  path: "/api/v1/presence/tokens",
  summary: "A presence token, for a backend to hand to its phones",
  tags,
  security: ingestSecurity,
  request: takes(tokenRequest),
  responses: {
    201: answered("The token", z.object({ token: z.string(), expires_at_ms: z.int() })),
    ...ingestRefusals,
  },
});

const listRoute = createRoute({
  method: "get",
  path: "/api/v1/mobile/presence",
  summary: "The devices of a user",
  tags,
  security: watchSecurity,
  request: watched,
  responses: {
    200: answered("The devices", z.object({ devices: z.array(heartbeat) })),
    ...watchRefusals,
  },
});

const streamRoute = createRoute({
  method: "get",
  path: "/api/v1/mobile/presence/stream",
  summary: "The devices of a user as they come and go, as server-sent events",
  tags,
  security: watchSecurity,
  request: watched,
  responses: {
    200: {
      description: "One event per device, then each heartbeat and change",
      content: { "text/event-stream": { schema: heartbeat } },
    },
    ...watchRefusals,
  },
});

// ── Judging what comes in ───────────────────────────────────────────────────────────────────────

function whyNot(error: z.ZodError): string {
  const issue = error.issues[0];
  const path = issue?.path.map(String).join(".");
  return path ? `${path} ${issue?.message}` : `The payload ${issue?.message}`;
}

/** The body as JSON. Ask for the bearer first. */
async function readJson(request: Request, limitBytes: number): Promise<unknown> {
  const text = await readBody(request, limitBytes);
  if (text === null) {
    throw new RollcallError("invalid_payload", `The body has more than ${limitBytes} bytes`);
  }
  try {
    return parseJson(text);
  } catch {
    throw new RollcallError("invalid_payload", "The body is not JSON");
  }
}

function parse<T>(schema: z.ZodType<T>, value: unknown): T {
  const { success, data, error } = schema.safeParse(value);
  if (success) return data;
  throw new RollcallError("invalid_payload", whyNot(error));
}

/** Hands heartbeats of one user to its actor; tells of each whether it was news. */
async function beat(env: Env, userId: string, beats: Heartbeat[]): Promise<boolean[]> {
  return (await callIngest(env.DEVICES.getByName(userId), "beat", beats)) as boolean[];
}

type BeatResult = { status: number; error?: string; details?: string };

/** One result per entry, in order. A user whose actor fails spoils nobody else's. */
async function beatAll(env: Env, entries: unknown[]): Promise<BeatResult[]> {
  const results: BeatResult[] = [];
  const byUser = new Map<string, { beats: Heartbeat[]; places: number[] }>();
  for (const [place, entry] of entries.entries()) {
    const { success, data, error } = heartbeat.safeParse(entry);
    if (!success) {
      results[place] = { status: 400, error: "invalid_payload", details: whyNot(error) };
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
        const news = await beat(env, userId, beats);
        for (const [i, place] of places.entries()) {
          results[place] = news[i] ? { status: 204 } : { status: 409, ...STALE };
        }
      } catch (error) {
        log("beat_failed", { error });
        for (const place of places) {
          results[place] = { status: 503, error: "unavailable", details: "Try again" };
        }
      }
    }),
  );
  return results;
}

/** Frames of the device room as events: the bare payload, without its name. */
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

// ── Routes ──────────────────────────────────────────────────────────────────────────────────────

type Handler = (c: Context<AppEnv>) => Promise<Response>;

/** Per-user device presence: heartbeats in, presence out. */
export function deviceRoutes(): OpenAPIHono<AppEnv> {
  const app = createRoutes();

  /** Serves a described route, whose requests the handler judges itself, in the contract's order. */
  function serve(route: ReturnType<typeof createRoute>, handler: Handler): void {
    app.openAPIRegistry.registerPath(route);
    allowCors(app, route.path, CORS);
    app.on(route.method, route.path, handler);
  }

  serve(beatRoute, async (c) => {
    requireIngestBearer(c.req.raw, c.env);
    const sent = parse(heartbeat, await readJson(c.req.raw, BODY_BYTES));
    const [isNews] = await beat(c.env, sent.user_id, [sent]);
    return isNews ? c.body(null, 204) : c.json(STALE, 409);
  });

  serve(batchRoute, async (c) => {
    requireIngestBearer(c.req.raw, c.env);
    const { heartbeats } = parse(batch, await readJson(c.req.raw, BATCH_BYTES));
    // One heartbeat has no span of its own: the runtime's, of the call to the actor, tells as much.
    const work = () => beatAll(c.env, heartbeats);
    return c.json({ results: await inSpan("ingest", work, { heartbeats: heartbeats.length }) });
  });

  serve(tokenRoute, async (c) => {
    requireIngestBearer(c.req.raw, c.env);
    const secret = requireSecret(c.env, "PRESENCE_DO_TOKEN_SIGNING_KEY");
    const { ttl_ms, ...grant } = parse(tokenRequest, await readJson(c.req.raw, BODY_BYTES));
    const wish = ttl_ms === undefined ? grant : { ...grant, ttlMs: ttl_ms };
    return c.json(await mintPresenceToken(wish, secret), 201);
  });

  serve(listRoute, async (c) => {
    const { userId } = await admitWatcher(c.req.raw, c.env);
    const list = await callIngest(c.env.DEVICES.getByName(userId), "list", undefined);
    return c.json(list as { devices: Heartbeat[] });
  });

  serve(streamRoute, async (c) => {
    const { userId } = await admitWatcher(c.req.raw, c.env);
    const query = new URLSearchParams({ v: "2", user_id: userId });
    const token = c.req.query("token");
    if (token) query.set("token", token);
    const stub = c.env.DEVICES.getByName(userId);
    return openStream(c.req.raw, { stub, path: `/ws/devices?${query}`, toEvents, ping: PING });
  });

  app.get("/ws/devices", async (c) => {
    const { userId } = await admitWatcher(c.req.raw, c.env);
    return c.env.DEVICES.getByName(userId).fetch(c.req.raw);
  });
  return app;
}
