import { Hono } from "hono";
import { HTTPException } from "hono/http-exception";
import { inSpan } from "../../src/http/trace.ts";
import { log } from "../../src/log.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { admitMember, type MembershipEnv, SyncRefusal } from "./access.ts";
import { type ImagesEnv, imageRoutes } from "./images.ts";
import { type LlmEnv, llmRoutes } from "./llm.ts";

export interface WorkspaceEnv extends MembershipEnv, ImagesEnv, LlmEnv {
  WORKSPACES: DurableObjectNamespace;
}

export interface WorkspaceAppEnv {
  Bindings: WorkspaceEnv;
}

/** All that the second Worker answers. Nobody reaches it but through the main one's binding. */
export function createWorkspaceApp(): Hono<WorkspaceAppEnv> {
  const app = new Hono<WorkspaceAppEnv>();

  // LiveStore's clients: an upgrade for `transport=ws`, POSTs for `transport=http`.
  app.all("/sync", async (c) => {
    const url = new URL(c.req.url);
    const { storeId } = await inSpan("sync.auth", () => admitMember(url, c.env));
    const transport = url.searchParams.get("transport");
    if (transport === "ws") {
      if (c.req.header("Upgrade")?.toLowerCase() !== "websocket") {
        throw new RollcallError("upgrade_required", "transport=ws takes a WebSocket upgrade");
      }
    } else if (transport !== "http" || c.req.method !== "POST") {
      throw new RollcallError("bad_request", "transport is ws, or http with POST");
    }
    return c.env.WORKSPACES.getByName(storeId).fetch(c.req.raw);
  });
  app.route("/", imageRoutes());
  app.route("/", llmRoutes());

  app.notFound(() =>
    Response.json({ error: "not_found", details: "Route not found" }, { status: 404 }),
  );
  app.onError((thrown) => {
    if (thrown instanceof SyncRefusal) return thrown.toResponse();
    if (thrown instanceof RollcallError) {
      return Response.json(
        { error: thrown.code, details: thrown.message },
        { status: thrown.status },
      );
    }
    if (thrown instanceof HTTPException) return thrown.getResponse();
    log("request_failed", { error: thrown });
    return Response.json({ error: "internal", details: "Internal error" }, { status: 500 });
  });
  return app;
}
