import * as z from "zod/mini";
import { log } from "../log.ts";
import { RollcallError } from "../wire/errors.ts";

const KEY_LENGTH = 256;
/** Hexadecimal digits of a publisher's digest, which is stored with its keys. */
const PUBLISHER_DIGITS = 32;

const keyError = { error: `An idempotency key has 1 to ${KEY_LENGTH} characters, and no NUL` };

/** The key that a publisher gives. */
export const idempotencyKey = z.string(keyError).check(
  z.minLength(1, keyError),
  z.maxLength(KEY_LENGTH, keyError),
  // A NUL separates a key from its publisher in storage: no key may name another publisher's.
  z.refine((key) => key.isWellFormed() && !key.includes("\0"), keyError),
);

/** A key as it travels to the actor. */
export const idempotencyFields = z.object({
  key: z.string(),
  digest: z.string(),
  publisher: z.optional(z.string()),
});

/**
 * A publisher's key for a message. Keys of different publishers are separate.
 *
 * @param text equal for equal messages only
 */
export async function toIdempotency(
  key: string,
  text: string,
  publisher: string,
): Promise<z.infer<typeof idempotencyFields>> {
  return {
    key,
    digest: await digestOf(text),
    publisher: (await digestOf(publisher)).slice(0, PUBLISHER_DIGITS),
  };
}

/**
 * Sends messages to an actor, and once more where the actor ended before it answered, for example at a
 * deploy.
 *
 * @param isRepeatable all of them have keys
 * @throws RollcallError what the actor refused; `unavailable` without an answer: a message without a key may
 *   have been delivered
 */
export async function sendToActor<T>(isRepeatable: boolean, send: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await send();
    } catch (error) {
      if (error instanceof RollcallError) throw error;
      log("publish_interrupted", { attempt, error });
      if (isRepeatable && attempt === 1) continue;
      throw new RollcallError("unavailable", "The answer was lost on the way; it may be delivered");
    }
  }
}

const encoder = new TextEncoder();

async function digestOf(text: string): Promise<string> {
  const hash = await crypto.subtle.digest("SHA-256", encoder.encode(text));
  return [...new Uint8Array(hash)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
