import * as z from "zod/mini";
import { uuid } from "../../../rooms/devices/contract.ts";
import { answered, refused, type SystemDescription } from "../../http/describe.ts";

const ACTORS = {
  presence: "The actor of a presence room",
  fanout: "The fan-out's actor of a user",
  devices: "The actor of a user's devices",
};

/** The routes of `src/server/debug.ts`. */
export function describeDebug(): SystemDescription {
  const inspected = {
    200: answered("What the actor reports about itself", z.looseObject({})),
    403: refused("Not in development"),
  };
  return {
    tag: {
      name: "Debugging",
      description: "What actors report about themselves. In development only.",
    },
    routes: [
      ...Object.entries(ACTORS).map(([actor, summary]) => ({
        method: "get" as const,
        path: `/debug/actors/${actor}/{name}`,
        summary,
        params: z.object({ name: z.string() }),
        responses: inspected,
      })),
      {
        method: "get",
        path: "/debug/presence",
        summary: "The devices of a user as they are stored",
        query: z.object({ user_id: uuid }),
        responses: { ...inspected, 400: refused("user_id is missing or no UUID") },
      },
    ],
    channels: {},
  };
}
