import { createRoute, type OpenAPIHono, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { cors } from "hono/cors";
import { callIngest } from "../../src/actor/call.ts";
import { readBody } from "../../src/http/body.ts";
import type { AppEnv } from "../../src/http/routes.ts";
import { createRoutes } from "../../src/http/routes.ts";
import { openStream, type StreamEvent } from "../../src/http/sse.ts";
import { log } from "../../src/log.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { PING, parseFrames, unwrapEvent } from "../../src/wire/frames.ts";
import {
  MOODS,
  type MoodState,
  parseMood,
  parseSessionId,
  SESSION_ID_LENGTH,
  shardCount,
  shardName,
  shardOf,
  totalName,
} from "./tally.ts";

/** Bytes of a request's body: many times what a session id of any script takes. */
const BODY_BYTES = 4_096;

const state = z
  .object({
    count: z.int().nonnegative(),
    moods: z.object(
      Object.fromEntries(MOODS.map((mood) => [mood, z.int().nonnegative()] as const)),
    ),
    timestamp: z.int().openapi({ description: "Server time in ms" }),
  })
  .openapi("MoodState");
const sessionId = z.string().min(1).max(SESSION_ID_LENGTH);
const failure = z.object({ error: z.string() }).openapi("MoodError");

const json = (description: string, schema: z.ZodType) => ({
  description,
  content: { "application/json": { schema } },
});
const tags = ["Moods"];
const unavailable = json("MOOD_SHARDS is malformed, or who counts does not answer", failure);
const refused = {
  400: json("A field is wrong, which the message names; or the body is no JSON", failure),
  503: unavailable,
  413: json(`The body has more than ${BODY_BYTES} bytes`, failure),
};

// What is said here of bodies is for readers: they are judged by hand, in the contract's words and
// whatever their content type says, since `sendBeacon` can only send text.
const heartbeat = createRoute({
  method: "post",
  path: "/api/heartbeat",
  tags,
  summary: "I am here, in this mood; counts for 30 s",
  request: {
    body: {
      required: true,
      ...json(
        "A missing mood is `presence`",
        z.object({ sessionId, mood: z.enum(MOODS).optional() }),
      ),
    },
  },
  responses: { 200: json("Who is here, the caller counted in", state), ...refused },
});
const leave = createRoute({
  method: "post",
  path: "/api/leave",
  tags,
  summary: "I am gone; works from navigator.sendBeacon",
  request: {
    body: { required: true, ...json("The session that leaves", z.object({ sessionId })) },
  },
  responses: {
    200: json("Also for a session that is not here", z.object({ success: z.literal(true) })),
    ...refused,
  },
});
const look = createRoute({
  method: "get",
  path: "/api/presence",
  tags,
  summary: "How many people are here, and in which mood",
  responses: { 200: json("At most a second old", state), 503: unavailable },
});
const stream = createRoute({
  method: "get",
  path: "/api/presence/stream",
  tags,
  summary: "The same at once, then whenever it changes, at most once a second",
  responses: {
    200: { description: "Server-sent events", content: { "text/event-stream": { schema: state } } },
    503: unavailable,
  },
});

/** The body as an object, whatever its content type. */
async function parseBody(c: Context<AppEnv>): Promise<Record<string, unknown>> {
  const text = await readBody(c.req.raw, BODY_BYTES);
  if (text === null) {
    throw new RollcallError("too_large", `The body has more than ${BODY_BYTES} bytes`);
  }
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    throw new RollcallError("bad_request", "The body is no JSON");
  }
  // What is JSON but no object has no fields, which is what the caller is then told.
  return typeof body === "object" && body !== null ? (body as Record<string, unknown>) : {};
}

function actorOfSession(env: Env, id: string) {
  return env.MOODS.getByName(shardName(shardOf(id, shardCount(env))));
}

function actorOfTotal(env: Env) {
  return env.MOODS.getByName(totalName(shardCount(env)));
}

/** @throws RollcallError `unavailable` when the actor ended before it answered: ask again, it does no harm */
async function call(stub: ReturnType<typeof actorOfTotal>, name: string, data: unknown) {
  try {
    return await callIngest(stub, name, data);
  } catch (error) {
    if (error instanceof RollcallError) throw error;
    log("moods_unreachable", { error });
    throw new RollcallError("unavailable", "The count is out of reach for a moment; try again");
  }
}

/** A message of the actor as the stream's events. */
function toEvents(message: string): StreamEvent[] {
  return parseFrames(message).flatMap((frame) => {
    const { event, data } = unwrapEvent(frame);
    if (event !== "mood.state") return [];
    const { count, moods, timestamp }: MoodState = data;
    return [{ data: JSON.stringify({ count, moods, timestamp }) }];
  });
}

/** Anonymous presence with moods. Errors are in its contract's words: `{ error: <message> }`. */
export function moodRoutes(): OpenAPIHono<AppEnv> {
  const app = createRoutes();
  const open = cors({ origin: "*", allowMethods: ["GET", "POST", "OPTIONS"], maxAge: 86_400 });
  for (const { path } of [heartbeat, leave, look, stream]) app.use(path, open);
  for (const route of [heartbeat, leave, look, stream]) app.openAPIRegistry.registerPath(route);

  app.post(heartbeat.path, async (c) => {
    const body = await parseBody(c);
    const id = parseSessionId(body.sessionId);
    const mood = parseMood(body.mood);
    const answer = await call(actorOfSession(c.env, id), "heartbeat", { sessionId: id, mood });
    return c.json(answer as MoodState, 200);
  });

  app.post(leave.path, async (c) => {
    const id = parseSessionId((await parseBody(c)).sessionId);
    await call(actorOfSession(c.env, id), "leave", { sessionId: id });
    return c.json({ success: true }, 200);
  });

  app.get(look.path, async (c) => {
    const answer = await call(actorOfTotal(c.env), "state", undefined);
    c.header("Cache-Control", "public, max-age=1");
    return c.json(answer as MoodState, 200);
  });

  app.get(stream.path, async (c) =>
    openStream(c.req.raw, {
      stub: actorOfTotal(c.env),
      path: "/ws/moods",
      toEvents,
      ping: PING,
    }),
  );

  app.get("/ws/moods", async (c) => {
    if (c.req.header("Upgrade")?.toLowerCase() !== "websocket") {
      throw new RollcallError("upgrade_required", "/ws/moods takes WebSockets only");
    }
    const id = parseSessionId(c.req.query("sessionId"));
    parseMood(c.req.query("mood"));
    return actorOfSession(c.env, id).fetch(c.req.raw);
  });

  app.onError((thrown, c) => {
    if (thrown instanceof RollcallError) {
      return Response.json(
        { error: thrown.message },
        { status: thrown.status, headers: c.res.headers },
      );
    }
    log("request_failed", { error: thrown });
    return Response.json({ error: "Internal error" }, { status: 500, headers: c.res.headers });
  });
  return app;
}
