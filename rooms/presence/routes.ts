import { Hono } from "hono";
import { spend } from "../../src/access/quota.ts";
import { call } from "../../src/actor/call.ts";
import { namespaceOf } from "../../src/http/binding.ts";
import { errorResponse } from "../../src/http/errors.ts";
import { guardRoutes } from "../../src/http/guard.ts";
import { forwardUpgrade, requireUpgrade } from "../../src/http/upgrade.ts";
import { type Authenticate, authorizeVisitor } from "./access.ts";
import type { PresenceCalls } from "./room.ts";

/** What the routes need to know of their rooms. */
export interface PresenceRouteOptions<E> {
  /** Path of the upgrade. */
  websocketPath: string;
  /** Name of the rooms' Durable Object binding. */
  binding: string;
  authenticate: Authenticate<E>;
}

/** The snapshot over HTTP at `/api/v1/presence`, and the upgrade. */
export function presenceRoutes<E extends object, S extends string>(
  options: PresenceRouteOptions<E>,
): Hono<{ Bindings: E }> {
  const { websocketPath, binding, authenticate } = options;
  const app = new Hono<{ Bindings: E }>();
  guardRoutes(app, {
    "/api/v1/presence": { methods: ["GET"], cors: {} },
    [websocketPath]: { methods: ["GET"] },
  });

  app.get("/api/v1/presence", async (c) => {
    const { room, userId } = await authorizeVisitor(c.req.raw, c.env, authenticate);
    await spend(c.env, "LIMIT_CONNECTS", userId);
    const stub = namespaceOf(c.env, binding).getByName(room);
    return Response.json(await call<{ "~calls"?: PresenceCalls<S> }>(stub).list());
  });

  app.get(websocketPath, async (c) => {
    const { room, userId } = await authorizeVisitor(c.req.raw, c.env, authenticate);
    await spend(c.env, "LIMIT_CONNECTS", userId);
    requireUpgrade(c.req.raw);
    return forwardUpgrade(namespaceOf(c.env, binding).getByName(room), c.req.raw);
  });

  app.onError((thrown, c) => errorResponse(thrown, c.req.raw));
  return app;
}
