import { RollcallError } from "../wire/errors.ts";

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
  if (typeof clientId !== "string" || clientId === "" || clientId.length > ID_LENGTH) {
    throw new RollcallError("bad_request", `clientId must have 1 to ${ID_LENGTH} characters`);
  }
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
  return meta;
}
