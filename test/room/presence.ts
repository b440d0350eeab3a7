import * as z from "zod/mini";
import { type PresenceChange, presence } from "../../rooms/presence/index.ts";
import { createActorHandler } from "../../src/actor/actor.ts";
import { AppError, RollcallError } from "../../src/wire/errors.ts";

/** A presence room with every option. The header `X-User` is its login. */
export const crew = presence({
  name: "crew",
  websocketPath: "/crew/socket",
  binding: "CREW",
  statuses: ["free", "on call"],
  authenticate(request, { ENVIRONMENT }: Env, room) {
    const user = request.headers.get("X-User");
    if (user === "broken") throw new Error(`No login in ${ENVIRONMENT}`);
    if (room === "bridge" && user !== "kirk") throw new RollcallError("forbidden", "Not here");
    if (user === "redshirt") throw new AppError("expendable", "Stay", { status: 423 });
    return user === null ? null : { userId: user, username: user.toUpperCase() };
  },
});

export class Crew extends createActorHandler(crew) {}

/** Who comes is named by the query, with what the server knows of the user. */
function byQuery(request: Request, { ENVIRONMENT }: Env) {
  const query = new URL(request.url).searchParams;
  const user = query.get("about");
  const expiresAtMs = Number(query.get("expires"));
  if (ENVIRONMENT !== "development") throw new Error("Not for production");
  return {
    userId: query.get("user") ?? "",
    ...(user && { user: JSON.parse(user) }),
    ...(expiresAtMs > 0 && { expiresAtMs }),
  };
}

/** What `onChange` was told, by room. */
export const changes = new Map<string, PresenceChange[]>();

/** A room with schemas for its states and its users. */
export const board = presence({
  name: "board",
  websocketPath: "/board",
  binding: "BOARD",
  // No such binding: these rooms report to nobody.
  directory: "NONE",
  authenticate: byQuery,
  state: z.object({ cursor: z.tuple([z.number(), z.number()]), note: z.optional(z.string()) }),
  user: z.object({ colour: z.string() }),
  graceMs: 500,
  onChange(change) {
    changes.set(change.room, [...(changes.get(change.room) ?? []), change as PresenceChange]);
  },
});
export class Board extends createActorHandler(board) {}

/** A room that is large with six users. */
export const crowd = presence({
  name: "crowd",
  websocketPath: "/crowd",
  binding: "CROWD",
  authenticate: byQuery,
  rosterLimit: 5,
});
export class Crowd extends createActorHandler(crowd) {}
