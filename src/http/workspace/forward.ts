import { Hono } from "hono";
import type { AppEnv } from "../app.ts";

/** What the second Worker answers. Its code stays there: here is nothing but the way to it. */
const PATHS = ["/sync", "/api/upload-image", "/api/images/*", "/api/llm/*"];

/** Hands the workspace's routes to its own Worker, bodies and upgrades as they are. */
export function workspaceRoutes(): Hono<AppEnv> {
  const app = new Hono<AppEnv>();
  for (const path of PATHS) app.all(path, (c) => c.env.WORKSPACE.fetch(c.req.raw));
  return app;
}
