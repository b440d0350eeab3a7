import type { ConnectionMeta, VeraniActor } from "../../src/actor/room.ts";
import type { Session } from "../../src/actor/session.ts";
import type { Detail } from "./access.ts";
import type { AnyUser, PresenceEvents } from "./roster.ts";

/** The channel that everybody in a room is in. */
export const CHANNEL = "default";

export interface PresenceMeta extends ConnectionMeta {
  username: string;
  /** `mobile`, `tablet` or `desktop`, by the user agent. */
  device: string;
  /** What the server knows of the user. */
  user?: AnyUser;
  /** What the client asked for with `detail=`; absent: the roster. */
  detail?: Exclude<Detail, "roster">;
  /** The users that the client asked for with `watch=`. */
  watch?: string[];
  /** It sees the room, and is not seen in it. */
  listed?: boolean;
  /** It is a stream over HTTP. */
  stream?: boolean;
  /** The cursor that a stream begins after, until it has begun. */
  after?: string;
  /** When the session began: server time in ms. */
  since?: number;
}

export type PresenceActor<S extends string> = VeraniActor<PresenceMeta, unknown, PresenceEvents<S>>;
export type PresenceSession = Session<PresenceMeta>;
