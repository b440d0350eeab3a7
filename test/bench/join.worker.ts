/** The presence room and its route as src/worker.ts has them, without the other rooms. */
import { presence } from "../../rooms/presence.ts";
import { createActorHandler } from "../../src/actor/actor.ts";
import { presenceRoutes } from "../../src/http/presence.ts";

export class PresenceRoom extends createActorHandler(presence) {}

export default presenceRoutes();
