import { type Context, Hono } from "hono";
import * as z from "zod/mini";
import { identify } from "../../src/access/authenticate.ts";
import { isDirectoryOn } from "../../src/access/claims.ts";
import { spend } from "../../src/access/quota.ts";
import { call } from "../../src/actor/call.ts";
import { namespaceOf } from "../../src/http/binding.ts";
import { readBody } from "../../src/http/body.ts";
import { errorResponse } from "../../src/http/errors.ts";
import { guardRoutes } from "../../src/http/guard.ts";
import { forwardUpgrade, requireUpgrade } from "../../src/http/upgrade.ts";
import { log } from "../../src/log.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import {
  type AuthenticateSupervisor,
  type AuthenticateViewer,
  authorizeViewer,
  isUserId,
} from "./access.ts";
import { USER_ID_LENGTH } from "./contract.ts";
import { devicesOf } from "./people.ts";
import { type FanoutRoom, PEOPLE } from "./room.ts";

const BODY_BYTES = 1_024;
/** Seconds of a time that stands in ms by mistake are at least so many. */
const LEAST_MS = 100_000_000_000;
/** How far a clock may be ahead, in seconds. */
const AHEAD_S = 60;

export interface PeopleRouteOptions<E> {
  /** Path of the room's upgrade. */
  websocketPath: string;
  binding: string;
  /** Name of the devices' binding. */
  devices: string;
  authenticateViewer: AuthenticateViewer<E>;
  authenticateSupervisor: AuthenticateSupervisor<E>;
}

const revocation = z.object({ issuedBefore: z.optional(z.number()) });

/** The second up to which tokens are revoked. @throws RollcallError `bad_request` */
async function floorOf(request: Request): Promise<number> {
  const text = await readBody(request, BODY_BYTES);
  const nowS = Math.floor(Date.now() / 1000);
  if (text?.trim() === "") return nowS;
  let value: unknown;
  try {
    value = JSON.parse(text ?? "");
  } catch {
    throw new RollcallError("bad_request", "The body is not JSON, or too large");
  }
  const { issuedBefore: given = nowS } = revocation.safeParse(value).data ?? { issuedBefore: -1 };
  const issuedBefore = Math.floor(given >= LEAST_MS ? given / 1000 : given);
  if (issuedBefore >= 0 && issuedBefore <= nowS + AHEAD_S) return issuedBefore;
  const what = "issuedBefore is a time in seconds since the epoch that has passed";
  throw new RollcallError("bad_request", what, "issuedBefore");
}

/** Routes for the rooms of a user, for revocations, and for `/ws/people`. */
export function peopleRoutes<E extends object>(
  options: PeopleRouteOptions<E>,
): Hono<{ Bindings: E }> {
  const { websocketPath, binding, devices, authenticateViewer, authenticateSupervisor } = options;
  const app = new Hono<{ Bindings: E }>();
  type Ctx = Context<{ Bindings: E }>;
  const stubOf = (env: E, userId: string) => namespaceOf(env, binding).getByName(userId);

  function requireDirectory(env: object): void {
    if (isDirectoryOn(env)) return;
    throw new RollcallError("unavailable", "This server keeps no directory: DIRECTORY is off");
  }

  async function supervise(c: Ctx, operation: "presence" | "revoke"): Promise<string> {
    const userId = c.req.param("id") ?? "";
    const supervisor = await identify(c.req.raw, c.env, authenticateSupervisor);
    if (!isUserId(userId)) {
      throw new RollcallError("bad_request", `A user's id has 1 to ${USER_ID_LENGTH} characters`);
    }
    if (!supervisor.can(userId, operation)) {
      const what = `The token does not allow ${operation} for this user`;
      throw new RollcallError("forbidden", what);
    }
    requireDirectory(c.env);
    await spend(c.env, "LIMIT_PUBLISHES", supervisor.userId);
    return userId;
  }

  async function listDevices(env: E, userId: string): Promise<unknown[]> {
    try {
      return (await devicesOf(env, devices, userId)?.list())?.devices ?? [];
    } catch (error) {
      log("devices_unreachable", { error });
      throw new RollcallError("unavailable", "The user's devices cannot be read");
    }
  }

  guardRoutes(app, {
    "/api/v1/users/:id": { methods: ["GET", "DELETE"], isForBackends: true },
    "/api/v1/users/:id/revoke": { methods: ["POST"], isForBackends: true },
    "/api/v1/users/:id/disconnect": { methods: ["POST"], isForBackends: true },
    "/ws/people": { methods: ["GET"] },
  });

  app.get("/api/v1/users/:id", async (c) => {
    const userId = await supervise(c, "presence");
    const [where, list] = await Promise.all([
      call<FanoutRoom>(stubOf(c.env, userId)).whereabouts(),
      listDevices(c.env, userId),
    ]);
    return Response.json({ ...where, devices: list });
  });

  app.post("/api/v1/users/:id/revoke", async (c) => {
    const userId = await supervise(c, "revoke");
    const issuedBefore = await floorOf(c.req.raw);
    const sessions = await call<FanoutRoom>(stubOf(c.env, userId)).close({ floorS: issuedBefore });
    return Response.json({ sessions, issuedBefore });
  });

  app.post("/api/v1/users/:id/disconnect", async (c) => {
    const userId = await supervise(c, "revoke");
    const sessions = await call<FanoutRoom>(stubOf(c.env, userId)).close({});
    return Response.json({ sessions });
  });

  app.get("/ws/people", async (c) => {
    const { userId } = await authorizeViewer(c.req.raw, c.env, authenticateViewer);
    requireDirectory(c.env);
    await spend(c.env, "LIMIT_CONNECTS", userId);
    requireUpgrade(c.req.raw);
    const given = new URL(c.req.url).searchParams;
    const query = new URLSearchParams({ [PEOPLE]: "1" });
    for (const name of ["token", "v"]) {
      const value = given.get(name);
      if (value) query.set(name, value);
    }
    const url = new URL(`${websocketPath}?${query}`, c.req.url);
    return forwardUpgrade(stubOf(c.env, userId), c.req.raw, url);
  });

  app.onError((thrown, c) => errorResponse(thrown, c.req.raw));
  return app;
}
