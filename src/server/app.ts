import { OpenAPIHono } from "@hono/zod-openapi";
import { errorResponse } from "../http/errors.ts";
import type { System } from "../http/system.ts";

/** The systems of an app. Each is made by `rollcall/rooms/<name>`; leave out what you do not need. */
export interface Systems<E extends object> {
  presence?: System<E>;
  devices?: System<E>;
  fanout?: System<E>;
  moods?: System<E>;
  workspace?: System<E>;
}

/**
 * The routes, sockets and streams of these systems as one Hono app. Its `fetch` is a Worker's fetch
 * handler; in an app of your own, mount it with `app.route("/", createApp({…}))`.
 *
 * @example
 * const lobby = presence<Env>();
 * export class PresenceRoom extends createActorHandler(lobby) {}
 * export default createApp({ presence: lobby });
 */
export function createApp<E extends object>(systems: Systems<E>): OpenAPIHono<{ Bindings: E }> {
  const app = new OpenAPIHono<{ Bindings: E }>();
  for (const system of Object.values(systems)) app.route("/", system.routes());
  app.notFound((c) => notFound(c.req.path));
  app.onError((thrown) => errorResponse(thrown));
  return app;
}

/** The answer to a request that no route takes. */
export function notFound(path: string): Response {
  // The device contract has its own word for routes below its prefix.
  const error = path.startsWith("/api/v1/") ? "unavailable" : "not_found";
  return Response.json({ error, details: "Route not found" }, { status: 404 });
}
