import * as z from "zod/mini";
import { revoked } from "../../src/access/claims.ts";
import { spend } from "../../src/access/quota.ts";
import { defineRoom, perActor, type Room, type RoomContext } from "../../src/actor/room.ts";
import { type StandardSchemaV1, validate } from "../../src/actor/schema.ts";
import type { RoomCalls } from "../../src/people/directory.ts";
import { countTogether } from "../../src/shards/totals.ts";
import { CLOSE } from "../../src/wire/close.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { type Authenticate, authorizeVisitor } from "./access.ts";
import { Blocks } from "./blocks.ts";
import {
  BLOCK_MS,
  pageRequest,
  type RoomPublication,
  type RoomPublishOutcome,
  roomPublication,
  stateChange,
  statusChange,
} from "./contract.ts";
import { ATTEMPTS } from "./deliveries.ts";
import { REPORTS } from "./ledger.ts";
import { CHANNEL, type PresenceActor, type PresenceMeta } from "./meta.ts";
import { type Others, type ShardCalls, watchedRequest } from "./others.ts";
import { Presence } from "./presence.ts";
import { ANSWERS, Publishing } from "./publishing.ts";
import type {
  AnyState,
  AnyUser,
  PresenceCount,
  PresenceEvents,
  RosterDiff,
  RosterPage,
  RosterSync,
  Status,
} from "./roster.ts";
import { encodeState } from "./states.ts";
import { STREAM_CURSOR, STREAM_GAP } from "./stream.ts";
import { type ChangesPage, Tracking } from "./tracking.ts";

export type { PresenceMeta } from "./meta.ts";

/** The calls of a presence room. `list` answers with a snapshot. */
export type PresenceCalls<S extends string = Status, State = AnyState, User = AnyUser> = {
  list: { in: undefined; out: RosterSync<S, State, User> };
  /** The totals of a room; with `users` also the users after a userId. */
  info: {
    in: { users?: boolean | undefined; after?: string | undefined };
    out: PresenceCount & Partial<RosterPage<S, State, User>>;
  };
  publish: { in: RoomPublication[]; out: RoomPublishOutcome[] };
  /** Closes a user's connections with 4404, and blocks the user for a time. */
  kick: { in: { userId: string; blockMs?: number | undefined }; out: number };
  changes: { in: { after?: string | undefined }; out: ChangesPage };
} & RoomCalls &
  ShardCalls<S>;

/** A presence room: `S` are its statuses, `State` what a connection may show, `User` what the server knows of a user. */
export type PresenceRoom<E, S extends string, State = AnyState, User = AnyUser> = Room<
  PresenceMeta,
  E,
  PresenceEvents<S, State, User>,
  PresenceCalls<S, State, User>
>;

/** A dead peer's 15 s of silence, this, and a ping interval before and after it are a minute. */
const PROBE_MS = 35_000;
/** Changes of its state that a client may send in a second; beyond it the newest waits. */
const STATES_PER_SECOND = 120;
/** Users of which clients of protocol 1 and 2, which know no pages, can get the roster. */
const PLAIN_ROSTER_LIMIT = 2_000;

function deviceOf(request: Request): string {
  const agent = request.headers.get("User-Agent") ?? "";
  if (agent.includes("Mobile")) return "mobile";
  return agent.includes("Tablet") ? "tablet" : "desktop";
}

/** What changed in a room since `onChange` last ran. */
export interface PresenceChange<S extends string = Status, State = AnyState, User = AnyUser>
  extends Omit<RosterDiff<S, State, User>, "states"> {
  room: string;
}

export interface PresenceRoomOptions<E, S extends string, State, User> {
  name: string;
  websocketPath: string;
  binding: string;
  directory: string;
  authenticate: Authenticate<E>;
  /** The first one is the default. */
  statuses: readonly S[];
  state?: StandardSchemaV1<unknown, State> | undefined;
  user?: StandardSchemaV1<unknown, User> | undefined;
  graceMs?: number | undefined;
  rosterLimit: number;
  shards: number | ((room: string, env: E) => number);
  onChange?: ((change: PresenceChange<S, State, User>, env: E) => unknown) | undefined;
}

/** The room of a presence system: one actor per room name. */
export function definePresence<E, S extends string, State, User>(
  options: PresenceRoomOptions<E, S, State, User>,
): PresenceRoom<E, S, State, User> {
  const { name, websocketPath, authenticate, statuses, state, user, graceMs } = options;
  const { rosterLimit, shards, onChange } = options;
  // Neither depends on the room's statuses.
  const anyRoom = (actor: PresenceActor<S>) => actor as unknown as PresenceActor<string>;
  const trackingOf = perActor((actor: PresenceActor<S>) => new Tracking(anyRoom(actor), options));
  const publishingOf = perActor(
    (actor: PresenceActor<S>) =>
      new Publishing(anyRoom(actor), () => presenceOf(actor).others?.connections ?? 0),
  );
  const presenceOf = perActor((actor: PresenceActor<S>) => {
    const report = (change: Omit<PresenceChange<S>, "room">): void => {
      const run = async () => onChange?.({ ...change, room: actor.name } as never, actor.env as E);
      actor.keep(run());
    };
    return new Presence(actor, {
      ...{ statuses, rosterLimit, onChange: onChange && report },
      ledger: (host) => trackingOf(actor).begin(host),
    });
  });

  const room = defineRoom<PresenceMeta, E, PresenceEvents<S>>({
    name,
    websocketPath,
    shards,
    liveness: { probeMs: PROBE_MS },
    newest: { "presence.state": STATES_PER_SECOND },
    ...(graceMs !== undefined && { graceMs }),

    async extractMeta(request, env) {
      const { room: _, ...visitor } = await authorizeVisitor(request, env, authenticate, user);
      const clientId = crypto.randomUUID();
      return { ...visitor, clientId, channels: [CHANNEL], device: deviceOf(request) };
    },

    async onConnect(ctx) {
      const { actor, session, meta } = ctx;
      const here = presenceOf(actor);
      new Blocks(actor.getStorage()).check(meta.userId);
      if (trackingOf(actor).ledger?.isRevoked(meta.userId, meta.issuedAtS)) throw revoked();
      const isTooLarge = actor.shard !== undefined || here.roster.size > PLAIN_ROSTER_LIMIT;
      if (session.protocol < 3 && isTooLarge) {
        throw new RollcallError("unavailable", "This room is too large for protocol 1 and 2");
      }
      if (here.others) await here.others.prepare(meta.watch);
      meta.since ??= Date.now();
      if (meta.stream) beginStream(ctx);
      here.connected(session);
    },

    onRefresh({ actor, session }, { userId, issuedAtS, listed }) {
      if (trackingOf(actor).ledger?.isRevoked(userId, issuedAtS)) throw revoked();
      if (listed === false && session.meta.listed !== false) {
        throw new RollcallError("forbidden", "The token allows to watch only: connect again");
      }
    },

    async onResume({ actor, session }, { missedSnapshot }) {
      const { userId, issuedAtS } = session.meta;
      if (trackingOf(actor).ledger?.isRevoked(userId, issuedAtS)) {
        session.close(CLOSE.unauthorized, revoked().message, "expired");
        return;
      }
      const here = presenceOf(actor);
      if (here.others) await here.others.prepare(session.meta.watch);
      here.resumed(session, missedSnapshot);
    },

    onDisconnect({ actor, session }, { reason }) {
      presenceOf(actor).disconnected(session, reason);
    },

    onRelay(actor, data, from) {
      presenceOf(actor).others?.receive(data, from);
    },

    onHibernationRestore(actor) {
      presenceOf(actor).restore();
    },
  });

  room.on("presence.status", statusChange(statuses), ({ actor, session }, { status }) => {
    presenceOf(actor).setStatus(session, status);
  });

  room.on("presence.list", async ({ actor, session, meta }) => {
    await spend(actor.env as object, "LIMIT_LISTS", meta.userId);
    presenceOf(actor).list(session);
  });

  room.on("presence.state", stateChange(), ({ actor, session }, { state: given, ttlMs }) => {
    const set = (value: unknown): void =>
      presenceOf(actor).setState(session, encodeState(value), ttlMs);
    if (given === null || !state) return set(given);
    const checked = validate(state, given, "state");
    return checked instanceof Promise ? checked.then(set) : set(checked);
  });

  room.on("presence.page", pageRequest(), ({ actor, session }, { after, limit }) =>
    presenceOf(actor).page(session, after, limit),
  );

  const othersOf = (actor: PresenceActor<S>): Others<S> => {
    const { others } = presenceOf(actor);
    if (others) return others;
    throw new RollcallError("unprocessable", "This room has no shards");
  };
  room.timer(REPORTS, (actor) => trackingOf(actor).ledger?.retry());
  room.timer(ATTEMPTS, (actor) => trackingOf(actor).deliveries?.ring());
  room.timer(ANSWERS, (actor) => publishingOf(actor).cleanUp());

  const userId = z.string().check(z.minLength(1), z.maxLength(256));
  return countTogether(room, 2, (actor) => presenceOf(actor).others?.totals)
    .call("list", z.undefined(), (actor) => {
      actor.cleanupStaleSessions();
      return presenceOf(actor).snapshot();
    })
    .call(
      "info",
      z.object({ users: z.optional(z.boolean()), after: z.optional(z.string()) }),
      (actor, { users, after }) => {
        actor.cleanupStaleSessions();
        return presenceOf(actor).info(users === true, after);
      },
    )
    .call("publish", z.array(roomPublication), (actor, messages) =>
      messages.map((message) => publishingOf(actor).publish(message)),
    )
    .call(
      "kick",
      z.object({ userId, blockMs: z.optional(z.int().check(z.gte(1), z.lte(BLOCK_MS))) }),
      (actor, { userId, blockMs }) => {
        if (blockMs) new Blocks(actor.getStorage()).add(userId, Date.now() + blockMs);
        return actor.closeUser(userId, CLOSE.kicked, "Kicked");
      },
    )
    .call("changes", z.object({ after: z.optional(z.string()) }), (actor, { after }) => {
      actor.cleanupStaleSessions();
      presenceOf(actor).sendDiff();
      return trackingOf(actor).changesAfter(after);
    })
    .call("watched", watchedRequest, (actor, request) => othersOf(actor).watchedBy(request))
    .call("shardPage", z.object({ after: z.string(), limit: z.int() }), (actor, { after, limit }) =>
      presenceOf(actor).ownPage(after, limit),
    )
    .call("whereIs", userId, (actor, userId) => {
      actor.cleanupStaleSessions();
      const entry = presenceOf(actor).roster.get(userId);
      return entry ? { devices: entry.devices, status: entry.status } : null;
    })
    .call(
      "closeUser",
      z.object({ userId, floorS: z.optional(z.number()) }),
      (actor, { userId, floorS }) => {
        const { ledger } = trackingOf(actor);
        if (floorS !== undefined && ledger) return ledger.revoke(userId, floorS);
        return actor.closeUser(userId, CLOSE.unauthorized, "Disconnected");
      },
    ) as unknown as PresenceRoom<E, S, State, User>;
}

/** Sends a stream where the numbers begin, and the room's events after its cursor. */
function beginStream({ actor, session, meta }: RoomContext<PresenceMeta>): void {
  const { after, userId } = meta;
  delete meta.after;
  const { epoch, cursor } = actor.log;
  session.enqueue(JSON.stringify({ type: STREAM_CURSOR, data: { epoch } }));
  if (after === undefined) return;
  const entries = actor.log.after(after);
  // The session that it had before is not needed any more.
  actor.closeUser(
    userId,
    CLOSE.forbidden,
    "Resumed",
    ({ loss, meta }) => loss !== undefined && meta.stream === true,
  );
  if (typeof entries === "string") {
    session.enqueue(JSON.stringify({ type: STREAM_GAP, data: { reason: entries, cursor } }));
    return;
  }
  for (const { target, text } of entries) {
    const isForAll = "channel" in target && (target.channel === null || target.channel === CHANNEL);
    // Users are in the snapshot that follows.
    if (isForAll && !text.includes('"data":{"type":"presence.')) session.enqueue(text);
  }
}
