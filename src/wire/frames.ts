/**
 * The frames of the wire: JSON text, Verani 0.5's with protocol 2 beside it. Shared by server and
 * client, so nothing under `src/wire` may import `cloudflare:*`.
 */
import { type ErrorPayload, RollcallError } from "./errors.ts";
import { assertJson } from "./json.ts";
import { isWellFormed } from "./text.ts";

/** Bytes (UTF-8) that one frame from a client may have, unless its room says otherwise. */
export const FRAME_BYTES = 65_536;

/** The exact bytes that the runtime answers by itself, without waking the actor. */
export const PING = '{"type":"ping"}';
export const PONG = '{"type":"pong"}';
/** In place of a ping now and then (protocol 2): the actor is to sweep its sockets for dead ones. */
export const PROBE = '{"type":"probe"}';
/** The type of a frame that asks for a page of the room's events (protocol 3). */
export const HISTORY = "rollcall.history";
/** Asks a client of protocol 3 to show that it has read what was sent before; it answers at once. */
export const CONFIRM = '{"type":"confirm"}';
export const CONFIRMED = '{"type":"confirmed"}';
/** The actor has swept: no other client needs to probe for a while. */
export const PROBED = '{"type":"probed"}';

/** The type of what JSON.parse gives: `any`, as Verani passes it to handlers that declare no schema. */
export type Untyped = ReturnType<typeof JSON.parse>;

/** One frame as both ends see it. */
export interface MessageFrame {
  type: string;
  channel?: string;
  data?: Untyped;
  /** Asks for an `ack` or `nack` with this id. At most 128 characters. */
  id?: string;
  /** The reason, in a `nack`. */
  error?: ErrorPayload;
  /** Its number, in a frame from the server under protocol 3. */
  seq?: number;
}
/** A frame of a client. Verani's name. */
export type ClientMessage = MessageFrame;
/** A frame of a server. Verani's name. */
export type ServerMessage = MessageFrame;
/** A frame of either. Verani's name. */
export type VeraniMessage = ClientMessage | ServerMessage;

/** First frame to a client of protocol 2 or 3. */
export interface Hello {
  protocol: 2 | 3;
  /** Public: rosters show it. */
  session: string;
  /** Protocol 3: known to this session only; a resume repeats it. */
  epoch: string;
  /** The number before the first frame that follows. */
  seq: number;
  /** Protocol 3: whether the session that the client named goes on, with nothing lost. */
  resumed?: boolean;
  /** Why it does not. */
  reason?: ResumeRefusal;
  /** Protocol 3: how many of the frames that follow are those that the client missed, or asked for. */
  replayed?: number;
  /** Protocol 3, where the log is durable: with a number it is a cursor of the room's events. */
  logEpoch?: string;
  /** Protocol 3: the server's time, in ms. */
  nowMs?: number;
  /** Protocol 3: how long a session without a socket counts as present, in ms. */
  graceMs?: number;
  /** What the client may send. */
  limits?: FrameLimits;
  /** The longest ping interval this room takes, in ms. 0: it ignores missing pings. */
  pingMs: number;
  /**
   * For a client that connected with `probe=1`: once no `probed` has come for so many ms, its next
   * ping is to be a `probe`. Absent where the room needs no probes.
   */
  lookMs?: number;
  /** Server time in ms at which the connection is closed with 4401. Absent: never. */
  expiresAtMs?: number;
}

/** What a client may send on one socket. */
export interface FrameLimits {
  /** Bytes (UTF-8) of one frame; more closes the socket with 1009. */
  frameBytes: number;
  /** Frames in a second, on average; more are dropped, and many more close the socket with 4429. */
  framesPerSecond: number;
  /** Frames at once. */
  framesBurst: number;
}

/**
 * Why a session was not resumed. `reloaded`: it goes on, but the page is new and has a snapshot. All
 * others come with a new session. `expired`: too late. `trimmed`: the log does not reach back so far.
 * `restarted`: the actor lost its log. `unknown`: there is no such session, or it is another user's.
 */
export type ResumeRefusal = "reloaded" | "expired" | "trimmed" | "restarted" | "unknown";

/** Characters that an event's name or a channel's may have. */
export const NAME_LENGTH = 256;
/** Characters that an ack id may have. */
export const ID_LENGTH = 128;

/** Frame types of the protocol itself; an event with such a name needs an `event` frame around it. */
const RESERVED: ReadonlySet<string> = new Set([
  "ping",
  "pong",
  "probed",
  "confirm",
  "hello",
  "ack",
  "nack",
]);

const encoder = new TextEncoder();

/** Whether `text` has more than `limit` bytes of UTF-8. It is encoded only when its length leaves doubt. */
export function exceedsBytes(text: string, limit: number): boolean {
  // A UTF-16 unit takes one to three bytes, so the length decides for most frames.
  if (text.length > limit) return true;
  return text.length * 3 > limit && encoder.encode(text).byteLength > limit;
}

// `__proto__` is an own property after JSON.parse, but the next `Object.assign` or `a[k] = v` in a
// handler would set a prototype. No frame needs such a key.
const SUSPECT = /__proto__|\\u00/;
function refuseProto(this: unknown, key: string, value: unknown): unknown {
  if (key === "__proto__") throw new RollcallError("bad_frame", "The key __proto__ is not allowed");
  return value;
}

/** JSON.parse that refuses a `__proto__` key, however it is spelled. */
export function parseJson(text: string): unknown {
  return SUSPECT.test(text) ? JSON.parse(text, refuseProto) : JSON.parse(text);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function toFrame(value: unknown): MessageFrame {
  if (!isRecord(value)) throw new RollcallError("bad_frame", "A frame is a JSON object");
  const { type, channel, data, id, error, seq } = value;
  if (typeof type !== "string" || type === "" || type.length > NAME_LENGTH) {
    throw new RollcallError("bad_frame", `type must be a string of 1 to ${NAME_LENGTH} characters`);
  }
  if (channel !== undefined && (typeof channel !== "string" || channel.length > NAME_LENGTH)) {
    throw new RollcallError(
      "bad_frame",
      `channel must be a string of at most ${NAME_LENGTH} characters`,
    );
  }
  if (id !== undefined && (typeof id !== "string" || id === "" || id.length > ID_LENGTH)) {
    throw new RollcallError("bad_frame", `id must be a string of 1 to ${ID_LENGTH} characters`);
  }
  const frame: MessageFrame = { type };
  if (channel !== undefined) frame.channel = channel;
  if (data !== undefined) frame.data = data;
  if (id !== undefined) frame.id = id;
  if (Number.isSafeInteger(seq)) frame.seq = seq as number;
  if (isRecord(error) && typeof error.message === "string") {
    frame.error = error as unknown as ErrorPayload;
  }
  return frame;
}

/**
 * One frame from outside.
 *
 * @throws RollcallError `bad_frame` when it is not text, JSON or a frame; `too_large` when it has
 *   more than `limitBytes` bytes
 */
export function parseFrame(raw: unknown, limitBytes: number = FRAME_BYTES): MessageFrame {
  const isTooLarge =
    typeof raw === "string"
      ? exceedsBytes(raw, limitBytes)
      : raw instanceof ArrayBuffer && raw.byteLength > limitBytes;
  if (isTooLarge) {
    throw new RollcallError("too_large", `A frame has at most ${limitBytes} bytes`);
  }
  if (typeof raw !== "string") {
    throw new RollcallError("bad_frame", "Frames are text, not binary");
  }
  let value: unknown;
  try {
    value = parseJson(raw);
  } catch (thrown) {
    throw thrown instanceof RollcallError
      ? thrown
      : new RollcallError("bad_frame", "A frame is JSON");
  }
  const frame = toFrame(value);
  for (const name of [frame.type, frame.channel, frame.id]) {
    if (name !== undefined && !isWellFormed(name)) {
      throw new RollcallError("bad_frame", "A name has half of a surrogate pair");
    }
  }
  return frame;
}

/** A message from the server: one frame, or under protocol 2 a list. Items that are no frames are left out. */
export function parseFrames(raw: unknown): MessageFrame[] {
  if (typeof raw !== "string") return [];
  try {
    const value: unknown = JSON.parse(raw);
    return (Array.isArray(value) ? value : [value]).flatMap((item) => {
      try {
        return [toFrame(item)];
      } catch {
        return [];
      }
    });
  } catch {
    return [];
  }
}

/** Whether JSON keeps the object as it is, so that an event's name can stand beside its fields. */
function isPlain(value: unknown): value is Record<string, unknown> {
  if (typeof value !== "object" || value === null) return false;
  if ("toJSON" in value) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/**
 * Whether an event's name stands among the fields of its data, in an `event` frame.
 *
 * @throws RollcallError `bad_frame` for a name that is reserved for such data
 */
export function isWrapped(event: string, data: unknown): boolean {
  if (data === undefined || (isPlain(data) && !Object.hasOwn(data, "type"))) return true;
  // `{type:"event", data:{type:"x"}}` reads as x.
  const ambiguous = event === "event" && isRecord(data) && typeof data.type === "string";
  if (!ambiguous && !RESERVED.has(event)) return false;
  throw new RollcallError("bad_frame", `The event name ${event} is reserved for such data`);
}

/**
 * An event as text. Plain data travels as Verani's `{type:"event", channel, data:{type, …}}`.
 * Data that is no plain object, or has a `type` of its own that must not rename the event, travels
 * as `{type:<event>, channel, data}`, which a Verani client dispatches just the same.
 *
 * @param id asks the client for an ack (protocol 2)
 * @throws RollcallError `bad_frame` for an empty, over-long or reserved name
 * @throws TypeError for data that JSON cannot hold
 */
export function encodeEvent(event: string, data: unknown, channel: string, id?: string): string {
  if (event === "" || event.length > NAME_LENGTH) {
    throw new RollcallError("bad_frame", `An event's name has 1 to ${NAME_LENGTH} characters`);
  }
  assertJson(data);
  const frame = isWrapped(event, data)
    ? { type: "event", channel, data: { type: event, ...(data as object | undefined) } }
    : { type: event, channel, data };
  return JSON.stringify(id === undefined ? frame : { ...frame, id });
}

/** The event that a server's frame carries: its name and its data as the app sees it. */
export function unwrapEvent(frame: MessageFrame): { event: string; data: Untyped } {
  const { data } = frame;
  if (frame.type === "event" && isRecord(data) && typeof data.type === "string") {
    return { event: data.type, data };
  }
  return { event: frame.type, data };
}

export function encodeAck(id: string, data: unknown): string {
  return JSON.stringify({ type: "ack", id, data: data === undefined ? null : data });
}

/** @param json the data as JSON */
export function encodeAckText(id: string, json: string): string {
  return `{"type":"ack","id":${JSON.stringify(id)},"data":${json}}`;
}

export function encodeNack(id: string, error: ErrorPayload): string {
  return JSON.stringify({ type: "nack", id, error });
}

/** The number of a frame of {@link numberFrame}; -1 for any other. */
export function numberOf(text: string): number {
  return Number(/,"seq":(\d+)\}$/.exec(text)?.[1] ?? -1);
}

/** A frame with its number, for clients of protocol 3. */
export function numberFrame(text: string, seq: number): string {
  return `${text.slice(0, -1)},"seq":${seq}}`;
}

/** A frame of {@link numberFrame} without its number. */
export function unnumberFrame(text: string): string {
  return `${text.slice(0, text.lastIndexOf(',"seq":'))}}`;
}

/** Several encoded frames as one message of protocol 2. */
export function joinFrames(texts: readonly string[]): string {
  return texts.length === 1 ? (texts[0] as string) : `[${texts.join(",")}]`;
}

/** Any frame as text. Part of Verani's surface. */
export function encodeFrame(frame: MessageFrame): string {
  return JSON.stringify(frame);
}
/** Verani's name for {@link encodeFrame}. */
export const encodeClientMessage: (frame: ClientMessage) => string = encodeFrame;
/** Verani's name for {@link encodeFrame}. */
export const encodeServerMessage: (frame: ServerMessage) => string = encodeFrame;

/** Text as a frame, or null when it is not one. Part of Verani's surface. */
export function decodeFrame(raw: unknown): MessageFrame | null {
  try {
    return parseFrame(raw, Number.POSITIVE_INFINITY);
  } catch {
    return null;
  }
}
/** Verani's name for {@link decodeFrame}. */
export const decodeClientMessage: (raw: unknown) => ClientMessage | null = decodeFrame;
/** Verani's name for {@link decodeFrame}. */
export const decodeServerMessage: (raw: unknown) => ServerMessage | null = decodeFrame;
