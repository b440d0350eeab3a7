import { OpenAPIHono, z } from "@hono/zod-openapi";
import { ERRORS, type ErrorCode, RollcallError } from "../wire/errors.ts";

/** The service's own env, until each system states what it reads. */
export interface AppEnv {
  Bindings: Env;
}

const codes = Object.keys(ERRORS) as [ErrorCode, ...ErrorCode[]];
const refusal = z
  .object({
    error: z.enum(codes).openapi({ description: "Stable: switch on it" }),
    details: z.string().openapi({ description: "For people" }),
  })
  .openapi("Refusal");

/** A refusal in the words of {@link ErrorBody}, for a route's description. */
export function refused(description: string) {
  return { description, content: { "application/json": { schema: refusal } } };
}

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
