/** The room of the continuity benchmark, with its log in memory and durable: what one client sends, all receive. */
import { createActorHandler } from "../../src/actor/actor.ts";
import { defineRoom, perActor } from "../../src/actor/room.ts";

const counterOf = perActor(() => ({ next: 0 }));

function roomWith(durable: boolean) {
  const room = defineRoom({ name: "continuity-bench", websocketPath: "/ws", log: { durable } });
  room.on("say", ({ actor }, { id, text }) => {
    const n = counterOf(actor).next++;
    actor.emit.to("default").emit("said", { n, id, text });
  });
  return room;
}

export class Room extends createActorHandler(roomWith(false)) {}
export class DurableRoom extends createActorHandler(roomWith(true)) {}

export default {
  fetch(request: Request, env: Record<string, DurableObjectNamespace>): Promise<Response> {
    const isDurable = new URL(request.url).searchParams.has("durable");
    const namespace = env[isDurable ? "DURABLE_ROOM" : "ROOM"] as DurableObjectNamespace;
    return namespace.getByName("bench").fetch(request);
  },
};
