import type { DelayedMessage, StreamEvent } from "../../src/http/sse.ts";
import {
  CONFIRM,
  CONFIRMED,
  type MessageFrame,
  PROBE,
  parseFrames,
} from "../../src/wire/frames.ts";

/** Frames of the room's own, to a stream: where its numbers begin, and what is not known any more. */
export const STREAM_CURSOR = "stream.cursor";
export const STREAM_GAP = "stream.gap";

/** Turns the messages of a room of protocol 3 into the events of a stream. */
export class RoomStream {
  #epoch = "";
  #probeMs: number | undefined;

  readonly toEvents = (message: string): StreamEvent[] =>
    parseFrames(message).flatMap((frame) => this.#toEvent(frame) ?? []);

  #toEvent({ type, channel, data, seq }: MessageFrame): StreamEvent | undefined {
    if (type === "hello") this.#probeMs = data?.lookMs;
    if (type === STREAM_CURSOR) this.#epoch = data.epoch;
    if (type === STREAM_GAP) {
      const { reason, cursor } = data;
      return { event: "gap", id: cursor, data: JSON.stringify({ type: "gap", reason, cursor }) };
    }
    // What is no event has no channel.
    if (channel === undefined) return undefined;
    const { type: name, ...fields } = type === "event" ? data : { type };
    const event = { event: name, channel, data: type === "event" ? fields : data };
    const id = seq === undefined ? undefined : `${this.#epoch}:${seq}`;
    return { ...(id !== undefined && { id }), data: JSON.stringify(event) };
  }

  /** The room is to sweep its sockets now and then, so that no alarm has to wake it. */
  readonly toDelayed = (message: string): DelayedMessage | undefined => {
    const isDue = message.includes('"hello"') || message.includes('"probed"');
    return isDue && this.#probeMs ? { inMs: this.#probeMs, text: PROBE } : undefined;
  };

  readonly toReply = (message: string): string | undefined =>
    message === CONFIRM ? CONFIRMED : undefined;
}
