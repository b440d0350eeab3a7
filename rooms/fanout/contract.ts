import * as z from "zod/mini";
import { defineRecord } from "../../src/actor/record.ts";
import { answered, limited, refused, type SystemDescription } from "../../src/http/describe.ts";
import { idempotencyFields, idempotencyKey } from "../../src/http/idempotency.ts";
import type { Envelope } from "./envelope.ts";

/** Characters of a user's id. */
export const USER_ID_LENGTH = 256;
/** Messages of a batch. */
export const BATCH_MESSAGES = 100;
/** Fields of a stream's filter, and characters of each key and value. */
export const STREAM_FIELDS = 32;
export const STREAM_FIELD_LENGTH = 1_024;
/** The longest time that a publish waits for acks, in ms. */
const ACK_TIMEOUT_MS = 5_000;

// ── What publishers send ────────────────────────────────────────────────────────────────────────

const userIdError = { error: "userId is required" };
const longUserIdError = {
  error: `userId must have at most ${USER_ID_LENGTH} characters of Unicode`,
};
const timeoutError = { error: `ackTimeoutMs must be a number from 0 to ${ACK_TIMEOUT_MS}` };

/** The body of a publish. */
export const publishBody = z.object({
  userId: z.string(userIdError).check(
    z.minLength(1, userIdError),
    z.refine((userId) => userId.trim() !== "", userIdError),
    z.maxLength(USER_ID_LENGTH, longUserIdError),
    z.refine((userId) => userId.isWellFormed(), longUserIdError),
  ),
  type: z._default(
    z
      .string({ error: "type must be a string" })
      .check(z.minLength(1, { error: "type must not be empty" })),
    "message",
  ),
  payload: z.optional(z.unknown()),
  ackTimeoutMs: z._default(
    z.number(timeoutError).check(z.gte(0, timeoutError), z.lte(ACK_TIMEOUT_MS, timeoutError)),
    ACK_TIMEOUT_MS,
  ),
});

// ── Calls and records ───────────────────────────────────────────────────────────────────────────

/** A message as the Worker sends it to the user's actor. */
export const publication = z.object({
  type: z.string(),
  /** As JSON text, which it stays, so that subscribers receive what the publisher wrote. */
  payload: z.optional(z.string()),
  ackTimeoutMs: z.number().check(z.gte(0), z.lte(ACK_TIMEOUT_MS)),
  /** The userId of its publisher. Absent from a Worker of the release before. */
  from: z.optional(z.string()),
  idempotency: z.optional(idempotencyFields),
});
/** A message to a user, as the Worker hands it to the user's actor. */
export type Publication = z.infer<typeof publication>;

/** `{"clientCount":n,"results":[…],"cursor":…}` as JSON text; 422 when a key came with another body. */
export type PublishOutcome = { status: 200; answer: string } | { status: 422 };

// ── People ──────────────────────────────────────────────────────────────────────────────────────

/** Users that one socket watches. */
export const WATCHED = 500;

/** What a room reports of a user. */
export const report = z.object({
  binding: z.string(),
  room: z.string(),
  shard: z.optional(z.int().check(z.nonnegative())),
  atMs: z.number(),
  isPresent: z.boolean(),
  isListed: z.boolean(),
});

/** A user whom this actor's clients watch came online or went offline. */
export const personUpdate = z.object({
  userId: z.string(),
  isOnline: z.boolean(),
  seq: z.number(),
});

const personFields = z.object({
  /** Where the user is. */
  rooms: z.array(
    z.looseObject({
      binding: z.string(),
      room: z.string(),
      shard: z.optional(z.int().check(z.nonnegative())),
      /** Of the room's last report, in ms. */
      atMs: z.number(),
      /** Whether others see the user there. */
      isListed: z.boolean(),
    }),
  ),
  /** Grows whenever the user comes online or goes offline. */
  seq: z.int(),
  /** What watchers were sent last: whether the user is online. */
  isShown: z.boolean(),
  /** When the user was last online, in ms. */
  lastSeenMs: z.exactOptional(z.number()),
  /** Tokens that were issued up to this second were revoked. */
  floorS: z.exactOptional(z.number()),
  /** Not all rooms know of that yet. */
  isRevoking: z.exactOptional(z.boolean()),
});
export type Person = z.infer<typeof personFields>;

/** What is known of the actor's user, in storage. */
export const personRecord = defineRecord<Person>({ version: 1, schema: personFields });

/** An actor that watches this user, in storage: until when, in ms. */
export const watcherRecord = defineRecord({
  version: 1,
  schema: z.object({ untilMs: z.number() }),
});

// ── Description ─────────────────────────────────────────────────────────────────────────────────

/** Routes, socket and stream of the fan-out. */
export function describeFanout(): SystemDescription {
  const filters = z.array(
    z.catchall(z.object({ type: z.string().check(z.minLength(1)) }), z.string()),
  );
  const cursor = z
    .string()
    .check(z.describe("Where a reader is. It comes back as `since`, or as `Last-Event-ID`"));
  const gap = z.object({
    type: z.literal("gap"),
    reason: z.enum(["trimmed", "restarted", "unknown"]),
    cursor,
  });
  const envelope = z.object({
    envelopeId: z.string(),
    type: z.string().check(z.minLength(1)),
    userId: z.string(),
    timestamp: z.iso.datetime(),
    cursor: z.exactOptional(cursor),
    publisher: z.exactOptional(z.string()),
    payload: z.optional(z.unknown()),
  }) satisfies z.ZodMiniType<Envelope>;

  const answer = z.object({
    clientCount: z.int().check(z.describe("Sockets that had a matching filter")),
    results: z.array(z.unknown()).check(z.describe("The results of their acks")),
    cursor,
  });
  const error = z.object({ error: z.string() });
  const refusedPlainly = (description: string) => answered(description, error);
  const json = (schema: z.ZodMiniType) => ({ content: { "application/json": schema } });

  const security = ["bearer", "bearerQuery"] as const;
  const refusals = {
    400: refusedPlainly("The request is not as described"),
    401: refusedPlainly("Token missing, bad or expired, or without userId"),
    429: limited(error),
    503: refusedPlainly("JWT_SECRET is not configured, or the actor restarted meanwhile"),
  };
  const publishRefusals = {
    ...refusals,
    403: refusedPlainly("The token lacks the scope publish, which this server requires"),
    413: refusedPlainly("Too large"),
    415: refusedPlainly("Not application/json"),
  };

  return {
    tag: {
      name: "Fan-out",
      description: "Messages to a user's sockets, by content, and their answers.",
    },
    routes: [
      {
        method: "post",
        path: "/publish",
        summary: "Publishes an envelope to a user's sockets, and returns their answers",
        security,
        headers: z.object({ "Idempotency-Key": z.optional(idempotencyKey) }),
        body: json(publishBody),
        responses: {
          200: answered("Delivered to all sockets that subscribed", answer),
          ...publishRefusals,
          422: refusedPlainly("The key came with another body before"),
        },
      },
      {
        method: "post",
        path: "/publish/batch",
        summary: `Publishes up to ${BATCH_MESSAGES} envelopes; a bad one affects no other`,
        security,
        body: json(
          z.object({
            messages: z
              .array(z.extend(publishBody, { idempotencyKey: z.optional(idempotencyKey) }))
              .check(z.maxLength(BATCH_MESSAGES)),
          }),
        ),
        responses: {
          200: answered(
            "One result per message, in order",
            z.object({
              results: z.array(
                z.union([
                  z.extend(answer, { status: z.literal(200) }),
                  z.extend(error, { status: z.int() }),
                ]),
              ),
            }),
          ),
          ...publishRefusals,
        },
      },
      {
        method: "get",
        path: "/fanout/stream",
        summary: "A user's envelopes as server-sent events",
        description: `Every parameter but \`token\` and \`lastEventId\` is a field of the filter, given once; at most ${STREAM_FIELDS}, of ${STREAM_FIELD_LENGTH} characters. With \`Last-Event-ID\` (header or \`lastEventId\`) it goes on where that event was.`,
        security,
        query: z.object({
          type: z.string().check(z.minLength(1), z.maxLength(STREAM_FIELD_LENGTH)),
        }),
        responses: {
          200: {
            description:
              "Envelopes; `id:` is the envelope's cursor. `event: gap`: what followed the last event is not known",
            content: { "text/event-stream": z.string() },
          },
          ...refusals,
        },
      },
    ],
    channels: {
      fanout: {
        address: "/ws/fanout",
        title: "The envelopes published to a user",
        description:
          "By filters, to which a client subscribes: a type, and fields of the payload by their values. `/` accepts the upgrade as well. A wire of its own: a bare `ping` is answered by a bare `pong`.",
        security,
        wire: "plain",
        in: {
          subscribe: z.object({
            type: z.literal("subscribe"),
            filters,
            since: z.optional(
              z
                .string()
                .check(
                  z.describe("A cursor: later envelopes come first. `now`: answered by `cursor`"),
                ),
            ),
          }),
          unsubscribe: z.object({ type: z.literal("unsubscribe"), filters }),
          ack: z.object({
            type: z.literal("ack"),
            envelopeId: z.string(),
            result: z.optional(z.unknown()),
          }),
          ping: z.literal("ping"),
        },
        out: {
          envelope,
          gap,
          cursor: z.object({ type: z.literal("cursor"), cursor }),
          error: z.object({
            type: z.literal("error"),
            code: z.string(),
            message: z.exactOptional(z.string()),
            path: z.exactOptional(z.string()),
          }),
          pong: z.literal("pong"),
        },
      },
      fanoutStream: {
        address: "/fanout/stream",
        title: "The envelopes published to a user, as server-sent events",
        description:
          "Every parameter but `token` and `lastEventId` is a field of the filter. `id:` is a cursor.",
        security,
        wire: "plain",
        in: {},
        out: { envelope, gap },
      },
    },
    components: { Publish: publishBody, PublishAnswer: answer, FanoutError: error },
  };
}

/** The directory: the rooms of a user, `/ws/people`, and revocations. */
export function describePeople(): SystemDescription {
  const security = ["bearer", "bearerQuery"] as const;
  const params = z.object({ id: z.string().check(z.minLength(1), z.maxLength(USER_ID_LENGTH)) });
  const refusals = {
    400: refused("The id is blank, too long or malformed"),
    401: refused("The token is missing, bad or expired"),
    403: refused("The token does not allow this for the user"),
    429: limited(),
    503: refused("DIRECTORY is not on"),
  };
  const count = z.int().check(z.nonnegative());
  const ids = z.array(z.string()).check(z.maxLength(WATCHED));
  const person = { userId: z.string(), online: z.boolean() };
  return {
    tag: { name: "People", description: "The rooms of a user, online users, and revoking tokens." },
    routes: [
      {
        method: "get",
        path: "/api/v1/users/{id}",
        summary: "Where a user is",
        security,
        params,
        responses: {
          200: answered(
            "`online`: in a room where others see the user",
            z.object({
              online: z.boolean(),
              lastSeenMs: z.nullable(z.number()),
              rooms: z.array(z.object({ room: z.string(), devices: count, status: z.string() })),
              devices: z.array(z.any()).check(z.describe("The devices that send heartbeats")),
            }),
          ),
          ...refusals,
        },
      },
      {
        method: "post",
        path: "/api/v1/users/{id}/revoke",
        summary: "Revokes the tokens of a user, and closes the connections with 4401",
        description:
          "Tokens that were issued up to that second (`iat`), and those without `iat`, do not hold any more: in actors at once, elsewhere within 60 s. The body may be empty.",
        security,
        params,
        body: {
          content: {
            "application/json": z.object({
              issuedBefore: z
                .optional(z.number())
                .check(z.describe("In seconds since the epoch, as `iat`; default now")),
            }),
          },
        },
        responses: {
          200: answered(
            "How many sessions were closed",
            z.object({ sessions: count, issuedBefore: z.int() }),
          ),
          ...refusals,
        },
      },
      {
        method: "post",
        path: "/api/v1/users/{id}/disconnect",
        summary: "Closes the connections of a user with 4401; tokens still hold",
        security,
        params,
        responses: {
          200: answered("How many sessions were closed", z.object({ sessions: count })),
          ...refusals,
        },
      },
    ],
    channels: {
      people: {
        address: "/ws/people",
        title: "Whether people are online",
        description: `Watches up to ${WATCHED} users. Each \`watch\` is answered by a \`people.sync\` of its ids, which changes follow, at most one for a user and second. A user whom the client may not see looks offline. A wire of its own: a bare \`ping\` is answered by a bare \`pong\`.`,
        security,
        wire: "plain",
        in: {
          watch: z.object({ type: z.literal("watch"), ids }),
          unwatch: z.object({ type: z.literal("unwatch"), ids }),
          ping: z.literal("ping"),
        },
        out: {
          "people.sync": z.object({
            type: z.literal("people.sync"),
            users: z.array(z.object(person)),
          }),
          "people.update": z.object({ type: z.literal("people.update"), ...person }),
          error: z.object({
            type: z.literal("error"),
            code: z.string(),
            message: z.exactOptional(z.string()),
            path: z.exactOptional(z.string()),
          }),
          pong: z.literal("pong"),
        },
      },
    },
  };
}
