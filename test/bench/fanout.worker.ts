/** The room of the fan-out benchmark: what one says, all hear. Limits lifted, as its peers have none. */
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
  // Its clients are bare sockets, as those of its peers are: they ping nobody.
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
