import { randomId, refreshDelay } from "./socket.ts";

export type Token = string | null | undefined;

/** A JWT, or a function that is called anew for each connection, and before its JWT expires. */
export type TokenSource = string | (() => Token | Promise<Token>);

/**
 * Shows the server a fresh token before the one of the connection expires, so that it need not close the
 * connection.
 */
export class TokenRefresh {
  readonly #source: TokenSource;
  readonly #send: (text: string) => void;
  readonly #fail: (error: unknown) => void;
  #given: Token;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @param send sends a frame, and nothing while there is no connection */
  constructor(source: TokenSource, send: (text: string) => void, fail: (error: unknown) => void) {
    this.#source = source;
    this.#send = send;
    this.#fail = fail;
  }

  /** The token of the next connection. */
  async get(): Promise<Token> {
    this.#given = typeof this.#source === "function" ? await this.#source() : this.#source;
    return this.#given;
  }

  /** The connection is open. */
  begin(): void {
    this.#after(this.#given);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  #after(given: Token): void {
    const source = this.#source;
    const lifeMs = lifeOf(given);
    this.stop();
    if (typeof source !== "function" || lifeMs === undefined) return;
    const timer = setTimeout(() => void this.#refresh(source, timer), refreshDelay(lifeMs));
    this.#timer = timer;
  }

  async #refresh(
    source: () => Token | Promise<Token>,
    timer: ReturnType<typeof setTimeout>,
  ): Promise<void> {
    try {
      const fresh = await source();
      // The connection has ended meanwhile.
      if (!fresh || this.#timer !== timer) return;
      this.#send(JSON.stringify({ type: "auth", id: randomId(), data: { token: fresh } }));
      this.#after(fresh);
    } catch (error) {
      // It is closed with 4401 then, and comes back with a token that it asks for anew.
      this.#fail(error);
    }
  }
}

/**
 * How long a JWT still lives, in ms; undefined where that cannot be read. By this device's clock, unless
 * that is plainly wrong: then as long as a JWT that was signed just now.
 */
function lifeOf(token: Token): number | undefined {
  try {
    const base64 = token?.split(".")[1]?.replaceAll("-", "+").replaceAll("_", "/") ?? "";
    const { exp, iat } = JSON.parse(atob(base64)) as { exp?: number; iat?: number };
    const lifeMs = Number(exp) * 1_000 - Date.now();
    const wholeMs = (Number(exp) - Number(iat)) * 1_000;
    if (lifeMs > 0 && !(lifeMs > wholeMs)) return lifeMs;
    return wholeMs > 0 ? wholeMs : undefined;
  } catch {
    return undefined;
  }
}
