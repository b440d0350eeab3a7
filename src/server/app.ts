import { Hono } from "hono";
import type { MaySee } from "../../rooms/fanout/watching.ts";
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
  /**
   * Which of the users `ids` a viewer of `/ws/people` may see. The others look to the viewer like users who
   * are offline. Runs in the viewer's actor. Default: those for which the viewer's grant has `presence` on
   * `user:<id>`.
   */
  maySee?: MaySee<E>;
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
  const { authorizeBackend, maySee } = options;
  for (const system of mounted) {
    if (maySee) system.configure?.({ maySee });
    app.route("/", system.routes());
  }
  if (authorizeBackend) app.route("/", userRoutes<E>(mounted, authorizeBackend));
  app.notFound((c) => notFound(c.req.path));
  app.onError((thrown, c) => errorResponse(thrown, c.req.raw));
  return app;
}
