import { OpenAPIHono } from "@hono/zod-openapi";
import { isDevelopment } from "../auth/secrets.ts";
import type { AppEnv } from "./app.ts";

/** What actors tell of themselves. Asking wakes them. Off outside development. */
export function debugRoutes(): OpenAPIHono<AppEnv> {
  const app = new OpenAPIHono<AppEnv>();
  app.use("/debug/*", async (c, next) => {
    if (isDevelopment(c.env)) return next();
    return c.json({ error: "unavailable", details: "Debug endpoint disabled in production" }, 403);
  });
  app.get("/debug/actors/presence/:name", async (c) =>
    c.json(await c.env.PRESENCE.getByName(c.req.param("name")).inspect()),
  );
  return app;
}
