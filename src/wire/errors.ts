import { CLOSE } from "./close.ts";

/**
 * The closed list of errors. A code is stable: clients may switch on it. Each has the HTTP status
 * that answers a request and the close code that ends a socket.
 */
export const ERRORS = {
  /** Not JSON, not a frame, or a frame this server does not take. */
  bad_frame: { status: 400, close: 4400 },
  /** The request cannot be understood: a parameter is missing or malformed. */
  bad_request: { status: 400, close: 4400 },
  /** The data does not match the event's schema. `path` names the place. */
  invalid_data: { status: 400, close: 4400 },
  /** The name of the same error in the devices contract. */
  invalid_payload: { status: 400, close: 4400 },
  /** The room has no such event or call. A client gets this only when it asked for an ack. */
  unknown_event: { status: 404, close: 4400 },
  unauthorized: { status: 401, close: 4401 },
  token_expired: { status: 401, close: 4401 },
  forbidden: { status: 403, close: 4403 },
  not_found: { status: 404, close: 4400 },
  /** The path takes other methods, which the header `Allow` names. */
  method_not_allowed: { status: 405, close: 4400 },
  conflict: { status: 409, close: 4400 },
  too_large: { status: 413, close: 1009 },
  unsupported_media_type: { status: 415, close: 4400 },
  unprocessable: { status: 422, close: 4400 },
  upgrade_required: { status: 426, close: 4400 },
  /** More frames than the room's limit allows: wait and send fewer. */
  rate_limited: { status: 429, close: 4429 },
  /** The room, or the user in it, has as many sockets as the limit allows. */
  too_many_sockets: { status: 429, close: 1013 },
  /** A bug or a failure of the server. Details stay in the log. */
  internal: { status: 500, close: 1011 },
  /** Something this deployment needs is not configured, or the actor cannot serve now. */
  unavailable: { status: 503, close: 1013 },
  /** No answer came within the time limit. */
  timeout: { status: 504, close: 4408 },
  /** The connection ended before the answer came. */
  disconnected: { status: 503, close: 1001 },
} as const satisfies Record<string, { status: number; close: number }>;

/** Close codes for the status of an error whose code is not in the list. */
const CLOSE_OF_STATUS: Record<number, number> = {
  401: CLOSE.unauthorized,
  403: CLOSE.forbidden,
  409: CLOSE.tryLater,
  413: CLOSE.tooBig,
  429: CLOSE.rateLimited,
};

/** The close code for the status of an error whose code is not in the list. */
export function closeOf(status: number): number {
  return CLOSE_OF_STATUS[status] ?? (status < 500 ? CLOSE.badRequest : CLOSE.internal);
}

/** Rollcall's own codes. */
export type ErrorCode = keyof typeof ERRORS;
/** A code of the app's own, or of a newer server. Editors complete the known codes beside it. */
export type AppCode = string & {};

/** An error as a client gets it: as an `error` event, in a `nack`, or in a call's answer. */
export interface ErrorPayload<C extends string = ErrorCode | AppCode> {
  code: C;
  message: string;
  /** The place of the fault in the data, dotted: `users.0.name`. */
  path?: string;
  /** The HTTP status, beside a code of the app's own. */
  status?: number;
}

/**
 * The only error that reaches a client: its message is written for clients. Anything else that is
 * thrown is logged and answered with `internal`. For codes of your own there is {@link AppError}.
 */
export class RollcallError extends Error {
  override readonly name = "RollcallError";
  readonly code: ErrorCode | AppCode;
  readonly path: string | undefined;
  readonly #status: number | undefined;

  /** @param status in place of the code's */
  constructor(code: ErrorCode, message: string, path?: string, status?: number) {
    super(message);
    this.code = code;
    this.path = path;
    this.#status = status;
  }

  /** An error as the other end has sent it, whatever its code. */
  static from({ code, message, path, status }: ErrorPayload): RollcallError {
    return new RollcallError(code as ErrorCode, message, path, status);
  }

  /** The HTTP status; 422 for a code of the app's own that came without one. */
  get status(): number {
    return this.#status ?? ERRORS[this.code as ErrorCode]?.status ?? 422;
  }

  /** The close code; for a code of the app's own, that of its status. */
  get closeCode(): number {
    return ERRORS[this.code as ErrorCode]?.close ?? closeOf(this.status);
  }

  /** The error as a client receives it. */
  toJSON(): ErrorPayload {
    const { code, message, path, status } = this;
    return {
      ...{ code, message },
      ...(path !== undefined && { path }),
      ...(!Object.hasOwn(ERRORS, code) && { status }),
    };
  }
}

/** Whether `text` may be a code: one of ours, one of the app's own, or of a newer server. */
export function isCode(text: string): boolean {
  return /^[a-z][a-z0-9_.-]{0,63}$/.test(text);
}

/**
 * An error with a code of the app's own, for clients and callers. Throw it wherever a
 * {@link RollcallError} may be thrown: in handlers, hooks, calls, `extractMeta` and `authenticate`.
 * Clients get the code, the message, the path and the status.
 *
 * @example
 * class ShopError extends AppError<"out_of_stock" | "closed"> {}
 * shop.on("buy", (ctx, { sku }) => {
 *   throw new ShopError("out_of_stock", `No ${sku} is left`, { status: 409 });
 * });
 */
export class AppError<C extends string = AppCode> extends RollcallError {
  declare readonly code: C;

  /**
   * @param code 1–64 of `a-z 0-9 _ . -`, the first a letter; not one of {@link ERRORS}
   * @param options both may be absent
   * @param options.status the HTTP status, 400 to 599; default 422. The close code follows from it:
   *   401, 403, 409, 413 and 429 give 4401, 4403, 1013, 1009 and 4429, any other below 500 gives 4400,
   *   and the rest 1011
   * @param options.path the place of the fault in the data, dotted
   * @throws RangeError for another code or status
   */
  constructor(
    code: C extends ErrorCode ? never : C,
    message: string,
    { status = 422, path }: { status?: number; path?: string } = {},
  ) {
    if (!isCode(code) || Object.hasOwn(ERRORS, code)) {
      throw new RangeError(`An own code has 1 to 64 of a-z 0-9 _ . - and is none of ours: ${code}`);
    }
    if (!Number.isInteger(status) || status < 400 || status > 599) {
      throw new RangeError(`An error's status is 400 to 599: ${status}`);
    }
    super(code as unknown as ErrorCode, message, path, status);
  }
}

/** Anything thrown as a client may see it: a {@link RollcallError} as it is, else `internal`. */
export function toErrorPayload(thrown: unknown): ErrorPayload {
  return thrown instanceof RollcallError
    ? thrown.toJSON()
    : { code: "internal", message: "Internal error" };
}
