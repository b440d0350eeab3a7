import type { OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "../server/app.ts";

const PREFLIGHT = {
  "Access-Control-Allow-Origin": "*",
  "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
  "Access-Control-Allow-Headers": "Content-Type, Authorization",
};

/** Lets pages of every origin call `path`, as the device contract words it. Before its handlers. */
export function openToAll(app: OpenAPIHono<AppEnv>, path: string): void {
  app.options(path, () => new Response(null, { status: 204, headers: PREFLIGHT }));
  app.use(path, async (c, next) => {
    await next();
    c.res.headers.set("Access-Control-Allow-Origin", "*");
  });
}
