import { type Context, Hono } from "hono";
import { spend } from "../../src/access/quota.ts";
import { type CallTarget, call } from "../../src/actor/call.ts";
import type { ConnectionMeta } from "../../src/actor/room.ts";
import { namespaceOf } from "../../src/http/binding.ts";
import { parseValue, readJson, requireJsonType } from "../../src/http/body.ts";
import { errorResponse } from "../../src/http/errors.ts";
import { guardRoutes } from "../../src/http/guard.ts";
import { idempotencyKey, sendToActor, toIdempotency } from "../../src/http/idempotency.ts";
import { openStream } from "../../src/http/sse.ts";
import { forwardUpgrade, requireUpgrade } from "../../src/http/upgrade.ts";
import { roomStub } from "../../src/shards/stub.ts";
import { CLOSE } from "../../src/wire/close.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { exceedsBytes, isWrapped, PING } from "../../src/wire/frames.ts";
import { assertJson } from "../../src/wire/json.ts";
import {
  type Authenticate,
  type AuthenticateOperator,
  authorizeOperator,
  authorizeVisitor,
  checkRoom,
  checkUserId,
  type Operator,
} from "./access.ts";
import {
  BATCH_MESSAGES,
  BLOCK_MS,
  type RoomPublication,
  type RoomPublishOutcome,
  roomMessage,
} from "./contract.ts";
import type { PresenceCalls } from "./room.ts";
import { snapshot } from "./roster.ts";
import { RoomStream } from "./stream.ts";
import { keepsChanges, type WebhookEnv } from "./webhooks.ts";

const PUBLISH_BYTES = 262_144;
const BATCH_BYTES = 1_048_576;

/** What the routes need to know of their rooms. */
export interface PresenceRouteOptions<E> {
  /** Path of the upgrade. */
  websocketPath: string;
  /** Name of the rooms' Durable Object binding. */
  binding: string;
  shards: number | ((room: string, env: E) => number);
  authenticate: Authenticate<E>;
  authenticateOperator: AuthenticateOperator<E>;
}

/** @throws RollcallError `unsupported_media_type`, `too_large`, `bad_request` */
async function readBody(request: Request, limitBytes: number): Promise<unknown> {
  requireJsonType(request);
  return readJson(request, { limitBytes });
}

/** As JSON. @throws RollcallError `bad_request` for a value that nests deeper than the wire allows */
function toText(value: unknown): string {
  try {
    assertJson(value);
    return JSON.stringify(value);
  } catch {
    throw new RollcallError("bad_request", "The message nests too deeply");
  }
}

/** @throws RollcallError `bad_request` for a body that is no message, or a malformed key; `bad_frame` for a reserved name */
async function toPublication(
  body: unknown,
  key: unknown,
  { userId }: Operator,
): Promise<RoomPublication> {
  const text = toText(body);
  if (exceedsBytes(text, PUBLISH_BYTES)) {
    throw new RollcallError("too_large", `A message has at most ${PUBLISH_BYTES} bytes`);
  }
  const message = parseValue(roomMessage, body);
  // Refused here, also where nobody is in the room: in the room it would end a whole batch.
  isWrapped(message.event, message.data);
  const publication = { ...message, from: userId };
  if (key === undefined || key === null) return publication;
  return {
    ...publication,
    idempotency: await toIdempotency(
      parseValue(idempotencyKey, key),
      JSON.stringify(message),
      userId,
    ),
  };
}

type Outcome = { status: 200; answer: string } | { status: number; error: object };

const CONFLICT: Outcome = {
  status: 422,
  error: { error: "unprocessable", details: "This idempotency key came with another body" },
};

function toOutcome(outcome: RoomPublishOutcome): Outcome {
  return outcome.status === 200 ? outcome : CONFLICT;
}

/** The rooms over HTTP at `/api/v1/presence` and below `/api/v1/rooms`, and the upgrade. */
export function presenceRoutes<E extends object, S extends string>(
  options: PresenceRouteOptions<E>,
): Hono<{ Bindings: E }> {
  const { websocketPath, binding, shards, authenticate, authenticateOperator } = options;
  const app = new Hono<{ Bindings: E }>();
  type Ctx = Context<{ Bindings: E }>;

  type Stub = CallTarget & { fetch(request: Request): Promise<Response> };
  const callsOf = (stub: CallTarget) => call<{ "~calls"?: PresenceCalls<S> }>(stub);
  const roomStubOf = (env: E, room: string) => {
    // A malformed configuration lets nobody in: joins would not be logged.
    keepsChanges(room, env as WebhookEnv);
    const stubOf = (name: string) => namespaceOf(env, binding).getByName(name);
    return roomStub<ConnectionMeta, E>({ shards }, room, env, stubOf);
  };
  /** The actor that has a user's connections. */
  const actorOf = (env: E, room: string, userId: string): Stub =>
    roomStubOf(env, room).ofUser(userId);
  const allCalls = (env: E, room: string) => roomStubOf(env, room).actors.map(callsOf);
  const roomOf = (c: Ctx) => checkRoom(c.req.param("room") ?? "");

  /** As a visitor who asks for the snapshot, or the socket, of the room. */
  async function visit(c: Ctx, room: string, more: Record<string, string> = {}) {
    const { searchParams } = new URL(c.req.url);
    const query = new URLSearchParams({ room, ...more });
    for (const name of ["token", "detail", "watch"]) {
      for (const value of searchParams.getAll(name)) query.append(name, value);
    }
    const url = new URL(`${websocketPath}?${query}`, c.req.url);
    const asked = new Request(url, { headers: c.req.raw.headers });
    const { userId } = await authorizeVisitor(asked, c.env, authenticate);
    await spend(c.env, "LIMIT_CONNECTS", userId);
    return { url, userId };
  }

  async function operate(c: Ctx, operation: "publish" | "kick" | "watch") {
    const room = roomOf(c);
    const request = c.req.raw;
    const operator = await authorizeOperator(request, c.env, room, operation, authenticateOperator);
    await spend(c.env, "LIMIT_PUBLISHES", operator.userId);
    return { room, operator };
  }

  async function deliver(env: E, room: string, messages: RoomPublication[]): Promise<Outcome[]> {
    const isRepeatable = messages.every(({ idempotency }) => idempotency !== undefined);
    // One actor gives all that are published to the room their order.
    const publish = () => callsOf(roomStubOf(env, room)).publish(messages);
    return (await sendToActor(isRepeatable, publish)).map(toOutcome);
  }

  const backend = { isForBackends: true } as const;
  guardRoutes(app, {
    "/api/v1/presence": { methods: ["GET"], cors: {} },
    "/api/v1/rooms/:room": { methods: ["GET"], cors: {} },
    "/api/v1/rooms/:room/stream": { methods: ["GET"], cors: {}, isStream: true },
    "/api/v1/rooms/:room/events": { methods: ["POST"], ...backend },
    "/api/v1/rooms/:room/events/batch": { methods: ["POST"], ...backend },
    "/api/v1/rooms/:room/changes": { methods: ["GET"], ...backend },
    "/api/v1/rooms/:room/users/:id": { methods: ["DELETE"], ...backend },
    [websocketPath]: { methods: ["GET"] },
  });

  app.get("/api/v1/presence", async (c) => {
    const { room, userId } = await authorizeVisitor(c.req.raw, c.env, authenticate);
    await spend(c.env, "LIMIT_CONNECTS", userId);
    const all = allCalls(c.env, room);
    if (all.length > 1) await spend(c.env, "LIMIT_LISTS", userId);
    const syncs = await Promise.all(all.map((calls) => calls.list()));
    return Response.json(
      syncs.length === 1 ? syncs[0] : snapshot(syncs.flatMap((one) => one.users)),
    );
  });

  app.get(websocketPath, async (c) => {
    const { room, userId } = await authorizeVisitor(c.req.raw, c.env, authenticate);
    await spend(c.env, "LIMIT_CONNECTS", userId);
    requireUpgrade(c.req.raw);
    return forwardUpgrade(actorOf(c.env, room, userId), c.req.raw);
  });

  app.get("/api/v1/rooms/:room", async (c) => {
    const room = roomOf(c);
    const { userId } = await visit(c, room);
    const { users, after } = c.req.query();
    const query = {
      users: users === "1",
      after: after === undefined ? undefined : checkUserId(after),
    };
    // A page of a room with shards is asked of all of them.
    if (query.users && allCalls(c.env, room).length > 1) await spend(c.env, "LIMIT_LISTS", userId);
    const info = await callsOf(actorOf(c.env, room, userId)).info(query);
    return Response.json({ room, ...info });
  });

  app.get("/api/v1/rooms/:room/stream", async (c) => {
    const room = roomOf(c);
    const after = c.req.header("Last-Event-ID") ?? c.req.query("lastEventId");
    const more = { listed: "0", stream: "1", v: "3", probe: "1", ...(after && { after }) };
    const { url, userId } = await visit(c, room, more);
    const { toEvents, toDelayed, toReply } = new RoomStream();
    return openStream(c.req.raw, {
      ...{ toEvents, toDelayed, toReply, ping: PING },
      stub: actorOf(c.env, room, userId),
      path: `${url.pathname}${url.search}`,
      // The room keeps for a while what the reader misses.
      goneCode: CLOSE.dead,
    });
  });

  app.post("/api/v1/rooms/:room/events", async (c) => {
    const { room, operator } = await operate(c, "publish");
    const body = await readBody(c.req.raw, PUBLISH_BYTES);
    const message = await toPublication(body, c.req.header("Idempotency-Key"), operator);
    const [outcome = CONFLICT] = await deliver(c.env, room, [message]);
    if ("error" in outcome) return Response.json(outcome.error, { status: outcome.status });
    return new Response(outcome.answer, { headers: { "Content-Type": "application/json" } });
  });

  app.post("/api/v1/rooms/:room/events/batch", async (c) => {
    const { room, operator } = await operate(c, "publish");
    const body = await readBody(c.req.raw, BATCH_BYTES);
    const { messages } = (body ?? {}) as { messages?: unknown };
    if (!Array.isArray(messages) || messages.length > BATCH_MESSAGES) {
      throw new RollcallError("bad_request", `messages must be a list of up to ${BATCH_MESSAGES}`);
    }
    const outcomes = new Array<Outcome>(messages.length);
    const good: { index: number; message: RoomPublication }[] = [];
    for (const [index, item] of messages.entries()) {
      try {
        const key = (item as { idempotencyKey?: unknown } | null)?.idempotencyKey;
        good.push({ index, message: await toPublication(item, key, operator) });
      } catch (thrown) {
        if (!(thrown instanceof RollcallError)) throw thrown;
        const { status, code: error, message: details } = thrown;
        outcomes[index] = { status, error: { error, details } };
      }
    }
    const publications = good.map(({ message }) => message);
    const given = good.length > 0 ? await deliver(c.env, room, publications) : [];
    for (const [i, { index }] of good.entries()) outcomes[index] = given[i] as Outcome;
    const results = outcomes.map((outcome) =>
      "error" in outcome
        ? { status: outcome.status, ...outcome.error }
        : { status: 200, ...JSON.parse(outcome.answer) },
    );
    return Response.json({ results });
  });

  app.delete("/api/v1/rooms/:room/users/:id", async (c) => {
    const { room } = await operate(c, "kick");
    const userId = checkUserId(c.req.param("id"));
    const given = c.req.query("blockMs");
    const blockMs = given === undefined ? undefined : Number(given);
    if (
      blockMs !== undefined &&
      !(Number.isInteger(blockMs) && blockMs >= 1 && blockMs <= BLOCK_MS)
    ) {
      throw new RollcallError("bad_request", `blockMs must be from 1 to ${BLOCK_MS}`, "blockMs");
    }
    const sessions = await callsOf(actorOf(c.env, room, userId)).kick({ userId, blockMs });
    return Response.json({ sessions });
  });

  app.get("/api/v1/rooms/:room/changes", async (c) => {
    const { room } = await operate(c, "watch");
    return Response.json(
      await callsOf(roomStubOf(c.env, room)).changes({ after: c.req.query("after") }),
    );
  });

  app.onError((thrown, c) => errorResponse(thrown, c.req.raw));
  return app;
}
