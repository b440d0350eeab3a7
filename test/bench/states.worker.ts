/** A presence room for the benchmark of states. Who comes is named by the query. */
import { presence } from "../../rooms/presence/index.ts";
import { createActorHandler } from "../../src/actor/actor.ts";

const room = presence({
  websocketPath: "/ws",
  binding: "ROOM",
  authenticate: (request) => ({ userId: new URL(request.url).searchParams.get("user") ?? "" }),
});

export class Room extends createActorHandler(room) {}

export default room.routes();
