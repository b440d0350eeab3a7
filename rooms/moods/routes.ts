import { type Context, Hono } from "hono";
import { addressOf, spend } from "../../src/access/quota.ts";
import { type CallsOf, call } from "../../src/actor/call.ts";
import { namespaceOf, type RoomNamespace } from "../../src/http/binding.ts";
import { readJson } from "../../src/http/body.ts";
import { errorResponse } from "../../src/http/errors.ts";
import { guardRoutes } from "../../src/http/guard.ts";
import { openStream, type StreamEvent } from "../../src/http/sse.ts";
import { forwardUpgrade, requireUpgrade } from "../../src/http/upgrade.ts";
import { log } from "../../src/log.ts";
import { shardOf } from "../../src/shards/layout.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { PING, parseFrames, unwrapEvent } from "../../src/wire/frames.ts";
import { subprotocolToken } from "../../src/wire/subprotocol.ts";
import { issueSession, type MoodEnv, requireOpenMoods, requireSession } from "./access.ts";
import { BODY_BYTES } from "./contract.ts";
import { parseMood } from "./fields.ts";
import type { MoodRoom } from "./room.ts";
import { type MoodOptions, type MoodState, shardCount, shardName, totalName } from "./tally.ts";

/** The contract's words; pages may send any header. */
const CORS = { methods: "GET,POST,OPTIONS" };

type Fields = Record<string, unknown>;

/** The fields of a JSON body. Its content type does not matter: `sendBeacon` can only send text. */
async function readFields(request: Request): Promise<Fields> {
  const message = "The body is no JSON";
  const body = await readJson(request, { limitBytes: BODY_BYTES, message });
  // JSON that is no object has no fields, so the answer is that they are missing.
  return typeof body === "object" && body !== null ? (body as Fields) : {};
}

/** A message of the actor as events of a stream. */
function toEvents(message: string): StreamEvent[] {
  return parseFrames(message).flatMap((frame) => {
    const { event, data } = unwrapEvent(frame);
    if (event !== "mood.state") return [];
    const { count, moods, timestamp }: MoodState = data;
    return [{ data: JSON.stringify({ count, moods, timestamp }) }];
  });
}

/** @throws RollcallError `unavailable` when the actor ended before it answered: a retry does no harm */
async function reachable<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof RollcallError) throw error;
    log("moods_unreachable", { error });
    throw new RollcallError("unavailable", "The count is out of reach for a moment; try again");
  }
}

/** Anonymous presence with moods. Errors are worded as in its contract: `{ error: <message> }`. */
export function moodRoutes<E extends object, M extends string>(
  options: Omit<Required<MoodOptions<M>>, "name" | "ttlMs">,
): Hono<{ Bindings: E }> {
  const { websocketPath, binding, moods, defaultMood } = options;
  type Stub = ReturnType<RoomNamespace["getByName"]>;
  const app = new Hono<{ Bindings: E }>();
  guardRoutes(app, {
    "/api/session": { methods: ["POST"], cors: CORS },
    "/api/heartbeat": { methods: ["POST"], cors: CORS },
    "/api/leave": { methods: ["POST"], cors: CORS },
    "/api/presence": { methods: ["GET"], cors: CORS },
    "/api/presence/stream": { methods: ["GET"], cors: CORS, isStream: true },
    [websocketPath]: { methods: ["GET"] },
  });

  function shardStub({ env }: Context<{ Bindings: E }>, sessionId: string): Stub {
    const shard = shardOf(sessionId, shardCount(env as MoodEnv));
    return namespaceOf(env, binding).getByName(shardName(shard));
  }
  function totalStub({ env }: Context<{ Bindings: E }>): Stub {
    return namespaceOf(env, binding).getByName(totalName(shardCount(env as MoodEnv)));
  }
  const calls = (stub: Stub): CallsOf<MoodRoom<E, M>> => call<MoodRoom<E, M>>(stub);

  app.post("/api/session", async (c) => {
    requireOpenMoods(c.env);
    await spend(c.env, "LIMIT_MOODS", addressOf(c.req.raw));
    const sessionId = await issueSession(c.env as MoodEnv);
    return Response.json({ sessionId }, { headers: { "Cache-Control": "no-store" } });
  });

  app.post("/api/heartbeat", async (c) => {
    requireOpenMoods(c.env);
    const body = await readFields(c.req.raw);
    const sessionId = await requireSession(body.sessionId, c.env as MoodEnv);
    const mood = parseMood(body.mood, moods, defaultMood);
    await spend(c.env, "LIMIT_MOODS", addressOf(c.req.raw));
    const answer = calls(shardStub(c, sessionId)).heartbeat({ sessionId, mood });
    return Response.json(await reachable(answer));
  });

  app.post("/api/leave", async (c) => {
    const { sessionId: id } = await readFields(c.req.raw);
    const sessionId = await requireSession(id, c.env as MoodEnv);
    await spend(c.env, "LIMIT_MOODS", addressOf(c.req.raw));
    await reachable(calls(shardStub(c, sessionId)).leave({ sessionId }));
    return Response.json({ success: true });
  });

  app.get("/api/presence", async (c) => {
    await spend(c.env, "LIMIT_MOODS", addressOf(c.req.raw));
    const state = await reachable(calls(totalStub(c)).state());
    return Response.json(state, { headers: { "Cache-Control": "public, max-age=1" } });
  });

  app.get("/api/presence/stream", async (c) => {
    await spend(c.env, "LIMIT_MOODS", addressOf(c.req.raw));
    const stub = totalStub(c);
    return openStream(c.req.raw, { stub, path: websocketPath, toEvents, ping: PING });
  });

  app.get(websocketPath, async (c) => {
    requireUpgrade(c.req.raw);
    requireOpenMoods(c.env);
    const given = c.req.query("sessionId") ?? subprotocolToken(c.req.raw);
    const sessionId = await requireSession(given, c.env as MoodEnv);
    parseMood(c.req.query("mood"), moods, defaultMood);
    await spend(c.env, "LIMIT_MOODS", addressOf(c.req.raw));
    const url = new URL(c.req.url);
    url.searchParams.set("sessionId", sessionId);
    return forwardUpgrade(shardStub(c, sessionId), c.req.raw, url);
  });

  const word = ({ message }: RollcallError) => ({ error: message });
  app.onError((thrown, c) => errorResponse(thrown, c.req.raw, word));
  return app;
}
