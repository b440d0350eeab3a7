import { createRoute, type OpenAPIHono, z } from "@hono/zod-openapi";
import { callIngest } from "../../src/actor/call.ts";
import type { AppEnv } from "../../src/http/routes.ts";
import { createRoutes, refused } from "../../src/http/routes.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { admitVisitor } from "./access.ts";
import { type RosterSync, STATUSES } from "./roster.ts";

const sync = z
  .object({
    users: z.array(
      z.object({
        userId: z.string(),
        username: z.string(),
        devices: z.int().positive(),
        status: z.enum(STATUSES),
      }),
    ),
    totalUsers: z.int(),
    totalConnections: z.int(),
  })
  .openapi("PresenceSync");

const look = createRoute({
  method: "get",
  path: "/api/v1/presence",
  summary: "Who is in a presence room",
  tags: ["Presence"],
  security: [{ bearer: [] }, { bearerQuery: [] }],
  request: {
    query: z.object({
      room: z.string().optional().openapi({
        description:
          "1 to 64 of `A-Z a-z 0-9 _ . : -`, default `lobby`; `workspace:<id>` is for its members",
      }),
    }),
  },
  responses: {
    200: { description: "As presence.sync", content: { "application/json": { schema: sync } } },
    400: refused("The room's name is malformed"),
    401: refused("The token is missing, bad or expired"),
    403: refused("Another's workspace"),
    503: refused("JWT_SECRET is not configured"),
  },
});

/** The user presence room: a look over HTTP, and the upgrade. */
export function presenceRoutes(): OpenAPIHono<AppEnv> {
  const app = createRoutes();

  app.openapi(look, async (c) => {
    const { room } = await admitVisitor(c.req.raw, c.env);
    const list = await callIngest(c.env.PRESENCE.getByName(room), "list", undefined);
    return c.json(list as RosterSync, 200);
  });

  app.get("/ws/presence", async (c) => {
    const { room } = await admitVisitor(c.req.raw, c.env);
    if (c.req.header("Upgrade")?.toLowerCase() !== "websocket") {
      throw new RollcallError("upgrade_required", "/ws/presence takes WebSockets only");
    }
    return c.env.PRESENCE.getByName(room).fetch(c.req.raw);
  });
  return app;
}
