import * as z from "zod/mini";
import { defineRecord, type RecordType } from "../../src/actor/record.ts";
import { answered, limited, refused, type SystemDescription } from "../../src/http/describe.ts";
import { idempotencyFields, idempotencyKey } from "../../src/http/idempotency.ts";
import { type PresenceEvents, STATUSES, type Status } from "./roster.ts";

const INVALID_STATUS = { error: "Invalid status" };

/** A schema for each event of one direction. */
type Schemas<Events> = { [K in keyof Events]: z.ZodMiniType<Events[K]> };

/** The data of `presence.status` from a client. */
export function statusChange<S extends string>(
  statuses: readonly S[],
): z.ZodMiniType<{ status: S }, { status: S }> {
  return z.object({ status: z.literal(statuses, INVALID_STATUS) }, INVALID_STATUS);
}

/** The data of `presence.state` from a client; the room has a schema of its own for the state. */
export function stateChange() {
  return z.object({
    state: z.nullable(z.record(z.string(), z.unknown())),
    ttlMs: z.optional(z.int().check(z.gte(100), z.lte(600_000))),
  });
}

/** The data of `presence.page` from a client. */
export function pageRequest() {
  return z.object({
    after: z.optional(z.string().check(z.maxLength(256))),
    limit: z.optional(z.int().check(z.gte(1), z.lte(200))),
  });
}

/** A user's status as it is stored: the bare text, as the release before reads it. */
export function statusRecord<S extends string>(statuses: readonly S[]): RecordType<{ status: S }> {
  return defineRecord({ version: 1, schema: statusChange(statuses), bare: "status" });
}

// ── Rooms over HTTP ─────────────────────────────────────────────────────────────────────────────

/** Messages of a batch. */
export const BATCH_MESSAGES = 100;
const NAME_LENGTH = 256;

const eventError = { error: `event has 1 to ${NAME_LENGTH} characters` };
const dataError = { error: "data must be an object" };
const channelError = { error: `channel has at most ${NAME_LENGTH} characters` };
const reservedError = { error: "The names error and presence.* are the room's own" };

/** The body of a publish to a room. */
export const roomMessage = z.object({
  event: z.string(eventError).check(
    z.minLength(1, eventError),
    z.maxLength(NAME_LENGTH, eventError),
    z.refine((name) => name.isWellFormed(), eventError),
    z.refine((name) => name !== "error" && !name.startsWith("presence."), reservedError),
  ),
  data: z.optional(z.record(z.string(), z.unknown(), dataError)),
  channel: z._default(
    z.string(channelError).check(
      z.maxLength(NAME_LENGTH, channelError),
      z.refine((name) => name.isWellFormed(), channelError),
    ),
    "default",
  ),
  except: z.optional(z.string({ error: "except is the id of a session" }).check(z.maxLength(128))),
});

/** A message as the Worker sends it to the room. */
export const roomPublication = z.extend(roomMessage, {
  /** The userId of its publisher. */
  from: z.string(),
  idempotency: z.optional(idempotencyFields),
});
export type RoomPublication = z.infer<typeof roomPublication>;

/** `{"recipients":n,"cursor":…}` as JSON text; 422 when a key came with another body. */
export type RoomPublishOutcome = { status: 200; answer: string } | { status: 422 };

/** The longest time for which a user is blocked in a room, in ms. */
export const BLOCK_MS = 30 * 24 * 3_600_000;

// ── Joins and leaves ────────────────────────────────────────────────────────────────────────────

export const CHANGE_TYPES = ["user.joined", "user.left", "room.occupied", "room.vacated"] as const;

const changeFields = {
  type: z.enum(CHANGE_TYPES),
  /** Absent for `room.*`. */
  userId: z.exactOptional(z.string()),
  /** Sessions of the user, or of the room, from then on. */
  sessions: z.int(),
  /** How the user left. */
  reason: z.exactOptional(z.enum(["left", "lost", "kicked", "expired"])),
  /** Server time in ms. */
  at: z.int(),
};
const changeDraft = z.object(changeFields);
/** As it is stored: a later release may know more of it. */
const storedChange = z.looseObject(changeFields);

/** A change as it is stored: what all changes of a room share stands elsewhere. */
export type ChangeDraft = z.infer<typeof changeDraft>;

/** A change of a room's roster, as webhooks and the change feed have it. */
export interface Change extends ChangeDraft {
  room: string;
  /** Differs whenever offsets begin anew. */
  epoch: string;
  /** 1, 2, 3 … within an epoch. */
  offset: number;
}

/** The beginning of the change log. */
export const headRecord = defineRecord({ version: 1, schema: z.object({ epoch: z.string() }) });

/** A row of the change log: its number among the rows, and its first offset. */
export const chunkRecord = defineRecord({
  version: 1,
  schema: z.object({ index: z.int(), first: z.int(), changes: z.array(storedChange) }),
});

export type Chunk = NonNullable<ReturnType<typeof chunkRecord.read>>;

const memberFields = z.object({
  /** Whether others see the user. */
  listed: z.boolean(),
  /** Tokens of the user that were issued up to this second were revoked. */
  floorS: z.exactOptional(z.number()),
});
export type Member = z.infer<typeof memberFields>;

/** A user who is in a room. */
export const memberRecord = defineRecord<Member>({ version: 1, schema: memberFields });

/** A user who is blocked in a room. */
export const blockRecord = defineRecord({ version: 1, schema: z.object({ untilMs: z.number() }) });

/** How far a webhook is. */
export const deliveryRecord = defineRecord({
  version: 1,
  schema: z.object({
    epoch: z.string(),
    /** All changes up to this offset are delivered, or given up. */
    offset: z.int(),
    /** Sent once already, so that it is sent again unchanged. */
    batch: z.exactOptional(
      z.looseObject({
        id: z.string(),
        /** The offset of its last change. */
        to: z.int(),
        body: z.string(),
        attempts: z.int(),
        firstAtMs: z.number(),
        nextAtMs: z.number(),
      }),
    ),
  }),
});
export type Delivery = NonNullable<ReturnType<typeof deliveryRecord.read>>;

// ── Description ─────────────────────────────────────────────────────────────────────────────────

/** Events of the presence contract, for its description. */
function presenceEvents() {
  const status = z.enum(STATUSES, INVALID_STATUS);
  const count = z.int().check(z.nonnegative());
  const user = { userId: z.string(), username: z.string() };
  const devices = z.int().check(z.positive());
  const object = z.record(z.string(), z.any());
  const untilMs = z.exactOptional(z.int());
  const session = z.object({
    session: z.string(),
    device: z.string(),
    since: z.int(),
    state: z.exactOptional(object),
    untilMs,
  });
  const plain = { ...user, devices, status };
  const entry = {
    ...plain,
    user: z.exactOptional(object),
    sessions: z.exactOptional(z.array(session)),
  };
  const reason = z.exactOptional(z.enum(["left", "lost", "kicked", "expired"]));
  const timestamp = z.int();
  return {
    in: {
      "presence.status": statusChange<Status>(STATUSES),
      "presence.list": z.object({}),
      "presence.state": stateChange() as z.ZodMiniType<PresenceEvents["in"]["presence.state"]>,
      "presence.page": pageRequest() as z.ZodMiniType<PresenceEvents["in"]["presence.page"]>,
    } satisfies Schemas<PresenceEvents["in"]>,
    out: {
      "presence.sync": z.object({
        users: z.array(z.object(entry)),
        totalUsers: count,
        totalConnections: count,
        partial: z.exactOptional(z.boolean()),
        next: z.exactOptional(z.nullable(z.string())),
      }),
      "presence.count": z.object({ totalUsers: count, totalConnections: count }),
      "presence.diff": z.object({
        joins: z.array(z.object(entry)),
        leaves: z.array(z.object({ ...user, reason })),
        updates: z.array(
          z.object({
            userId: z.string(),
            username: z.exactOptional(z.string()),
            devices: z.exactOptional(devices),
            status: z.exactOptional(status),
            user: z.exactOptional(z.nullable(object)),
            sessions: z.exactOptional(z.array(session)),
          }),
        ),
        states: z.exactOptional(
          z.array(
            z.object({
              userId: z.string(),
              session: z.string(),
              state: z.nullable(object),
              untilMs,
            }),
          ),
        ),
        timestamp,
      }),
      "presence.online": z.object({ ...plain, timestamp }),
      "presence.update": z.object({ ...user, devices, timestamp }),
      "presence.offline": z.object({ ...user, timestamp, reason }),
      "presence.status": z.object({ ...user, status, timestamp }),
    } satisfies Schemas<PresenceEvents["out"]>,
  };
}

/** An event of a room as a stream has it. */
function roomEvent() {
  return z.object({
    event: z.string(),
    channel: z.string(),
    data: z.any().check(z.describe("Of one that came over HTTP, with `publisher`, a userId")),
  });
}

function roomGap() {
  return z.object({
    type: z.literal("gap"),
    reason: z.enum(["trimmed", "restarted", "unknown"]),
    cursor: z.string(),
  });
}

/** The rooms over HTTP. */
function roomRoutes(sync: ReturnType<typeof presenceEvents>["out"]["presence.sync"]) {
  const security = ["bearer", "bearerQuery"] as const;
  const room = z.string().check(z.regex(/^[A-Za-z0-9_.:-]{1,64}$/));
  const params = z.object({ room });
  const refusals = {
    400: refused("The request is not as described"),
    401: refused("The token is missing, bad or expired"),
    403: refused("The token does not allow this in the room"),
    429: limited(),
    503: refused("JWT_SECRET is not configured, or WEBHOOKS is malformed"),
  };
  const body = (schema: z.ZodMiniType) => ({ content: { "application/json": schema } });
  const bodyRefusals = {
    ...refusals,
    413: refused("Too large"),
    415: refused("Not application/json"),
  };
  const published = z.object({
    recipients: z.int().check(z.describe("Sockets that it went to")),
    cursor: z.string().check(z.describe("Where a reader is, once it has this event")),
  });
  const count = z.int().check(z.nonnegative());
  const change = z.extend(changeDraft, { room, epoch: z.string(), offset: z.int() });
  return [
    {
      method: "get",
      path: "/api/v1/rooms/{room}",
      summary: "The number of users in a room; with users=1 also a page of them",
      security,
      params,
      query: z.object({
        users: z.optional(z.enum(["0", "1"])),
        after: z.optional(z.string()).check(z.describe("The `next` of the page before")),
      }),
      responses: {
        200: answered(
          "Totals; `users` are in the order of their ids, without states",
          z.object({
            room,
            totalUsers: count,
            totalConnections: count,
            users: z.optional(sync.shape.users),
            next: z.optional(z.nullable(z.string())),
          }),
        ),
        ...refusals,
      },
    },
    {
      method: "get",
      path: "/api/v1/rooms/{room}/stream",
      summary: "A room as server-sent events, for tokens that may watch",
      description:
        "Takes `detail` and `watch` as the socket does. With `Last-Event-ID` (header or `lastEventId`) it goes on where that event was.",
      security,
      params,
      responses: {
        200: {
          description: "`data:` is `{event, channel, data}`; `id:` is a cursor",
          content: { "text/event-stream": z.string() },
        },
        ...refusals,
      },
    },
    {
      method: "post",
      path: "/api/v1/rooms/{room}/events",
      summary: "Publishes an event to a room",
      description: "Its data gets the field `publisher`, the verified userId.",
      security,
      params,
      headers: z.object({ "Idempotency-Key": z.optional(idempotencyKey) }),
      body: body(roomMessage),
      responses: {
        200: answered("Sent to all that are in the channel", published),
        ...bodyRefusals,
        422: refused("The key came with another body before"),
      },
    },
    {
      method: "post",
      path: "/api/v1/rooms/{room}/events/batch",
      summary: `Publishes up to ${BATCH_MESSAGES} events to a room; a bad one affects no other`,
      security,
      params,
      body: body(
        z.object({
          messages: z
            .array(z.extend(roomMessage, { idempotencyKey: z.optional(idempotencyKey) }))
            .check(z.maxLength(BATCH_MESSAGES)),
        }),
      ),
      responses: {
        200: answered(
          "One result per message, in order",
          z.object({
            results: z.array(
              z.union([
                z.extend(published, { status: z.literal(200) }),
                z.object({ status: z.int(), error: z.string(), details: z.string() }),
              ]),
            ),
          }),
        ),
        ...bodyRefusals,
      },
    },
    {
      method: "delete",
      path: "/api/v1/rooms/{room}/users/{id}",
      summary: "Kicks a user: closes all connections with 4404, without a way to resume",
      security,
      params: z.extend(params, { id: z.string() }),
      query: z.object({
        blockMs: z
          .optional(z.int().check(z.gte(1), z.lte(BLOCK_MS)))
          .check(z.describe("The user cannot come back before that")),
      }),
      responses: {
        200: answered("How many sessions were closed", z.object({ sessions: count })),
        ...refusals,
        422: refused("The room blocks too many users already"),
      },
    },
    {
      method: "get",
      path: "/api/v1/rooms/{room}/changes",
      summary: "Joins and leaves after a cursor, in rooms that WEBHOOKS selects",
      security,
      params,
      query: z.object({
        after: z
          .optional(z.string())
          .check(z.describe("`<epoch>:<offset>`; without it: a snapshot")),
      }),
      responses: {
        200: answered(
          "The changes; a snapshot where they are not stored any more",
          z.union([
            z.object({ changes: z.array(change), cursor: z.string(), more: z.boolean() }),
            z.object({
              snapshot: z.array(z.object({ userId: z.string(), sessions: z.int() })),
              cursor: z.string(),
            }),
          ]),
        ),
        ...refusals,
        404: refused("The room keeps no changes"),
      },
    },
  ] as const satisfies SystemDescription["routes"];
}

/** Routes and sockets of the service's presence rooms. */
export function describePresence(): SystemDescription {
  const events = presenceEvents();
  const sync = events.out["presence.sync"];
  const query = z.object({
    room: z
      .optional(z.string())
      .check(
        z.describe(
          "1 to 64 of `A-Z a-z 0-9 _ . : -`, default `lobby`; `workspace:<id>` is for its members",
        ),
      ),
  });
  const view = {
    detail: z
      .optional(z.enum(["roster", "count", "none"]))
      .check(z.describe("Protocol 3: the users (default), their number, or nothing")),
    watch: z
      .optional(z.string())
      .check(z.describe("Protocol 3: up to 100 user ids, whose entries come in any case")),
  };
  const security = ["bearer", "bearerQuery"] as const;
  return {
    tag: { name: "Presence", description: "Who is in a room." },
    routes: [
      {
        method: "get",
        path: "/api/v1/presence",
        summary: "The users in a presence room",
        security,
        query,
        responses: {
          200: answered("As presence.sync", sync),
          400: refused("The room's name is malformed"),
          401: refused("The token is missing, bad or expired"),
          403: refused("The token does not allow this in the room"),
          429: limited(),
          503: refused("JWT_SECRET is not configured"),
        },
      },
      ...roomRoutes(sync),
    ],
    channels: {
      roomStream: {
        address: "/api/v1/rooms/{room}/stream",
        title: "A presence room, as server-sent events",
        description:
          "`data:` is `{event, channel, data}`; the first is `presence.sync`. `id:` is a cursor. `event: gap`: what followed `Last-Event-ID` is not known; a `presence.sync` follows.",
        security,
        wire: "plain",
        in: {},
        out: { roomEvent: roomEvent(), roomGap: roomGap() },
      },
      presence: {
        address: "/ws/presence",
        title: "A presence room",
        description:
          "The users in a room, with the number of their devices and their status. Clients of protocol 2 get a `presence.diff` per flush, others the single events.",
        query: z.extend(query, view),
        security,
        wire: "room",
        probes: true,
        in: events.in,
        out: events.out,
      },
    },
    components: { PresenceSync: sync },
  };
}
