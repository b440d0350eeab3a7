/** The room of the fan-out benchmark: what one client sends, all receive. Without limits, as its peers. */
import { createActorHandler } from "../../src/actor/actor.ts";
import { defineRoom, perActor } from "../../src/actor/room.ts";

const counterOf = perActor(() => ({ next: 0 }));

const room = defineRoom({
  name: "fanout-bench",
  websocketPath: "/ws",
  limits: {
    framesPerSecond: Number.POSITIVE_INFINITY,
    socketsPerUser: Number.POSITIVE_INFINITY,
  },
  // Its clients are bare sockets, as those of its peers: they do not ping.
  liveness: { pingMs: 0 },
});
room.on("say", ({ actor }, { id, text }) => {
  const n = counterOf(actor).next++;
  actor.emit.to("default").emit("said", { n, id, text });
});

export class Room extends createActorHandler(room) {}

export default {
  fetch(request: Request, env: { ROOM: DurableObjectNamespace }): Promise<Response> {
    return env.ROOM.getByName("bench").fetch(request);
  },
};
