import * as z from "zod/mini";
import { STATUSES } from "./roster.ts";

/**
 * What sockets say and hear, one file per contract. The rooms' types derive from these schemas, and
 * so does `/asyncapi.json`: what is sent cannot differ from what is described without a compile error.
 */

/** What comes in and goes out, by the event's name. */
export interface EventSchemas {
  in: Record<string, z.ZodMiniType>;
  out: Record<string, z.ZodMiniType>;
}
/** The event map of a room whose schemas these are. */
export type EventsOf<S extends EventSchemas> = {
  in: { [K in keyof S["in"]]: z.infer<S["in"][K]> };
  out: { [K in keyof S["out"]]: z.infer<S["out"][K]> };
};

const invalid = { error: "Invalid status" };
const status = z.enum(STATUSES, invalid);
const count = z.int().check(z.nonnegative());
const user = { userId: z.string(), username: z.string() };
const entry = { ...user, devices: z.int().check(z.positive()), status };
/** The server's clock, in ms since the epoch. */
const timestamp = z.int();

/** Events of the presence contract. */
export const presenceEvents = {
  in: {
    "presence.status": z.object({ status }, invalid),
    "presence.list": z.object({}),
  },
  out: {
    "presence.sync": z.object({
      users: z.array(z.object(entry)),
      totalUsers: count,
      totalConnections: count,
    }),
    "presence.diff": z.object({
      joins: z.array(z.object(entry)),
      leaves: z.array(z.object(user)),
      updates: z.array(
        z.object({
          userId: z.string(),
          username: z.exactOptional(z.string()),
          devices: z.exactOptional(entry.devices),
          status: z.exactOptional(status),
        }),
      ),
      timestamp,
    }),
    "presence.online": z.object({ ...entry, timestamp }),
    "presence.update": z.object({ ...user, devices: entry.devices, timestamp }),
    "presence.offline": z.object({ ...user, timestamp }),
    "presence.status": z.object({ ...user, status, timestamp }),
  },
} satisfies EventSchemas;
export type PresenceEvents = EventsOf<typeof presenceEvents>;
