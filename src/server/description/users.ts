import * as z from "zod/mini";
import { refused, type SystemDescription } from "../../http/describe.ts";

/** The routes of `src/server/users.ts`. */
export function describeUsers(): SystemDescription {
  return {
    tag: { name: "Users", description: "What is stored about a user, over all systems." },
    routes: [
      {
        method: "delete",
        path: "/api/v1/users/{id}",
        summary: "Delete all that is stored about a user",
        description:
          "Devices and the answers to idempotency keys. A status in a presence room is deleted when the user leaves it.",
        security: ["mint"],
        params: z.object({ id: z.string().check(z.minLength(1), z.maxLength(256)) }),
        responses: {
          204: { description: "Nothing is stored any more" },
          400: refused("The id is blank, too long or malformed"),
          401: refused("The minting token is missing or wrong"),
          503: refused("No minting token is configured"),
        },
      },
    ],
    channels: {},
  };
}
