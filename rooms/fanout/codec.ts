import type { Codec } from "../../src/wire/codec.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { exceedsBytes, ID_LENGTH, type MessageFrame } from "../../src/wire/frames.ts";
import { type FilterKey, parseFilter } from "./filters.ts";
import { sliceMember } from "./slice.ts";

/** Filters of one message that are read, and those of one that asks for earlier envelopes. */
const FILTERS_PER_FRAME = 50;
const FILTERS_SINCE = 500;

function parseFilters(value: unknown, count: number): FilterKey[] | null {
  if (!Array.isArray(value)) return null;
  return value
    .slice(0, count)
    .map(parseFilter)
    .filter((filter) => filter !== null);
}

/** A message of the contract as a frame; null for anything else, which is ignored. */
function parseMessage(raw: string): MessageFrame | null {
  if (/^\s*ping\s*$/i.test(raw)) return { type: "ping" };
  try {
    const message: unknown = JSON.parse(raw);
    if (typeof message !== "object" || message === null) return null;
    const { type, filters, since, envelopeId, result, id, data, ids } = message as Record<
      string,
      unknown
    >;
    if (type === "auth" && typeof id === "string" && id.length <= ID_LENGTH) {
      return { type, id, data };
    }
    if (type === "watch" || type === "unwatch") {
      return { type, data: { ids: ids ?? (data as { ids?: unknown } | null | undefined)?.ids } };
    }
    if (type === "subscribe" && typeof since === "string") {
      const all = parseFilters(filters, FILTERS_SINCE);
      return all && { type, data: { filters: all, since } };
    }
    if (type === "subscribe" || type === "unsubscribe") {
      const all = parseFilters(filters, FILTERS_PER_FRAME);
      return all && { type, data: { filters: all } };
    }
    if (type !== "ack" || typeof envelopeId !== "string") return null;
    // As it was written: a publisher gets the digits that JSON.parse would round.
    const text = result === undefined ? "null" : (sliceMember(raw, "result") ?? "null");
    return { type, data: { envelopeId, result: text } };
  } catch {
    // Not JSON, or nested deeper than the stack allows.
    return null;
  }
}

/** The fan-out's own wire: envelopes without a frame around them, and a bare `ping` and `pong`. */
export const envelopeCodec: Codec = {
  ping: "ping",
  pong: "pong",
  protocol2: false,
  parse(raw, limitBytes) {
    const isTooLarge =
      typeof raw === "string" ? exceedsBytes(raw, limitBytes) : raw.byteLength > limitBytes;
    if (isTooLarge) throw new RollcallError("too_large", `At most ${limitBytes} bytes`);
    return typeof raw === "string" ? parseMessage(raw) : null;
  },
  // The event's name comes first and replaces a `type` of the data.
  encodeEvent: (type, data) => JSON.stringify(Object.assign({ type }, data, { type })),
  encodeError: (error) => JSON.stringify({ type: "error", ...error }),
};
