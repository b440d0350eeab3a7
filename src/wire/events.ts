import type { Untyped } from "./frames.ts";

/**
 * Names and types the events of a room, seen from the server: `in` from clients, `out` to them. `acks`:
 * what a client's `emitWithAck` resolves to, by event.
 */
export interface EventMap {
  in: object;
  out: object;
  acks?: object;
}

/** Any event with any data, as in Verani. */
export interface AnyEvents {
  in: Record<string, Untyped>;
  out: Record<string, Untyped>;
}
