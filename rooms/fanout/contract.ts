import * as z from "zod/mini";

/**
 * Messages of the fan-out contract, whole, since it has a wire of its own: besides these the bare
 * texts `ping` and `pong`.
 */

/** A type, and fields of the payload by their values. */
const filter = z.catchall(z.object({ type: z.string().check(z.minLength(1)) }), z.string());
const filters = z.array(filter);

/** What a publisher sent, as it reaches a subscriber. */
export const envelope = z.object({
  envelopeId: z.string(),
  type: z.string().check(z.minLength(1)),
  userId: z.string(),
  timestamp: z.iso.datetime(),
  payload: z.optional(z.unknown()),
});
export type Envelope = z.infer<typeof envelope>;

export const fanoutMessages = {
  in: {
    subscribe: z.object({ type: z.literal("subscribe"), filters }),
    unsubscribe: z.object({ type: z.literal("unsubscribe"), filters }),
    ack: z.object({
      type: z.literal("ack"),
      envelopeId: z.string(),
      result: z.optional(z.unknown()),
    }),
  },
  out: {
    envelope,
    error: z.object({
      type: z.literal("error"),
      code: z.string(),
      message: z.exactOptional(z.string()),
      path: z.exactOptional(z.string()),
    }),
  },
};
