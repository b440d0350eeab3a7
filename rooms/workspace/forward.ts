import { OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "../../src/http/routes.ts";
import { workspaceDescription } from "./contract.ts";

/** What the second Worker answers. Its code stays there: here is nothing but the way to it. */
const PATHS = ["/sync", "/api/upload-image", "/api/images/*", "/api/llm/*"];

/** Hands the workspace's routes to its own Worker, bodies and upgrades as they are. */
export function workspaceRoutes(): OpenAPIHono<AppEnv> {
  const app = new OpenAPIHono<AppEnv>();
  for (const route of workspaceDescription) app.openAPIRegistry.registerPath(route);
  for (const path of PATHS) app.all(path, (c) => c.env.WORKSPACE.fetch(c.req.raw));
  return app;
}
