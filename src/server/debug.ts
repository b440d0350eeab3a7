import { Hono } from "hono";
import { requestedUser } from "../../rooms/devices/access.ts";
import type { DeviceRoom } from "../../rooms/devices/room.ts";
import { isDevelopment } from "../access/secrets.ts";
import { call } from "../actor/call.ts";
import { namespaceOf } from "../http/binding.ts";
import { guardRoutes } from "../http/guard.ts";

/** Bindings by the name of the system in `/debug/actors/<system>/<name>`. */
const BINDINGS = { presence: "PRESENCE", fanout: "FANOUT", devices: "DEVICES" };

/** What actors report about themselves. A request wakes the actor. Off outside development. */
export function debugRoutes<E extends { ENVIRONMENT?: string }>(): Hono<{ Bindings: E }> {
  const app = new Hono<{ Bindings: E }>();
  const cors = { methods: "GET, POST, OPTIONS", headers: "Content-Type, Authorization" };
  guardRoutes(app, { "/debug/presence": { methods: ["GET"], cors } });
  for (const system of Object.keys(BINDINGS)) {
    guardRoutes(app, { [`/debug/actors/${system}/:name`]: { methods: ["GET"] } });
  }
  app.use("/debug/*", async (c, next) => {
    if (isDevelopment(c.env)) return next();
    return c.json({ error: "unavailable", details: "Debug endpoint disabled in production" }, 403);
  });
  for (const [system, binding] of Object.entries(BINDINGS)) {
    app.get(`/debug/actors/${system}/:name`, async (c) =>
      Response.json(await namespaceOf(c.env, binding).getByName(c.req.param("name")).inspect()),
    );
  }
  app.get("/debug/presence", async (c) => {
    const stub = namespaceOf(c.env, BINDINGS.devices).getByName(requestedUser(c.req.raw));
    return Response.json(await call<DeviceRoom>(stub).inspect());
  });
  return app;
}
