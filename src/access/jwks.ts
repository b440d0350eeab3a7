import { createLocalJWKSet, errors, type JWTVerifyGetKey } from "jose";
import { log } from "../log.ts";
import { RollcallError } from "../wire/errors.ts";

/** Bytes that the answer of a JWKS server may have. */
const ANSWER_BYTES = 262_144;
const TIMEOUT_MS = 5_000;
/** A set of keys is read again after so long, so that a key that was withdrawn is forgotten, in ms. */
const MAX_AGE_MS = 300_000;
/** A token with an unknown key makes a server read the set again, once in so long, in ms. */
const COOLDOWN_MS = 30_000;
/** A server without any set tries again sooner, in ms. */
const RETRY_MS = 5_000;

/**
 * The keys of a JSON Web Key Set.
 *
 * @throws RollcallError `unavailable` when it is none
 */
export function parseJwks(text: string): JWTVerifyGetKey {
  try {
    return createLocalJWKSet(JSON.parse(text));
  } catch (error) {
    log("jwks_malformed", { error });
    throw new RollcallError("unavailable", "Not configured");
  }
}

/** The body of an answer as text. @throws Error beyond {@link ANSWER_BYTES} */
async function readText(answer: Response): Promise<string> {
  const decoder = new TextDecoder();
  let bytes = 0;
  let text = "";
  for await (const chunk of answer.body ?? []) {
    bytes += chunk.byteLength;
    if (bytes > ANSWER_BYTES) throw new Error("The key set is too large");
    text += decoder.decode(chunk, { stream: true });
  }
  return text + decoder.decode();
}

/**
 * The keys that a login provider publishes at a URL. They are kept for 5 minutes; a key that is not
 * among them makes it look again, at most once in 30 s. While the provider fails, the last set holds.
 */
export class RemoteJwks {
  readonly #url: string;
  #keys: JWTVerifyGetKey | undefined;
  #readAtMs = Number.NEGATIVE_INFINITY;
  #triedAtMs = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | undefined;

  constructor(url: string) {
    this.#url = url;
  }

  /** @throws RollcallError `unavailable` while there is no set */
  readonly get: JWTVerifyGetKey = async (header, token) => {
    const isOld = Date.now() - this.#readAtMs >= MAX_AGE_MS;
    if (isOld) await this.#read(this.#keys === undefined);
    const keys = this.#keys;
    if (!keys) throw new RollcallError("unavailable", "The keys cannot be read");
    try {
      return await keys(header, token);
    } catch (thrown) {
      if (!(thrown instanceof errors.JWKSNoMatchingKey)) throw thrown;
      await this.#read(true);
      if (this.#keys === keys || !this.#keys) throw thrown;
      return this.#keys(header, token);
    }
  };

  /**
   * Reads the set, if it was not tried just now.
   *
   * @param waits also while another request reads it
   */
  async #read(waits: boolean): Promise<void> {
    const sinceMs = Date.now() - this.#triedAtMs;
    if (sinceMs >= (this.#keys ? COOLDOWN_MS : RETRY_MS)) {
      this.#triedAtMs = Date.now();
      this.#reading = this.#fetch();
      await this.#reading;
    } else if (waits) {
      // The other request may be cancelled: nothing ever comes of its promise then.
      const restMs = Math.max(0, TIMEOUT_MS - sinceMs);
      await Promise.race([this.#reading, scheduler.wait(restMs)]);
    }
  }

  async #fetch(): Promise<void> {
    try {
      const answer = await fetch(this.#url, {
        headers: { Accept: "application/json" },
        redirect: "manual",
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      if (answer.status !== 200) throw new Error(`The key set came with ${answer.status}`);
      this.#keys = createLocalJWKSet(JSON.parse(await readText(answer)));
      this.#readAtMs = Date.now();
    } catch (error) {
      log("jwks_unavailable", { error });
    }
  }
}
