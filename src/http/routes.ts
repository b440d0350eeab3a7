import { OpenAPIHono } from "@hono/zod-openapi";
import { RollcallError } from "../errors.ts";
import type { AppEnv } from "./app.ts";

/** Routes whose requests are refused with our own error when they do not fit the route's schema. */
export function createRoutes(): OpenAPIHono<AppEnv> {
  return new OpenAPIHono<AppEnv>({
    defaultHook: (result) => {
      if (result.success) return;
      const issue = result.error.issues[0];
      const path = issue?.path.map(String).join(".");
      const why = issue?.message ?? "The request does not fit";
      throw new RollcallError("bad_request", path ? `${path}: ${why}` : why, path || undefined);
    },
  });
}
