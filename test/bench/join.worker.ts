/** The presence room and its route as src/server/worker.ts has them, without the other rooms. */
import { presence } from "../../rooms/presence/room.ts";
import { presenceRoutes } from "../../rooms/presence/routes.ts";
import { createActorHandler } from "../../src/actor/actor.ts";

export class PresenceRoom extends createActorHandler(presence) {}

export default presenceRoutes();
