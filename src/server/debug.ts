import { Hono } from "hono";
import { requestedUser } from "../../rooms/devices/access.ts";
import type { DeviceRoom } from "../../rooms/devices/room.ts";
import { isDevelopment } from "../access/secrets.ts";
import { call } from "../actor/call.ts";
import { allowCors } from "../http/cors.ts";
import type { AppEnv } from "../http/routes.ts";

/** What actors report about themselves. A request wakes the actor. Off outside development. */
export function debugRoutes(): Hono<AppEnv> {
  const app = new Hono<AppEnv>();
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
    return c.json(await call<DeviceRoom>(stub).inspect());
  });
  return app;
}
