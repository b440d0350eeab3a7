import { type Context, Hono } from "hono";
import { spend } from "../../src/access/quota.ts";
import { call } from "../../src/actor/call.ts";
import { namespaceOf } from "../../src/http/binding.ts";
import { parseValue, readJson, requireJsonType } from "../../src/http/body.ts";
import { errorResponse } from "../../src/http/errors.ts";
import { guardRoutes } from "../../src/http/guard.ts";
import { idempotencyKey, sendToActor, toIdempotency } from "../../src/http/idempotency.ts";
import { openStream, type StreamEvent } from "../../src/http/sse.ts";
import { inSpan } from "../../src/http/trace.ts";
import { forwardUpgrade, isUpgrade, requireUpgrade } from "../../src/http/upgrade.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import {
  type AuthenticatePublisher,
  type AuthenticateSubscriber,
  authorizeSubscriber,
  type Publisher,
  requirePublisher,
} from "./access.ts";
import {
  BATCH_MESSAGES,
  type Publication,
  publishBody,
  STREAM_FIELD_LENGTH,
  STREAM_FIELDS,
} from "./contract.ts";
import type { FanoutRoom } from "./room.ts";
import { losesDigits, sliceElements, sliceMember } from "./slice.ts";

const PUBLISH_BYTES = 262_144;
const BATCH_BYTES = 1_048_576;

/** Characters of a cursor: longer text is none. */
const CURSOR_LENGTH = 128;

const encoder = new TextEncoder();

export interface FanoutRouteOptions<E> {
  /** Path of the room's upgrade. */
  websocketPath: string;
  binding: string;
  authenticateSubscriber: AuthenticateSubscriber<E>;
  authenticatePublisher: AuthenticatePublisher<E>;
}

/** A message, and the user it is for. */
interface Addressed {
  userId: string;
  message: Publication;
}
type Outcome = { status: 200; answer: string } | { status: number; error: string };

/** The contract's words for these codes. Other errors have their own message. */
const WORDS: Partial<Record<string, string>> = {
  unauthorized: "Unauthorized",
  token_expired: "Unauthorized",
  forbidden: "Forbidden",
  too_large: "Payload Too Large",
  unsupported_media_type: "Unsupported Media Type",
};

function word({ code, message }: RollcallError): { error: string } {
  return { error: WORDS[code] ?? message };
}

const INVALID_BODY = "Invalid JSON body";
const invalidBody = () => new RollcallError("bad_request", INVALID_BODY);

/** A JSON object as a value, and as it was written. */
interface Body {
  value: unknown;
  text: string;
}

/** @throws RollcallError `unsupported_media_type`, `too_large` or `bad_request` */
async function readBody(request: Request, limitBytes: number): Promise<Body> {
  requireJsonType(request);
  const parse = (text: string): Body => ({ value: JSON.parse(text), text });
  return (await readJson(request, { limitBytes, message: INVALID_BODY, parse })) as Body;
}

function toObject(value: unknown): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw invalidBody();
  return value as Record<string, unknown>;
}

/** Text of a value that came from JSON. @throws RollcallError when it nests deeper than the stack allows */
function toText(value: unknown): string {
  try {
    return JSON.stringify(value);
  } catch {
    throw invalidBody();
  }
}

/**
 * A message as its publisher wrote it: JSON.parse would round the digits of long numbers.
 *
 * @param publisher who sends it, to whom an idempotency key belongs
 * @throws RollcallError `bad_request` for a body that is no publish, or a malformed key; `forbidden`
 *   where it may not publish to this user
 */
async function toAddressed(
  body: Body,
  given: unknown,
  { publisher, mayPublishTo }: Publisher,
): Promise<Addressed> {
  const { userId, type, payload, ackTimeoutMs } = parseValue(publishBody, toObject(body.value));
  if (mayPublishTo?.(userId) === false) {
    throw new RollcallError("forbidden", "The token does not allow to publish to this user");
  }
  const message: Publication = { type, ackTimeoutMs };
  const addressed = () => ({
    userId,
    message: { ...message, ...(publisher !== "" && { from: publisher }) },
  });
  // The value's text finds values that nest too deeply.
  const parsedText = payload === undefined ? undefined : toText(payload);
  if (parsedText !== undefined) message.payload = sliceMember(body.text, "payload") ?? parsedText;
  if (given === undefined || given === null) return addressed();
  const key = parseValue(idempotencyKey, given);
  // Of the value's own text, as earlier releases made it: a retry may be written in another way. Where
  // parsing would round a number, it is of the text that the publisher wrote.
  const isExact = message.payload === undefined || !losesDigits(message.payload);
  const value = isExact && parsedText !== undefined ? { ...message, payload: parsedText } : message;
  message.idempotency = await toIdempotency(key, JSON.stringify(value), publisher);
  return addressed();
}

function jsonText(text: string): Response {
  return new Response(text, { headers: { "Content-Type": "application/json" } });
}

/** The filter that a stream's query names, as JSON text. @throws RollcallError `bad_request` */
function filterOf(query: URLSearchParams): string {
  const fields = [...query].filter(([key]) => key !== "token" && key !== "lastEventId");
  const isTooLong = fields.some((field) => field.some((text) => text.length > STREAM_FIELD_LENGTH));
  if (fields.length > STREAM_FIELDS || isTooLong) {
    throw new RollcallError("bad_request", "The filter is too long");
  }
  // Not an object, whose prototype `__proto__` would set.
  const filter = new Map(fields);
  if (!filter.get("type")) throw new RollcallError("bad_request", "type is required");
  if (filter.size < fields.length) {
    throw new RollcallError("bad_request", "Each field of a filter is given once");
  }
  const pairs = [...filter].map(
    ([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`,
  );
  return `{${pairs.join(",")}}`;
}

/** A message of the room as events of a stream; a `pong` or an error is none. */
function toEvents(message: string): StreamEvent[] {
  if (!message.startsWith("{")) return [];
  const { type, envelopeId, cursor } = JSON.parse(message) as Record<string, unknown>;
  const id = String(cursor ?? envelopeId);
  if (typeof envelopeId === "string") return [{ id, data: message }];
  if (typeof cursor !== "string") return [];
  // Without data it is no event: the reader only notes the id.
  return type === "gap" ? [{ event: "gap", id, data: message }] : [{ id }];
}

/** Routes to publish to a user's sockets, and to subscribe over a socket or a stream. */
export function fanoutRoutes<E extends object>(
  options: FanoutRouteOptions<E>,
): Hono<{ Bindings: E }> {
  const { websocketPath, binding, authenticateSubscriber, authenticatePublisher } = options;
  const app = new Hono<{ Bindings: E }>();
  const stubOf = (env: E, userId: string) => namespaceOf(env, binding).getByName(userId);

  /**
   * Sends a user's messages to the user's actor, in order.
   *
   * @throws RollcallError `unavailable` when the actor ended before it answered, for example at a
   *   deploy. A message with a key may be sent again; one without may have been delivered.
   */
  async function deliver(env: E, userId: string, messages: Publication[]): Promise<Outcome[]> {
    const isRepeatable = messages.every(({ idempotency }) => idempotency !== undefined);
    const publish = () => call<FanoutRoom>(stubOf(env, userId)).publish(messages);
    const outcomes = await sendToActor(isRepeatable, () =>
      inSpan("publish", publish, { messages: messages.length }),
    );
    return outcomes.map((outcome) =>
      outcome.status === 200
        ? outcome
        : { status: 422, error: "This idempotency key came with another body" },
    );
  }

  async function publish(c: Context<{ Bindings: E }>): Promise<Response> {
    const request = c.req.raw;
    const publisher = await requirePublisher(request, c.env, authenticatePublisher);
    await spend(c.env, "LIMIT_PUBLISHES", publisher.publisher);
    const body = await readBody(request, PUBLISH_BYTES);
    const key = request.headers.get("Idempotency-Key");
    const { userId, message } = await toAddressed(body, key, publisher);
    const [outcome] = await deliver(c.env, userId, [message]);
    if (outcome && "answer" in outcome) return jsonText(outcome.answer);
    return Response.json({ error: outcome?.error }, { status: outcome?.status ?? 500 });
  }

  async function publishBatch(c: Context<{ Bindings: E }>): Promise<Response> {
    const request = c.req.raw;
    const publisher = await requirePublisher(request, c.env, authenticatePublisher);
    await spend(c.env, "LIMIT_PUBLISHES", publisher.publisher);
    const { value, text } = await readBody(request, BATCH_BYTES);
    const { messages } = toObject(value);
    if (!Array.isArray(messages) || messages.length > BATCH_MESSAGES) {
      throw new RollcallError("bad_request", `messages must be a list of up to ${BATCH_MESSAGES}`);
    }

    const outcomes = new Array<Outcome>(messages.length);
    const fail = (index: number, thrown: unknown): void => {
      if (!(thrown instanceof RollcallError)) throw thrown;
      outcomes[index] = { status: thrown.status, ...word(thrown) };
    };
    /** By user, since one call keeps the order. */
    const byUser = new Map<string, { index: number; message: Publication }[]>();
    const texts = sliceElements(sliceMember(text, "messages") ?? "[]");
    for (const [index, item] of messages.entries()) {
      try {
        const key = (item as { idempotencyKey?: unknown } | null)?.idempotencyKey;
        const body = { value: item, text: texts[index] ?? "null" };
        const { userId, message } = await toAddressed(body, key, publisher);
        if (encoder.encode(message.payload).byteLength > PUBLISH_BYTES) {
          throw new RollcallError("too_large", "The payload is too large");
        }
        const group = byUser.get(userId);
        if (group) group.push({ index, message });
        else byUser.set(userId, [{ index, message }]);
      } catch (thrown) {
        fail(index, thrown);
      }
    }
    await Promise.all(
      [...byUser].map(async ([userId, group]) => {
        try {
          const ofUser = group.map(({ message }) => message);
          const given = await deliver(c.env, userId, ofUser);
          for (const [i, { index }] of group.entries()) outcomes[index] = given[i] as Outcome;
        } catch (thrown) {
          for (const { index } of group) fail(index, thrown);
        }
      }),
    );
    const results = outcomes.map((outcome) =>
      "answer" in outcome ? `{"status":200,${outcome.answer.slice(1)}` : JSON.stringify(outcome),
    );
    return jsonText(`{"results":[${results.join(",")}]}`);
  }

  async function stream(c: Context<{ Bindings: E }>): Promise<Response> {
    const { userId } = await authorizeSubscriber(c.req.raw, c.env, authenticateSubscriber);
    await spend(c.env, "LIMIT_CONNECTS", userId);
    const { searchParams } = new URL(c.req.url);
    const token = searchParams.get("token");
    const filter = filterOf(searchParams);
    const since = c.req.header("Last-Event-ID") ?? searchParams.get("lastEventId");
    const query = new URLSearchParams({
      filter,
      ...(since && { since: since.slice(0, CURSOR_LENGTH) }),
      ...(token && { token }),
    });
    return openStream(c.req.raw, {
      stub: stubOf(c.env, userId),
      path: `${websocketPath}?${query}`,
      ping: "ping",
      toEvents,
    });
  }

  async function connect(c: Context<{ Bindings: E }>): Promise<Response> {
    const { userId } = await authorizeSubscriber(c.req.raw, c.env, authenticateSubscriber);
    await spend(c.env, "LIMIT_CONNECTS", userId);
    // Only the token of the query: `filter` is for the stream's route.
    const token = new URL(c.req.url).searchParams.get("token");
    const version = new URL(c.req.url).searchParams.get("v");
    const query = new URLSearchParams({ ...(token && { token }), ...(version && { v: version }) });
    const url = new URL(`${websocketPath}?${query}`, c.req.url);
    return forwardUpgrade(stubOf(c.env, userId), c.req.raw, url);
  }

  const cors = { headers: "authorization,content-type,idempotency-key" };
  guardRoutes(app, {
    "/publish": { methods: ["POST"], cors },
    "/publish/batch": { methods: ["POST"], cors },
    "/fanout/stream": { methods: ["GET"], cors, isStream: true },
    [websocketPath]: { methods: ["GET"] },
  });
  app.post("/publish", publish);
  app.post("/publish/batch", publishBatch);
  app.get("/fanout/stream", stream);
  app.get(websocketPath, (c) => {
    requireUpgrade(c.req.raw);
    return connect(c);
  });
  // Other requests to `/` are left to later routes, such as an app's page.
  app.get("/", (c, next) => (isUpgrade(c.req.raw) ? connect(c) : next()));

  app.onError((thrown, c) => errorResponse(thrown, c.req.raw, word));
  return app;
}
