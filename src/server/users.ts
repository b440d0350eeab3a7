import { Hono } from "hono";
import { errorResponse } from "../http/errors.ts";
import { guardRoutes } from "../http/guard.ts";
import type { System } from "../http/system.ts";
import { RollcallError } from "../wire/errors.ts";
import { isWellFormed } from "../wire/text.ts";

/** Characters of a user's id, in every system. */
const USER_ID_LENGTH = 256;

/**
 * `DELETE /api/v1/users/<id>`: deletes what the systems have stored about a user, as privacy law
 * requires. Connections stay open; what their clients send afterwards is new data.
 *
 * @param authorize throws a RollcallError unless the request comes from a backend
 */
export function userRoutes<E extends object>(
  systems: readonly System<E>[],
  authorize: (request: Request, env: E) => Promise<void>,
): Hono<{ Bindings: E }> {
  const app = new Hono<{ Bindings: E }>();
  guardRoutes(app, { "/api/v1/users/:id": { methods: ["DELETE"], isForBackends: true } });
  app.delete("/api/v1/users/:id", async (c) => {
    await authorize(c.req.raw, c.env);
    const userId = c.req.param("id");
    if (userId.trim() === "" || userId.length > USER_ID_LENGTH || !isWellFormed(userId)) {
      throw new RollcallError("bad_request", `A user's id has 1 to ${USER_ID_LENGTH} characters`);
    }
    await Promise.all(systems.map((system) => system.deleteUser?.(c.env, userId)));
    return c.body(null, 204);
  });
  app.onError((thrown, c) => errorResponse(thrown, c.req.raw));
  return app;
}
