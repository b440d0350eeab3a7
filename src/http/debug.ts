import { OpenAPIHono } from "@hono/zod-openapi";
import { requestedUser } from "../auth/devices.ts";
import { isDevelopment } from "../auth/secrets.ts";
import type { DeviceInspection } from "../devices.ts";
import { callIngest } from "../ingest.ts";
import type { AppEnv } from "./app.ts";
import { openToAll } from "./cors.ts";

/** What actors tell of themselves. Asking wakes them. Off outside development. */
export function debugRoutes(): OpenAPIHono<AppEnv> {
  const app = new OpenAPIHono<AppEnv>();
  openToAll(app, "/debug/presence");
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
