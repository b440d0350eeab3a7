import * as z from "zod/mini";
import { ERRORS, type ErrorPayload } from "../../wire/errors.ts";
import { type Hello, HISTORY, ID_LENGTH } from "../../wire/frames.ts";

const id = z.string().check(z.minLength(1), z.maxLength(ID_LENGTH));
const codes = Object.keys(ERRORS) as (keyof typeof ERRORS)[];

/** An `error` event's data, and a nack's `error`. */
export const errorPayload = z.object({
  code: z.enum(codes),
  message: z.string(),
  path: z.exactOptional(z.string()),
}) satisfies z.ZodMiniType<ErrorPayload>;

const hello = z.object({
  protocol: z.union([z.literal(2), z.literal(3)]),
  session: z.string(),
  epoch: z.string(),
  seq: z.int(),
  resumed: z.exactOptional(z.boolean()),
  reason: z.exactOptional(z.enum(["reloaded", "expired", "trimmed", "restarted", "unknown"])),
  replayed: z.exactOptional(z.int()),
  nowMs: z.exactOptional(z.number()),
  graceMs: z.exactOptional(z.number()),
  limits: z.exactOptional(
    z.object({ frameBytes: z.number(), framesPerSecond: z.number(), framesBurst: z.number() }),
  ),
  expiresAtMs: z.exactOptional(z.number()),
  pingMs: z.number().check(z.nonnegative()),
  lookMs: z.exactOptional(z.number().check(z.positive())),
}) satisfies z.ZodMiniType<Hello>;

/** Protocol 3: the number of a frame from the server. */
const seq = z.exactOptional(z.int().check(z.nonnegative()));
const page = z.object({
  before: z.exactOptional(z.string()),
  limit: z.exactOptional(z.int().check(z.gte(1), z.lte(100))),
});

/**
 * Frames of the protocol itself, whole. All but `ping` and `pong` are protocol 2's and 3's; `confirm`,
 * `confirmed` and `rollcall.history`, whose ack is a page of the room's events, are protocol 3's.
 */
export const protocolFrames = {
  in: {
    ping: z.object({ type: z.literal("ping") }),
    confirmed: z.object({ type: z.literal("confirmed") }),
    [HISTORY]: z.object({ type: z.literal(HISTORY), id, data: z.exactOptional(page) }),
  },
  out: {
    pong: z.object({ type: z.literal("pong") }),
    hello: z.object({ type: z.literal("hello"), data: hello }),
    ack: z.object({ type: z.literal("ack"), id, data: z.unknown(), seq }),
    nack: z.object({ type: z.literal("nack"), id, error: errorPayload, seq }),
    confirm: z.object({ type: z.literal("confirm") }),
  },
};

/** More frames, of rooms whose clients probe for dead sockets (`Liveness.probeMs`). */
export const probeFrames = {
  in: { probe: z.object({ type: z.literal("probe") }) },
  out: { probed: z.object({ type: z.literal("probed") }) },
};
