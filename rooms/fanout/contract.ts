import * as z from "zod/mini";
import { defineRecord } from "../../src/actor/record.ts";
import { answered, type SystemDescription } from "../../src/http/describe.ts";
import type { Envelope } from "./envelope.ts";

/** Characters of a user's id. */
export const USER_ID_LENGTH = 256;
/** Messages of a batch. */
export const BATCH_MESSAGES = 100;
/** Fields of a stream's filter, and characters of each key and value. */
export const STREAM_FIELDS = 32;
export const STREAM_FIELD_LENGTH = 1_024;
const KEY_LENGTH = 256;
/** The longest time that a publish waits for acks, in ms. */
const ACK_TIMEOUT_MS = 5_000;

// ── What publishers send ────────────────────────────────────────────────────────────────────────

const keyError = { error: `An idempotency key has 1 to ${KEY_LENGTH} characters` };
const userIdError = { error: "userId is required" };
const longUserIdError = {
  error: `userId must have at most ${USER_ID_LENGTH} characters of Unicode`,
};
const timeoutError = { error: `ackTimeoutMs must be a number from 0 to ${ACK_TIMEOUT_MS}` };

export const idempotencyKey = z.string(keyError).check(
  z.minLength(1, keyError),
  z.maxLength(KEY_LENGTH, keyError),
  z.refine((key) => key.isWellFormed(), keyError),
);

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
  /** `digest` differs when the same key comes with another body. */
  idempotency: z.optional(
    z.object({
      key: z.string(),
      digest: z.string(),
      /** Whose key it is. Absent from a Worker of the release before, whose publishers shared all keys. */
      publisher: z.optional(z.string()),
    }),
  ),
});
export type Publication = z.infer<typeof publication>;

/** `{"clientCount":n,"results":[…],"cursor":…}` as JSON text; 422 when a key came with another body. */
export type PublishOutcome = { status: 200; answer: string } | { status: 422 };

/** The answer under an idempotency key, in storage: one row, or the first of several. */
export const answerRecord = defineRecord({
  version: 1,
  schema: z.object({
    digest: z.string(),
    answer: z.string(),
    /** Whose key it is; absent in rows of earlier releases. */
    publisher: z.exactOptional(z.string()),
    /** Rows that the answer takes. */
    rows: z.int(),
    expiresAtMs: z.number(),
    /** The envelope, in the first row, with its number in the log and that of the event before. */
    envelope: z.exactOptional(
      z.object({ seq: z.int(), prev: z.int(), atMs: z.number(), text: z.string() }),
    ),
  }),
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
  const refused = (description: string) => answered(description, error);
  const json = (schema: z.ZodMiniType) => ({ content: { "application/json": schema } });

  const security = ["bearer", "bearerQuery"] as const;
  const refusals = {
    400: refused("The request is not as described"),
    401: refused("Token missing, bad or expired, or without userId"),
    503: refused("JWT_SECRET is not configured, or the actor restarted meanwhile"),
  };
  const publishRefusals = {
    ...refusals,
    403: refused("The token lacks the scope publish, which this server requires"),
    413: refused("Too large"),
    415: refused("Not application/json"),
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
          422: refused("The key came with another body before"),
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
