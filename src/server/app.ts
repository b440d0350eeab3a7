import { Hono } from "hono";
import type { MaySee } from "../../rooms/fanout/watching.ts";
import { errorResponse, notFound } from "../http/errors.ts";
import type { System } from "../http/system.ts";
import { isUpgrade } from "../http/upgrade.ts";
import { datasetOf, writePoint } from "../metrics.ts";
import { closeCodeOf } from "../wire/refusal.ts";
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

/** Options of {@link createApp} beside the systems. */
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

/** Paths that messages are published at. */
const PUBLISHES = /^\/publish(?:\/batch)?$|^\/api\/v1\/rooms\/[^/]+\/events(?:\/batch)?$/;

/** Counts what no actor counts: upgrades and publishes that were refused. */
function countRefusal(request: Request, answer: Response, env: unknown): void {
  const dataset = datasetOf(env);
  if (!dataset) return;
  const code = closeCodeOf(answer) ?? (answer.status >= 400 ? answer.status : undefined);
  if (code === undefined) return;
  if (isUpgrade(request)) writePoint(dataset, "worker", "refused", `${code}`, 1);
  else if (request.method === "POST" && PUBLISHES.test(new URL(request.url).pathname)) {
    writePoint(dataset, "worker", "publishes", `${code}`, 1);
  }
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
  app.use("*", async (c, next) => {
    await next();
    countRefusal(c.req.raw, c.res, c.env);
  });
  for (const system of mounted) {
    if (maySee) system.configure?.({ maySee });
    app.route("/", system.routes());
  }
  if (authorizeBackend) app.route("/", userRoutes<E>(mounted, authorizeBackend));
  app.notFound((c) => notFound(c.req.path));
  app.onError((thrown, c) => errorResponse(thrown, c.req.raw));
  return app;
}
