import * as z from "zod/mini";
import { spend } from "../../src/access/quota.ts";
import { defineRoom, perActor, type Room } from "../../src/actor/room.ts";
import { type StandardSchemaV1, validate } from "../../src/actor/schema.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { type Authenticate, authorizeVisitor } from "./access.ts";
import { pageRequest, stateChange, statusChange } from "./contract.ts";
import { CHANNEL, type PresenceActor, type PresenceMeta } from "./meta.ts";
import { Presence } from "./presence.ts";
import type {
  AnyState,
  AnyUser,
  PresenceEvents,
  RosterDiff,
  RosterSync,
  Status,
} from "./roster.ts";
import { encodeState } from "./states.ts";

export type { PresenceMeta } from "./meta.ts";

/** The calls of a presence room. `list` answers with a snapshot. */
export type PresenceCalls<S extends string = Status, State = AnyState, User = AnyUser> = {
  list: { in: undefined; out: RosterSync<S, State, User> };
};

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
  authenticate: Authenticate<E>;
  /** The first one is the default. */
  statuses: readonly S[];
  state?: StandardSchemaV1<unknown, State> | undefined;
  user?: StandardSchemaV1<unknown, User> | undefined;
  graceMs?: number | undefined;
  rosterLimit: number;
  onChange?: ((change: PresenceChange<S, State, User>, env: E) => unknown) | undefined;
}

/** The room of a presence system: one actor per room name. */
export function definePresence<E, S extends string, State, User>(
  options: PresenceRoomOptions<E, S, State, User>,
): PresenceRoom<E, S, State, User> {
  const { name, websocketPath, authenticate, statuses, state, user, graceMs } = options;
  const { rosterLimit, onChange } = options;
  const presenceOf = perActor((actor: PresenceActor<S>) => {
    const report = (change: Omit<PresenceChange<S>, "room">): void => {
      const run = async () => onChange?.({ ...change, room: actor.name } as never, actor.env as E);
      actor.keep(run());
    };
    return new Presence(actor, { statuses, rosterLimit, onChange: onChange && report });
  });

  const room = defineRoom<PresenceMeta, E, PresenceEvents<S>>({
    name,
    websocketPath,
    liveness: { probeMs: PROBE_MS },
    newest: { "presence.state": STATES_PER_SECOND },
    ...(graceMs !== undefined && { graceMs }),

    async extractMeta(request, env) {
      const { room: _, ...visitor } = await authorizeVisitor(request, env, authenticate, user);
      const clientId = crypto.randomUUID();
      return { ...visitor, clientId, channels: [CHANNEL], device: deviceOf(request) };
    },

    onConnect({ actor, session, meta }) {
      const here = presenceOf(actor);
      if (session.protocol < 3 && here.roster.size > PLAIN_ROSTER_LIMIT) {
        throw new RollcallError("unavailable", "This room is too large for protocol 1 and 2");
      }
      meta.since ??= Date.now();
      here.connected(session);
    },

    onResume({ actor, session }, { missedSnapshot }) {
      presenceOf(actor).resumed(session, missedSnapshot);
    },

    onDisconnect({ actor, session }, { reason }) {
      presenceOf(actor).disconnected(session, reason);
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

  return room.call("list", z.undefined(), (actor) => {
    actor.cleanupStaleSessions();
    return presenceOf(actor).snapshot();
  }) as unknown as PresenceRoom<E, S, State, User>;
}
