import { RollcallError } from "../../src/wire/errors.ts";
import { exceedsBytes } from "../../src/wire/frames.ts";
import { SyncRefusal } from "./access.ts";

/**
 * Which messages of Effect's RPC reach the relay. The relay reads the store id out of each message,
 * so a message that names another store would read or write that store.
 */

export type Transport = "ws" | "http";

/** A message in the form that the relay receives. */
export type RelayMessage =
  | { _tag: "Request"; id: string; tag: string; payload: Record<string, unknown>; headers: [] }
  | { _tag: "Ack" | "Interrupt"; requestId: string }
  | { _tag: "Ping" | "Eof" };

/** Bytes of a body, and characters of a frame. sync-cf's clients stay below 900 000 bytes. */
export const MESSAGE_BYTES = 1_048_576;
/** Events in one push. sync-cf's clients send at most 100. */
const PUSH_EVENTS = 1000;
const REQUEST_ID = /^\d{1,39}$/;
/** Bytes of a pull's answer: sync-cf sends no larger one, and then nobody could read the log on. */
const ANSWER_BYTES = 900_000;
/** What an answer has around one event: its time, the backend's id, the page. */
const ENVELOPE_BYTES = 1_000;

/** The procedures of each transport. On a socket, a ping is a frame of its own. */
const PROCEDURES: Record<Transport, readonly unknown[]> = {
  ws: ["SyncWsRpc.Pull", "SyncWsRpc.Push"],
  http: ["SyncHttpRpc.Pull", "SyncHttpRpc.Push", "SyncHttpRpc.Ping"],
};

/**
 * A store id in the form that the relay names a table with: `[a-z0-9]` unchanged, every other byte
 * as `_xx`. Without it, `a-b`, `a_b` and `A-B` would share one table: sync-cf replaces all but
 * letters and digits by `_`, and SQLite ignores case.
 */
export function encodeStoreId(storeId: string): string {
  return [...new TextEncoder().encode(storeId)]
    .map((byte) => {
      const char = String.fromCharCode(byte);
      return /[a-z0-9]/.test(char) ? char : `_${byte.toString(16).padStart(2, "0")}`;
    })
    .join("");
}

/** @throws RollcallError `too_large`, `bad_frame` */
export function parseMessage(text: string): unknown {
  if (text.length > MESSAGE_BYTES) throw new RollcallError("too_large", "The message is too long");
  try {
    return JSON.parse(text);
  } catch {
    throw badFrame("A message is JSON");
  }
}

/**
 * Reduces a message to the parts that the relay knows, and encodes its store id. The payload with
 * the token is removed: the sender is known from the URL.
 *
 * @throws SyncRefusal `FORBIDDEN` when the message names another store
 * @throws RollcallError `bad_frame` when it is no message that a client may send
 */
export function guardMessage(
  message: unknown,
  storeId: string,
  transport: Transport,
): RelayMessage {
  if (!isRecord(message)) throw badFrame("A message is a JSON object");
  const { _tag, id, tag, payload, requestId } = message;
  switch (_tag) {
    case "Request": {
      if (!PROCEDURES[transport].includes(tag)) throw badFrame("Unknown procedure");
      if (!isRecord(payload)) throw badFrame("A request has a payload");
      if (payload.storeId !== storeId) {
        throw new SyncRefusal("FORBIDDEN", "This connection belongs to another store");
      }
      if (String(tag).endsWith(".Push")) checkBatch(payload.batch);
      const { payload: _, ...parameters } = payload;
      return {
        _tag,
        id: parseRequestId(id),
        tag: String(tag),
        payload: { ...parameters, storeId: encodeStoreId(storeId) },
        headers: [],
      };
    }
    case "Ack":
    case "Interrupt":
      return { _tag, requestId: parseRequestId(requestId) };
    case "Ping":
    case "Eof":
      return { _tag };
    default:
      throw badFrame("Unknown message");
  }
}

/**
 * Checks that each event of a push follows the one before it. sync-cf checks the first event's
 * parent only; a number that comes twice would fail half-way through its inserts. An event that no
 * answer can hold would stop every later pull.
 */
function checkBatch(batch: unknown): void {
  if (!Array.isArray(batch) || batch.length > PUSH_EVENTS) {
    throw badFrame(`A push has at most ${PUSH_EVENTS} events`);
  }
  let previous: unknown;
  for (const event of batch) {
    if (exceedsBytes(JSON.stringify(event), ANSWER_BYTES - ENVELOPE_BYTES)) {
      throw new RollcallError("too_large", `An event has at most ${ANSWER_BYTES} encoded bytes`);
    }
    const { seqNum, parentSeqNum } = isRecord(event) ? event : {};
    if (!Number.isSafeInteger(seqNum) || !Number.isSafeInteger(parentSeqNum)) {
      throw badFrame("An event has a seqNum and a parentSeqNum");
    }
    if (
      Number(seqNum) !== Number(parentSeqNum) + 1 ||
      (previous ?? parentSeqNum) !== parentSeqNum
    ) {
      throw badFrame("The events of a push follow one another");
    }
    previous = seqNum;
  }
}

/** The newest event that a puller has, by its payload: an Option in Effect's encoding. */
export function cursorOf({ cursor }: Record<string, unknown>): number | undefined {
  const value = isRecord(cursor) ? cursor.value : undefined;
  return isRecord(value) ? Number(value.eventSequenceNumber) : undefined;
}

/** Effect's RPC makes a BigInt of it, and throws where that fails. */
function parseRequestId(value: unknown): string {
  if (typeof value === "string" && REQUEST_ID.test(value)) return value;
  throw badFrame("A request id is a whole number as a string");
}

function badFrame(details: string): RollcallError {
  return new RollcallError("bad_frame", details);
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
