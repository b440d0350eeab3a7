import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { callIngest } from "../../src/actor/call.ts";
import { readBody } from "../../src/http/body.ts";
import type { AppEnv } from "../../src/http/routes.ts";
import { openStream } from "../../src/http/sse.ts";
import { inSpan } from "../../src/http/trace.ts";
import { log } from "../../src/log.ts";
import { type ErrorCode, RollcallError } from "../../src/wire/errors.ts";
import { admitPublisher, identify, isUserId } from "./access.ts";

const PUBLISH_BYTES = 262_144;
const BATCH_BYTES = 1_048_576;
const BATCH_MESSAGES = 100;
const KEY_LENGTH = 256;
const ACK_TIMEOUT_MS = 5_000;
/** Fields of a stream's filter, and characters of each key and value. */
const STREAM_FIELDS = 32;
const STREAM_FIELD_LENGTH = 1_024;
/** Path of the room's upgrade. */
const SOCKET_PATH = "/ws/fanout";

const encoder = new TextEncoder();

const keySchema = z
  .string()
  .refine(
    (key) => key !== "" && key.length <= KEY_LENGTH && key.isWellFormed(),
    `An idempotency key has 1 to ${KEY_LENGTH} characters`,
  )
  .openapi({ minLength: 1, maxLength: KEY_LENGTH });

const timeoutError = `ackTimeoutMs must be a number from 0 to ${ACK_TIMEOUT_MS}`;
const publishSchema = z
  .object({
    userId: z
      .string("userId is required")
      .refine((userId) => userId.trim() !== "", "userId is required")
      .refine(isUserId, "userId must have at most 256 characters of Unicode")
      .openapi({ minLength: 1, maxLength: 256 }),
    type: z.string("type must be a string").min(1, "type must not be empty").default("message"),
    payload: z.unknown().optional(),
    ackTimeoutMs: z
      .number(timeoutError)
      .min(0, timeoutError)
      .max(ACK_TIMEOUT_MS, timeoutError)
      .default(ACK_TIMEOUT_MS),
  })
  .openapi("Publish");
const batchItemSchema = publishSchema.extend({ idempotencyKey: keySchema.optional() });

const answerSchema = z
  .object({
    clientCount: z.int().openapi({ description: "Sockets that had a matching filter" }),
    results: z.array(z.unknown()).openapi({ description: "What they acked with" }),
  })
  .openapi("PublishAnswer");
const errorSchema = z.object({ error: z.string() }).openapi("FanoutError");

function json<T>(schema: T) {
  return { "application/json": { schema } };
}
const tags = ["Fan-out"];
const security = [{ bearer: [] }, { bearerQuery: [] }];
const refused = (description: string) => ({ description, content: json(errorSchema) });
const listenRefusals = {
  400: refused("Not what it should be"),
  401: refused("Token missing, bad or expired, or without userId"),
  503: refused("JWT_SECRET is not configured, or the actor restarted meanwhile"),
};
const publishRefusals = {
  ...listenRefusals,
  403: refused("The token lacks the scope publish, which this server asks for"),
  413: refused("Too large"),
  415: refused("Not application/json"),
};

const publishRoute = createRoute({
  method: "post",
  path: "/publish",
  summary: "Publish an envelope to a user's sockets, and get what they answer",
  tags,
  security,
  request: {
    headers: z.object({ "Idempotency-Key": keySchema.optional() }),
    body: { content: json(publishSchema), required: true },
  },
  responses: {
    200: { description: "Delivered to those who subscribed", content: json(answerSchema) },
    ...publishRefusals,
    422: refused("The key came with another body before"),
  },
});

const batchRoute = createRoute({
  method: "post",
  path: "/publish/batch",
  summary: `Publish up to ${BATCH_MESSAGES} envelopes; a bad one spoils no other`,
  tags,
  security,
  request: {
    body: {
      content: json(z.object({ messages: z.array(batchItemSchema).max(BATCH_MESSAGES) })),
      required: true,
    },
  },
  responses: {
    200: {
      description: "One result a message, in order",
      content: json(
        z.object({
          results: z.array(
            z.union([
              answerSchema.extend({ status: z.literal(200) }),
              errorSchema.extend({ status: z.int() }),
            ]),
          ),
        }),
      ),
    },
    ...publishRefusals,
  },
});

const streamRoute = createRoute({
  method: "get",
  path: "/fanout/stream",
  summary: "A user's envelopes as server-sent events",
  description:
    "Every parameter but `token` is a field of the filter, given once; at most 32, of 1024 characters.",
  tags,
  security,
  request: { query: z.object({ type: z.string().min(1).max(STREAM_FIELD_LENGTH) }) },
  responses: {
    200: {
      description: "Envelopes; `id:` is the envelope's id",
      content: { "text/event-stream": { schema: z.string() } },
    },
    ...listenRefusals,
  },
});

/** A message as the actor takes it, and the actor's name. */
interface Publication {
  userId: string;
  message: {
    type: string;
    payload?: string;
    ackTimeoutMs: number;
    idempotency?: { key: string; digest: string };
  };
}
type Outcome = { status: 200; answer: string } | { status: number; error: string };

/** What the contract says of each code, in its words; the code's own message where it says nothing. */
const WORDS: Partial<Record<ErrorCode, string>> = {
  unauthorized: "Unauthorized",
  token_expired: "Unauthorized",
  forbidden: "Forbidden",
  too_large: "Payload Too Large",
  unsupported_media_type: "Unsupported Media Type",
};

function refusalOf(error: RollcallError): { status: number; error: string } {
  return { status: error.status, error: WORDS[error.code] ?? error.message };
}

const invalidBody = () => new RollcallError("bad_request", "Invalid JSON body");

async function readJson(request: Request, limitBytes: number): Promise<unknown> {
  const contentType = request.headers.get("Content-Type") ?? "";
  if (!/^application\/json\s*(?:;|$)/i.test(contentType)) {
    throw new RollcallError("unsupported_media_type", "Not application/json");
  }
  const text = await readBody(request, limitBytes);
  if (text === null) throw new RollcallError("too_large", "The body is too large");
  try {
    return JSON.parse(text);
  } catch {
    throw invalidBody();
  }
}

/** Text of a value that came from JSON. Refuses what nests deeper than the stack. */
function toText(value: unknown): string {
  try {
    return JSON.stringify(value);
  } catch {
    throw invalidBody();
  }
}

function parse<T>(schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new RollcallError("bad_request", parsed.error.issues[0]?.message ?? "Invalid body");
}

/** @throws RollcallError `bad_request` for what is no publish body, or a malformed key */
async function toPublication(body: unknown, key: unknown): Promise<Publication> {
  if (typeof body !== "object" || body === null || Array.isArray(body)) throw invalidBody();
  const { userId, type, payload, ackTimeoutMs } = parse(publishSchema, body);
  const message: Publication["message"] = { type, ackTimeoutMs };
  if (payload !== undefined) message.payload = toText(payload);
  if (key !== undefined && key !== null) {
    const digest = await digestOf(message);
    message.idempotency = { key: parse(keySchema, key), digest };
  }
  return { userId, message };
}

/** What is the same for the same message only. */
async function digestOf(message: Publication["message"]): Promise<string> {
  const hash = await crypto.subtle.digest("SHA-256", encoder.encode(JSON.stringify(message)));
  return [...new Uint8Array(hash)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Hands a user's messages to the user's actor, in order.
 *
 * @throws RollcallError `unavailable` when the actor ended before it answered, as with a deployment.
 *   What has a key is safe to be asked for again; what has none may have been delivered.
 */
async function deliver(
  env: Env,
  userId: string,
  messages: readonly Publication["message"][],
): Promise<Outcome[]> {
  const isRepeatable = messages.every(({ idempotency }) => idempotency !== undefined);
  for (let attempt = 1; ; attempt++) {
    try {
      const stub = env.FANOUT.getByName(userId);
      const handOver = () => callIngest(stub, "publish", messages);
      const outcomes = (await inSpan("publish", handOver, { messages: messages.length })) as (
        | { status: 200; answer: string }
        | { status: 422 }
      )[];
      return outcomes.map((outcome) =>
        outcome.status === 200
          ? outcome
          : { status: 422, error: "This idempotency key came with another body" },
      );
    } catch (error) {
      if (error instanceof RollcallError) throw error;
      log("publish_interrupted", { attempt, error });
      if (isRepeatable && attempt === 1) continue;
      throw new RollcallError("unavailable", "The answer was lost on the way; it may be delivered");
    }
  }
}

async function publish(c: Context<AppEnv>): Promise<Response> {
  const request = c.req.raw;
  await admitPublisher(request, c.env);
  const body = await readJson(request, PUBLISH_BYTES);
  const { userId, message } = await toPublication(body, request.headers.get("Idempotency-Key"));
  const [outcome] = await deliver(c.env, userId, [message]);
  if (outcome && "answer" in outcome) return jsonText(outcome.answer);
  return Response.json({ error: outcome?.error }, { status: outcome?.status ?? 500 });
}

async function publishBatch(c: Context<AppEnv>): Promise<Response> {
  const request = c.req.raw;
  await admitPublisher(request, c.env);
  const body = await readJson(request, BATCH_BYTES);
  if (typeof body !== "object" || body === null || Array.isArray(body)) throw invalidBody();
  const { messages } = body as { messages?: unknown };
  if (!Array.isArray(messages) || messages.length > BATCH_MESSAGES) {
    throw new RollcallError("bad_request", `messages must be a list of up to ${BATCH_MESSAGES}`);
  }

  const outcomes = new Array<Outcome>(messages.length);
  const fail = (index: number, thrown: unknown): void => {
    if (!(thrown instanceof RollcallError)) throw thrown;
    outcomes[index] = refusalOf(thrown);
  };
  /** By user, since one call keeps the order. */
  const byUser = new Map<string, { index: number; message: Publication["message"] }[]>();
  for (const [index, item] of messages.entries()) {
    try {
      const key = (item as { idempotencyKey?: unknown } | null)?.idempotencyKey;
      const { userId, message } = await toPublication(item, key);
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
        const given = await deliver(
          c.env,
          userId,
          group.map(({ message }) => message),
        );
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

function jsonText(text: string): Response {
  return new Response(text, { headers: { "Content-Type": "application/json" } });
}

async function stream(c: Context<AppEnv>): Promise<Response> {
  const { userId } = await identify(c.req.raw, c.env);
  const { searchParams } = new URL(c.req.url);
  const token = searchParams.get("token");
  const fields = [...searchParams].filter(([key]) => key !== "token");
  const isTooLong = fields.some((field) => field.some((text) => text.length > STREAM_FIELD_LENGTH));
  if (fields.length > STREAM_FIELDS || isTooLong) {
    throw new RollcallError("bad_request", "The filter is too long");
  }
  // A map first: an object would take `__proto__` for its prototype.
  const filter = new Map(fields);
  if (!filter.get("type")) throw new RollcallError("bad_request", "type is required");
  if (filter.size < fields.length) {
    throw new RollcallError("bad_request", "Each field of a filter is given once");
  }
  const pairs = [...filter].map(
    ([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`,
  );
  const query = new URLSearchParams({ filter: `{${pairs.join(",")}}`, ...(token && { token }) });
  return openStream(c.req.raw, {
    stub: c.env.FANOUT.getByName(userId),
    path: `${SOCKET_PATH}?${query}`,
    ping: "ping",
    toEvents(message) {
      const { envelopeId: id } = envelopeOf(message);
      return typeof id === "string" ? [{ id, data: message }] : [];
    },
  });
}

/** A message of the room's: an envelope, or what a stream passes over: `pong`, or an error. */
function envelopeOf(message: string): { envelopeId?: unknown } {
  return message.startsWith("{") ? (JSON.parse(message) as { envelopeId?: unknown }) : {};
}

function isUpgrade(request: Request): boolean {
  return request.headers.get("Upgrade")?.toLowerCase() === "websocket";
}

async function connect(c: Context<AppEnv>): Promise<Response> {
  const { userId } = await identify(c.req.raw, c.env);
  // Of the query only the token: the rest is between the stream's route and the room.
  const token = new URL(c.req.url).searchParams.get("token");
  const query = token === null ? "" : `?${new URLSearchParams({ token })}`;
  const url = new URL(SOCKET_PATH + query, c.req.url);
  return c.env.FANOUT.getByName(userId).fetch(new Request(url, c.req.raw));
}

/** Publishing to a user's sockets, and the ways to listen. */
export function fanoutRoutes(): OpenAPIHono<AppEnv> {
  const app = new OpenAPIHono<AppEnv>();
  const routes = [
    { route: publishRoute, handle: publish, methods: "POST,OPTIONS" },
    { route: batchRoute, handle: publishBatch, methods: "POST,OPTIONS" },
    { route: streamRoute, handle: stream, methods: "GET,OPTIONS" },
  ];
  for (const { route, handle, methods } of routes) {
    // The bodies are read and refused in the contract's words, which the library's validators lack.
    app.openAPIRegistry.registerPath(route);
    app.use(route.path, async (c, next) => {
      await next();
      c.res.headers.set("Access-Control-Allow-Origin", "*");
    });
    app.options(route.path, (c) =>
      c.body(null, 204, {
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": "authorization,content-type,idempotency-key",
        "Access-Control-Max-Age": "86400",
      }),
    );
    app.on(route.method, route.path, handle);
  }

  app.get(SOCKET_PATH, (c) => {
    if (isUpgrade(c.req.raw)) return connect(c);
    throw new RollcallError("upgrade_required", `${SOCKET_PATH} takes WebSockets only`);
  });
  // A page may live there as well: what is no upgrade is left to who comes after.
  app.get("/", (c, next) => (isUpgrade(c.req.raw) ? connect(c) : next()));

  app.onError((thrown) => {
    if (thrown instanceof RollcallError) {
      const { status, error } = refusalOf(thrown);
      return Response.json({ error }, { status });
    }
    log("request_failed", { error: thrown });
    return Response.json({ error: "Internal error" }, { status: 500 });
  });
  return app;
}
