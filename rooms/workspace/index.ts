/**
 * Workspaces for an app's main Worker: the routes, which a second Worker answers. That Worker is made
 * of `rollcall/rooms/workspace/worker`, a module of its own: it imports LiveStore, which must not
 * be in the bundle of presence.
 *
 * @module
 */
import { Hono } from "hono";
import { guardRoutes } from "../../src/http/guard.ts";
import type { System } from "../../src/http/system.ts";
import { log } from "../../src/log.ts";
import { RollcallError } from "../../src/wire/errors.ts";

export { describeWorkspace } from "./contract.ts";

/** Options of {@link workspace}. */
export interface WorkspaceOptions {
  /** Name of the service binding to the second Worker; default `WORKSPACE`. */
  binding?: string;
}

/** Pages of every origin may use them: tokens are in headers and URLs. */
const PATHS = {
  "/sync": { methods: ["GET", "POST"], cors: {} },
  "/api/upload-image": { methods: ["POST"], cors: {} },
  "/api/images/*": { methods: ["GET", "DELETE"], cors: {} },
  "/api/llm/tools": { methods: ["GET"], cors: {} },
  "/api/llm/chat/completions": { methods: ["POST"], cors: {} },
  "/api/v1/workspaces/:id": { methods: ["DELETE"], isForBackends: true },
} as const;

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
      guardRoutes(app, PATHS);
      for (const path of Object.keys(PATHS)) {
        app.all(path, async (c) => {
          const answer = await serviceOf(c.env, binding).fetch(c.req.raw);
          // A copy, whose headers can change.
          return answer.webSocket ? answer : new Response(answer.body, answer);
        });
      }
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
