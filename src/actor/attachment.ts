import type { StandardSchemaV1 } from "@standard-schema/spec";
import { isProtocol, type Protocol } from "../wire/version.ts";
import { type ConnectionMeta, checkMeta } from "./meta.ts";
import type { StoredReader } from "./reader.ts";
import { defineRecord } from "./record.ts";

/** Storage key of a meta that outgrew the attachment, which holds 16 384 bytes. */
const META_PREFIX = "rollcall:session:";
/** Storage key of the ids of such metas whose sessions were missed at a start, with the time in ms. */
const ORPHANS_KEY = "rollcall:orphans";
const ORPHAN_MS = 3_600_000;

/** What is kept with the socket over hibernation. Fields of a newer release stay when it is rewritten. */
export interface Attachment {
  /** Version of this shape. */
  rollcall: number;
  id: string;
  protocol: Protocol;
  /** Server time of the last frame, in ms; until the first one, of the upgrade. */
  seenAtMs: number;
  /** The newest sign of the client that was ahead of the clock, which had been set back, in ms. */
  aheadMs?: number;
  /** True until the first frame of the client. */
  unheard?: boolean;
  /** Its client sends probes (`Liveness.probeMs`). */
  probes?: boolean;
  /**
   * Protocol 3. `protocol` is 2 then: a release that knows no other reads the session nevertheless.
   */
  reader?: StoredReader;
  /** What the actor keeps in the attachments of a few sockets, to know it after a sleep. */
  kept?: unknown;
  /** The session has no socket any more: this is not attached to one, but stored for it. */
  loss?: Loss;
  /** Protocol 3: digests of the meta's fields as `extractMeta` made them. */
  origin?: Record<string, number>;
  /** Where it connected to, without secrets: for a client that refreshes its token. */
  path?: string;
  /** What the room keeps with the session without writing rows. */
  state?: SessionState;
  /** Absent when it is in storage under the session's id. */
  meta?: unknown;
}

/** A text that a room keeps with a session, such as the JSON of what its client says of itself. */
export interface SessionState {
  text: string;
  /** Server time in ms from which it does not hold any more; absent: it holds until it is replaced. */
  untilMs?: number;
}

/** How a session lost its socket. */
export interface Loss {
  /** Server time, in ms. */
  atMs: number;
  /** The close code. */
  code: number;
  /** Until then it counts as present, in ms. */
  graceEndsMs: number;
  /** The grace is over: `onDisconnect` has run. */
  gone: boolean;
}

const schema: StandardSchemaV1<unknown, Attachment> = {
  "~standard": {
    version: 1,
    vendor: "rollcall",
    validate(value) {
      const { rollcall, id, protocol, seenAtMs } = value as Partial<Attachment>;
      const isValid =
        typeof rollcall === "number" &&
        typeof id === "string" &&
        Number.isFinite(seenAtMs) &&
        isProtocol(protocol);
      return isValid
        ? { value: value as Attachment }
        : { issues: [{ message: "Not an attachment of ours" }] };
    },
  },
};
const record = defineRecord<Attachment>({ version: 1, versionKey: "rollcall", schema });

/** The attachment of a new socket. */
export function newAttachment(protocol: Protocol, probes: boolean): Attachment {
  return {
    rollcall: 1,
    id: crypto.randomUUID(),
    protocol: protocol === 1 ? 1 : 2,
    seenAtMs: Date.now(),
    unheard: true,
    ...(probes && { probes }),
  };
}

/** A session without a socket as it was stored; undefined when it is damaged. */
export function readLost(stored: unknown): (Attachment & { loss: Loss }) | undefined {
  const attachment = typeof stored === "object" && stored ? record.read(stored) : undefined;
  const { atMs, code, graceEndsMs, gone } = attachment?.loss ?? {};
  const isValid =
    [atMs, code, graceEndsMs].every((value) => Number.isFinite(value)) && typeof gone === "boolean";
  return isValid ? (attachment as Attachment & { loss: Loss }) : undefined;
}

/** The attachment of `ws`; undefined when it has none of ours, or one with a protocol we do not speak. */
export function readAttachment(ws: WebSocket): Attachment | undefined {
  const attachment = record.read(ws.deserializeAttachment());
  const text: unknown = attachment?.state?.text;
  if (attachment?.state && text instanceof Uint8Array) {
    attachment.state = { ...attachment.state, text: new TextDecoder().decode(text) };
  }
  return attachment;
}

/** A text with any character beyond Latin-1 takes two bytes for each in an attachment. */
const WIDE = /[\u0100-\uffff]/;

/**
 * Attaches what is kept with a session to its socket.
 *
 * @throws what the runtime throws beyond its limit, and for a meta that cannot be cloned
 */
export function attach(ws: WebSocket, attachment: Attachment): void {
  const { state } = attachment;
  if (!state || !WIDE.test(state.text)) ws.serializeAttachment(attachment);
  else {
    const text = new TextEncoder().encode(state.text);
    ws.serializeAttachment({ ...attachment, state: { ...state, text } });
  }
}

/** The meta that was stored last for the socket, unchecked. */
export function readMeta(state: DurableObjectState, stored: Attachment): unknown {
  return "meta" in stored ? stored.meta : state.storage.kv.get(META_PREFIX + stored.id);
}

/**
 * Stores `meta` beside the socket, or in storage where it is too big.
 *
 * @param wasSpilled whether the last one is in storage
 * @returns whether this one is
 * @throws what the runtime throws for a meta that cannot be cloned
 */
export function writeMeta(
  state: DurableObjectState,
  ws: WebSocket,
  attachment: Attachment,
  meta: unknown,
  wasSpilled: boolean,
): boolean {
  try {
    attach(ws, { ...attachment, meta });
    if (wasSpilled) deleteMeta(state, attachment.id);
    return false;
  } catch {
    // The runtime throws for a meta over its limit, and for one that cannot be cloned at all. The
    // second also fails here.
    spillMeta(state, attachment.id, meta);
    attach(ws, attachment);
    return true;
  }
}

/** Stores the meta of session `id` in storage. */
export function spillMeta(state: DurableObjectState, id: string, meta: unknown): void {
  state.storage.kv.put(META_PREFIX + id, meta);
}

/** Deletes the meta that session `id` has in storage. */
export function deleteMeta(state: DurableObjectState, id: string): void {
  state.storage.kv.delete(META_PREFIX + id);
}

/**
 * Deletes the metas in storage whose sessions are gone. The close of a socket may still be on its way
 * to an actor that has just woken, and its session needs its meta then. So a meta is deleted by an
 * instance that starts much later than the first one that missed its session.
 */
export function sweepMetas(storage: DurableObjectStorage, isLive: (id: string) => boolean): void {
  const now = Date.now();
  const row: unknown = storage.kv.get(ORPHANS_KEY);
  const before = (typeof row === "object" && row ? row : {}) as Record<string, unknown>;
  const orphans: Record<string, number> = {};
  for (const [key] of storage.kv.list({ prefix: META_PREFIX })) {
    const id = key.slice(META_PREFIX.length);
    if (isLive(id)) continue;
    const noted = Number(before[id]);
    const missedAtMs = noted > 0 ? Math.min(noted, now) : now;
    if (now - missedAtMs >= ORPHAN_MS) storage.kv.delete(key);
    else orphans[id] = missedAtMs;
  }
  const ids = Object.keys(orphans);
  if (ids.length === Object.keys(before).length && ids.every((id) => before[id] === orphans[id])) {
    return;
  }
  if (ids.length > 0) storage.kv.put(ORPHANS_KEY, orphans);
  else storage.kv.delete(ORPHANS_KEY);
}

/**
 * Keeps `meta` with the socket, where the next instance finds it. For rooms written for Verani; a
 * handler only changes `ctx.meta`.
 *
 * @throws RollcallError `bad_request` for a meta whose required fields are wrong
 */
export function storeAttachment(ws: WebSocket, meta: ConnectionMeta): void {
  const attachment = readAttachment(ws) ?? { ...newAttachment(1, false), unheard: false };
  attach(ws, { ...attachment, meta: checkMeta(meta) });
}
