import { Hono } from "hono";
import { errorResponse, notFound } from "../http/errors.ts";
import type { System } from "../http/system.ts";
import { userRoutes } from "./users.ts";

export type { System } from "../http/system.ts";

/** The systems of an app, each made by its `rollcall/rooms/<name>`. Leave out what you do not need. */
export interface Systems<E extends object> {
  presence?: System<E>;
  devices?: System<E>;
  fanout?: System<E>;
  moods?: System<E>;
  workspace?: System<E>;
}

export interface AppOptions<E> {
  /**
   * Throws a RollcallError unless a request comes from a backend of yours. With it, the app has
   * `DELETE /api/v1/users/<id>`, which deletes what the systems have stored about a user.
   */
  authorizeBackend?(request: Request, env: E): Promise<void>;
}

/**
 * The routes, sockets and streams of these systems as one Hono app. Its `fetch` is a Worker's fetch
 * handler. To mount it in an app of your own: `app.route("/", createApp({ … }))`; paths that none of
 * the systems has then stay yours.
 *
 * @example
 * const lobby = presence();
 * export class PresenceRoom extends createActorHandler(lobby) {}
 * export default createApp<Env>({ presence: lobby });
 */
export function createApp<E extends object>(
  systems: Systems<E>,
  options: AppOptions<E> = {},
): Hono<{ Bindings: E }> {
  const app = new Hono<{ Bindings: E }>();
  const mounted = Object.values(systems);
  for (const system of mounted) app.route("/", system.routes());
  const { authorizeBackend } = options;
  if (authorizeBackend) app.route("/", userRoutes<E>(mounted, authorizeBackend));
  app.notFound((c) => notFound(c.req.path));
  app.onError((thrown, c) => errorResponse(thrown, c.req.raw));
  return app;
}
