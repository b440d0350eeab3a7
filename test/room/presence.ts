import { presence } from "../../rooms/presence/index.ts";
import { createActorHandler } from "../../src/actor/actor.ts";
import { RollcallError } from "../../src/wire/errors.ts";

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
    return user === null ? null : { userId: user, username: user.toUpperCase() };
  },
});

export class Crew extends createActorHandler(crew) {}
