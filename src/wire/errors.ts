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

export type ErrorCode = keyof typeof ERRORS;

/** An error as a client gets it: as an `error` event, in a `nack`, or in a call's answer. */
export interface ErrorPayload {
  code: ErrorCode;
  message: string;
  /** The place of the fault in the data, dotted: `users.0.name`. */
  path?: string;
}

/**
 * The only error that reaches a client: its message is written for clients. Anything else that is
 * thrown is logged and answered with `internal`.
 */
export class RollcallError extends Error {
  override readonly name = "RollcallError";
  readonly code: ErrorCode;
  readonly path: string | undefined;

  constructor(code: ErrorCode, message: string, path?: string) {
    super(message);
    this.code = code;
    this.path = path;
  }

  get status(): number {
    return ERRORS[this.code].status;
  }

  get closeCode(): number {
    return ERRORS[this.code].close;
  }

  toJSON(): ErrorPayload {
    return {
      code: this.code,
      message: this.message,
      ...(this.path === undefined ? {} : { path: this.path }),
    };
  }
}

/** Anything thrown as a client may see it: a {@link RollcallError} as it is, else `internal`. */
export function toErrorPayload(thrown: unknown): ErrorPayload {
  return thrown instanceof RollcallError
    ? thrown.toJSON()
    : { code: "internal", message: "Internal error" };
}
