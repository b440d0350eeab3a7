import * as z from "zod/mini";
import { defineRecord, type RecordType } from "../../src/actor/record.ts";
import { answered, refused, type SystemDescription } from "../../src/http/describe.ts";
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
          403: refused("The room of another workspace"),
          503: refused("JWT_SECRET is not configured"),
        },
      },
    ],
    channels: {
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
