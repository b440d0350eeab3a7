import { Hono } from "hono";
import { spend } from "../../src/access/quota.ts";
import { inSpan } from "../../src/http/trace.ts";
import { requireUpgrade } from "../../src/http/upgrade.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import {
  authorizeMember,
  type MembershipEnv,
  parseStoreId,
  refusalResponse,
  requireServer,
} from "./access.ts";
import { type ImagesEnv, imageRoutes } from "./images.ts";
import { type LlmEnv, llmRoutes } from "./llm.ts";

/** What the Worker calls of `WorkspaceRoom`, whose types are LiveStore's too. */
interface WorkspaceActor extends Rpc.DurableObjectBranded {
  fetch(request: Request): Promise<Response>;
  deleteWorkspace(): Promise<void>;
}

/** The bindings and variables of the second Worker. */
export interface WorkspaceEnv extends MembershipEnv, ImagesEnv, LlmEnv {
  WORKSPACES: DurableObjectNamespace<WorkspaceActor>;
}

/**
 * All that the second Worker answers. Its own address is off (`workers_dev = false`): requests come
 * over the main Worker's service binding.
 */
export function createWorkspaceApp<E extends WorkspaceEnv = WorkspaceEnv>(): Hono<{
  Bindings: E;
}> {
  const app = new Hono<{ Bindings: E }>();

  // LiveStore's clients send an upgrade for `transport=ws` and POSTs for `transport=http`.
  app.all("/sync", async (c) => {
    const url = new URL(c.req.url);
    const member = await inSpan("sync.auth", () => authorizeMember(c.req.raw, c.env));
    const { storeId, userId, claimsVersion } = member;
    // A server of yours has no claims, and no limit.
    if (claimsVersion !== undefined) await spend(c.env, "LIMIT_CONNECTS", userId);
    const transport = url.searchParams.get("transport");
    if (transport === "ws") requireUpgrade(c.req.raw);
    else if (transport !== "http" || c.req.method !== "POST") {
      throw new RollcallError("bad_request", "transport is ws, or http with POST");
    }
    return c.env.WORKSPACES.getByName(storeId).fetch(c.req.raw);
  });
  app.delete("/api/v1/workspaces/:id", async (c) => {
    requireServer(c.req.raw, c.env);
    await c.env.WORKSPACES.getByName(parseStoreId(c.req.param("id"))).deleteWorkspace();
    return c.body(null, 204);
  });
  app.route("/", imageRoutes<E>());
  app.route("/", llmRoutes<E>());

  app.notFound(() => refusalResponse(new RollcallError("not_found", "Route not found")));
  app.onError(refusalResponse);
  return app;
}
