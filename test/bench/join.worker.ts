/** The presence room and its route as src/server/worker.ts has them, without the other rooms. */
import { presence } from "../../rooms/presence/index.ts";
import { createActorHandler } from "../../src/actor/actor.ts";

const lobby = presence();

export class PresenceRoom extends createActorHandler(lobby) {}

export default lobby.routes();
