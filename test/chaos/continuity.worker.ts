/** Rooms whose log is in memory, and durable ones, for the chaos of continuity. */
import { createActorHandler } from "../../src/actor/actor.ts";
import { defineRoom } from "../../src/actor/room.ts";

const COUNT = "count";

function roomWith(durable: boolean) {
  const room = defineRoom({ name: "continuity-chaos", websocketPath: "/ws", log: { durable } });
  // The number is stored before anybody receives it, so that no crash gives it twice.
  room.on("say", ({ actor }) => {
    const { kv } = actor.getStorage();
    const n = (kv.get<number>(COUNT) ?? 0) + 1;
    kv.put(COUNT, n);
    actor.emit.to("default").emit("said", { n });
  });
  return room;
}

export class Room extends createActorHandler(roomWith(false)) {}
export class DurableRoom extends createActorHandler(roomWith(true)) {}

export default {
  fetch(request: Request, env: Record<string, DurableObjectNamespace>): Promise<Response> {
    const { searchParams } = new URL(request.url);
    const namespace = env[searchParams.has("durable") ? "DURABLE_ROOM" : "ROOM"];
    return (namespace as DurableObjectNamespace)
      .getByName(searchParams.get("room") ?? "")
      .fetch(request);
  },
};
