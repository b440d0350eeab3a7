/**
 * Workspaces for an app's main Worker: the routes, which a second Worker answers. That Worker is made
 * of `rollcall/rooms/workspace/worker`, a module of its own: it imports LiveStore, which must not
 * be in the bundle of presence.
 */
import { Hono } from "hono";
import type { System } from "../../src/http/system.ts";
import { log } from "../../src/log.ts";
import { RollcallError } from "../../src/wire/errors.ts";

export { describeWorkspace } from "./contract.ts";

export interface WorkspaceOptions {
  /** Name of the service binding to the second Worker; default `WORKSPACE`. */
  binding?: string;
}

const PATHS = ["/sync", "/api/upload-image", "/api/images/*", "/api/llm/*"];

/**
 * LiveStore's sync, images and completions, forwarded to the second Worker with bodies and upgrades
 * unchanged. Without the binding, these routes answer 503 `unavailable`.
 *
 * @example
 * // The main Worker; wrangler.toml: services = [{ binding = "WORKSPACE", service = "my-workspace" }]
 * export default createApp({ workspace: workspace() });
 *
 * // The second Worker
 * export { WorkspaceRoom } from "rollcall/rooms/workspace/worker";
 * export default createWorkspaceApp();
 */
export function workspace<E extends object = object>(options: WorkspaceOptions = {}): System<E> {
  const { binding = "WORKSPACE" } = options;
  return {
    routes() {
      const app = new Hono<{ Bindings: E }>();
      for (const path of PATHS) app.all(path, (c) => serviceOf(c.env, binding).fetch(c.req.raw));
      return app;
    },
  };
}

function serviceOf(env: object, binding: string): Fetcher {
  const service = (env as Record<string, unknown>)[binding] as Fetcher | undefined;
  if (typeof service?.fetch === "function") return service;
  log("binding_missing", { binding });
  throw new RollcallError("unavailable", "This server does not offer that");
}
