import { OpenAPIHono } from "@hono/zod-openapi";
import { HTTPException } from "hono/http-exception";
import { deviceRoutes } from "../../rooms/devices/routes.ts";
import { fanoutRoutes } from "../../rooms/fanout/routes.ts";
import { moodRoutes } from "../../rooms/moods/routes.ts";
import { presenceRoutes } from "../../rooms/presence/routes.ts";
import { workspaceRoutes } from "../../rooms/workspace/forward.ts";
import { log } from "../log.ts";
import { type ErrorCode, RollcallError } from "../wire/errors.ts";
import { consoleRoutes, findPage } from "./console.ts";
import { debugRoutes } from "./debug.ts";
import { descriptionRoutes } from "./description.ts";

export interface AppEnv {
  Bindings: Env;
}

/** The body of every error that no contract words otherwise. */
export interface ErrorBody {
  error: ErrorCode;
  details: string;
}

/** All HTTP routes, and the upgrades that lead to an actor. */
export function createApp(): OpenAPIHono<AppEnv> {
  const app = new OpenAPIHono<AppEnv>();
  app.route("/", presenceRoutes());
  app.route("/", deviceRoutes());
  app.route("/", fanoutRoutes());
  app.route("/", moodRoutes());
  app.route("/", workspaceRoutes());
  app.route("/", debugRoutes());
  app.route("/", descriptionRoutes(app));
  app.route("/", consoleRoutes(app.fetch));

  app.notFound(async (c) => {
    const page = await findPage(c.req.raw, c.env);
    if (page) return page;
    // The device contract's words for what lies below its prefix.
    if (c.req.path.startsWith("/api/v1/")) {
      return c.json({ error: "unavailable", details: "Route not found" }, 404);
    }
    return c.json({ error: "not_found", details: "Route not found" }, 404);
  });
  app.onError((thrown) => {
    if (thrown instanceof RollcallError) {
      const body: ErrorBody = { error: thrown.code, details: thrown.message };
      return Response.json(body, { status: thrown.status });
    }
    if (thrown instanceof HTTPException) {
      const body: ErrorBody = { error: "bad_request", details: thrown.message };
      return Response.json(body, { status: thrown.status });
    }
    log("request_failed", { error: thrown });
    return Response.json({ error: "internal", details: "Internal error" }, { status: 500 });
  });
  return app;
}
