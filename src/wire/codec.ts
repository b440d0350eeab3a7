import type { ErrorPayload } from "./errors.ts";
import { encodeEvent, type MessageFrame, PING, PONG, parseFrame } from "./frames.ts";

/** How a room's messages look on the wire, where it is not the framework's own way. */
export interface Codec {
  /** The pair that the runtime answers without waking the actor. An actor has one. */
  readonly ping: string;
  readonly pong: string;
  /** Whether clients may ask for protocol 2: hello, lists of frames, acks, errors as events. */
  readonly protocol2: boolean;
  /**
   * A message as a frame; null: it is ignored.
   *
   * @throws RollcallError which is sent to the client; `too_large` closes the socket
   */
  parse(raw: string | ArrayBuffer, limitBytes: number): MessageFrame | null;
  /** An event as text. `id`: an answer is asked for. */
  encodeEvent(event: string, data: unknown, channel: string, id?: string): string;
  /** An error as the client sees it; null: nothing is sent. */
  encodeError(error: ErrorPayload): string | null;
}

/** Verani 0.5's frames, and protocol 2 for clients that ask for it. */
export const veraniCodec: Codec = {
  ping: PING,
  pong: PONG,
  protocol2: true,
  parse: parseFrame,
  encodeEvent,
  encodeError: (error) => encodeEvent("error", error, "default"),
};
