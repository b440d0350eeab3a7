import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import { requestedUser } from "../../rooms/devices/access.ts";
import { type DeviceInspection, uuid } from "../../rooms/devices/contract.ts";
import { isDevelopment } from "../access/secrets.ts";
import { callIngest } from "../actor/call.ts";
import { allowCors } from "../http/cors.ts";
import type { AppEnv } from "../http/routes.ts";
import { refused } from "../http/routes.ts";

const tags = ["Debugging"];
const inspected = {
  200: {
    description: "What the actor tells of itself",
    content: { "application/json": { schema: z.looseObject({}) } },
  },
  403: refused("Not in development"),
};
const ACTORS = {
  presence: "The actor of a presence room",
  fanout: "The fan-out's actor of a user",
  devices: "The actor of a user's devices",
};
const description = [
  ...Object.entries(ACTORS).map(([actor, summary]) =>
    createRoute({
      method: "get",
      path: `/debug/actors/${actor}/{name}`,
      tags,
      summary,
      request: { params: z.object({ name: z.string() }) },
      responses: inspected,
    }),
  ),
  createRoute({
    method: "get",
    path: "/debug/presence",
    tags,
    summary: "The devices of a user as they are kept",
    request: { query: z.object({ user_id: uuid }) },
    responses: { ...inspected, 400: refused("user_id is missing or no UUID") },
  }),
];

/** What actors tell of themselves. Asking wakes them. Off outside development. */
export function debugRoutes(): OpenAPIHono<AppEnv> {
  const app = new OpenAPIHono<AppEnv>();
  for (const route of description) app.openAPIRegistry.registerPath(route);
  allowCors(app, "/debug/presence", {
    methods: "GET, POST, OPTIONS",
    headers: "Content-Type, Authorization",
  });
  app.use("/debug/*", async (c, next) => {
    if (isDevelopment(c.env)) return next();
    return c.json({ error: "unavailable", details: "Debug endpoint disabled in production" }, 403);
  });
  app.get("/debug/actors/presence/:name", async (c) =>
    c.json(await c.env.PRESENCE.getByName(c.req.param("name")).inspect()),
  );
  app.get("/debug/actors/fanout/:name", async (c) =>
    c.json(await c.env.FANOUT.getByName(c.req.param("name")).inspect()),
  );
  app.get("/debug/actors/devices/:name", async (c) =>
    c.json(await c.env.DEVICES.getByName(c.req.param("name")).inspect()),
  );
  app.get("/debug/presence", async (c) => {
    const stub = c.env.DEVICES.getByName(requestedUser(c.req.raw));
    const inspection = await callIngest(stub, "inspect", undefined);
    return c.json(inspection as DeviceInspection);
  });
  return app;
}
