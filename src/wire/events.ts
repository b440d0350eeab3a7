import type { AppCode, ErrorCode } from "./errors.ts";
import type { Untyped } from "./frames.ts";

/**
 * Names and types the events of a room, seen from the server: `in` from clients, `out` to them. `acks`:
 * what the room's handlers return, and a client's `emitWithAck` resolves to, by event. `errors`: the
 * codes of the app's own that the room's handlers throw as {@link AppError}s.
 */
export interface EventMap {
  in: object;
  out: object;
  acks?: object;
  errors?: string;
}

/** The data of an event as the last arguments of a function: optional where it may be undefined. */
export type Payload<T, Rest extends unknown[] = []> = undefined extends T
  ? [data?: T, ...rest: Rest]
  : [data: T, ...rest: Rest];

/** What the event `K` is answered with; `Other` where the map does not say. */
export type AckOf<V extends EventMap, K, Other> = V extends { acks: infer A }
  ? K extends keyof A
    ? A[K]
    : Other
  : Other;

/** The codes of the errors that a client of the room may get. Without an event map, any. */
export type CodesOf<V extends EventMap> = V extends { errors: infer C extends string }
  ? ErrorCode | C
  : string extends keyof V["out"]
    ? ErrorCode | AppCode
    : ErrorCode;

/** Any event with any data, as in Verani. */
export interface AnyEvents {
  in: Record<string, Untyped>;
  out: Record<string, Untyped>;
}
