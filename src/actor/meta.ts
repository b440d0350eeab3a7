import { RollcallError } from "../wire/errors.ts";
import { allows, type Cap } from "../wire/grant.ts";
import { requireWellFormed } from "../wire/text.ts";

/** Characters of a user's or a client's id. */
const ID_LENGTH = 256;
const CHANNELS = 1_000;

/** What a room knows about a connection. It is kept with the socket, so it survives hibernation. */
export interface ConnectionMeta {
  /** 1–256 characters. */
  userId: string;
  /** 1–256 characters; one per connection, chosen by the room. */
  clientId: string;
  /** Channels whose events this connection gets, at most 1 000. */
  channels: string[];
  /** Server time in ms at which the connection is closed with 4401, for tokens that expire. */
  expiresAtMs?: number;
  /** When its token was issued, in seconds since the epoch, as `iat`. */
  issuedAtS?: number;
  /**
   * True: a sweep does not close it when it is silent, and no alarm is set for that. The room checks
   * `session.seenAtMs` itself.
   */
  mayBeSilent?: boolean;
  /** What its token allows, for `ctx.can`. Absent: `extractMeta` alone decided. */
  cap?: Cap;
}

/** Whether a connection may do something in the room of this name. */
export function can({ cap, userId }: ConnectionMeta, room: string, operation: string): boolean {
  return cap === undefined || allows(cap, userId, `room:${room}`, operation);
}

/**
 * Checks the fields that the framework relies on; a room makes the meta, maybe from a client's data.
 *
 * @throws RollcallError `bad_request`
 */
export function checkMeta<M extends ConnectionMeta>(meta: M): M {
  const { userId, clientId, channels, expiresAtMs } = meta;
  if (typeof userId !== "string" || userId === "" || userId.length > ID_LENGTH) {
    throw new RollcallError("bad_request", `userId must have 1 to ${ID_LENGTH} characters`);
  }
  requireWellFormed(userId, "userId");
  if (typeof clientId !== "string" || clientId === "" || clientId.length > ID_LENGTH) {
    throw new RollcallError("bad_request", `clientId must have 1 to ${ID_LENGTH} characters`);
  }
  requireWellFormed(clientId, "clientId");
  if (expiresAtMs !== undefined && !(expiresAtMs > 0)) {
    throw new RollcallError("bad_request", "expiresAtMs must be a time in ms");
  }
  if (
    !Array.isArray(channels) ||
    channels.length > CHANNELS ||
    channels.some((channel) => typeof channel !== "string")
  ) {
    throw new RollcallError("bad_request", `channels must be at most ${CHANNELS} strings`);
  }
  for (const channel of channels) requireWellFormed(channel, "A channel");
  return meta;
}

/** A number that differs, but for rare chances, when the value differs (FNV-1a); NaN for none. */
function digest(value: unknown): number {
  let text: string;
  try {
    text = JSON.stringify(value, plainly) ?? "";
  } catch {
    return Number.NaN;
  }
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) {
    hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193) >>> 0;
  }
  return hash;
}

/** What a meta can hold and JSON cannot. */
function plainly(_: string, value: unknown): unknown {
  if (typeof value === "bigint") return `${value}n`;
  return value instanceof Map || value instanceof Set ? [...value] : value;
}

/** Digests of the fields of a meta that `extractMeta` has just made, for {@link renewMeta}. */
export function digestMeta(meta: ConnectionMeta): Record<string, number> {
  return Object.fromEntries(Object.entries(meta).map(([key, value]) => [key, digest(value)]));
}

/**
 * The meta of a session that was resumed: what the server says of the user now, and what handlers have
 * changed since the session began.
 *
 * @param origin digests of the fields as they were at the beginning
 */
export function renewMeta<M extends ConnectionMeta>(
  old: M,
  fresh: M,
  origin: Readonly<Record<string, number>>,
): M {
  const renewed: Record<string, unknown> = { ...(fresh as object) };
  for (const [key, value] of Object.entries(old)) {
    const isChanged = digest(value) !== origin[key];
    if (isChanged && key !== "expiresAtMs") renewed[key] = value;
  }
  // One per session, so that a random one stays.
  renewed.clientId = old.clientId;
  return renewed as unknown as M;
}
