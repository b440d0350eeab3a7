import { Hono } from "hono";
import { SignJWT } from "jose";
import * as z from "zod/mini";
import { mintPresenceToken } from "../../rooms/devices/token.ts";
import { isDevelopment, requireSecret } from "../access/secrets.ts";
import { isLoopback } from "../http/origin.ts";
import { RollcallError } from "../wire/errors.ts";

/** Lifetime of the tokens that the console gets in development, in ms. */
const TOKEN_TTL_MS = 3_600_000;
/** Paths below these are an API: a 404 there is never a page. */
const NO_PAGES = ["/api/", "/ws/", "/debug/"];

const encoder = new TextEncoder();

/**
 * The page runs code from this server only. Sockets are named by their scheme, because older versions
 * of Safari do not count `ws:` as 'self'.
 */
const PAGE_HEADERS = {
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
    "connect-src 'self' ws: wss:; worker-src blob: data:; base-uri 'none'; form-action 'none'; " +
    "frame-ancestors 'none'",
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
};

interface ConsoleVars {
  ENVIRONMENT?: string;
  CONSOLE?: string;
}

/** Whether the console is served: in development always, elsewhere if `CONSOLE` is `on`. */
export function isConsoleOn(env: ConsoleVars): boolean {
  return isDevelopment(env) || env.CONSOLE === "on";
}

/**
 * The console's answer to a request that no route takes: an asset by its path; for a browser, on any
 * path outside the API, the page itself. Null otherwise, so that a 404 of the API stays JSON.
 */
export async function findPage(
  request: Request,
  env: ConsoleVars & { ASSETS: Fetcher },
): Promise<Response | null> {
  const { pathname } = new URL(request.url);
  if (!isConsoleOn(env) || (request.method !== "GET" && request.method !== "HEAD")) return null;
  if (NO_PAGES.some((prefix) => pathname.startsWith(prefix))) return null;
  const answer = await env.ASSETS.fetch(request);
  const isPage = answer.headers.get("Content-Type")?.startsWith("text/html") === true;
  const wantsPage = pathname === "/" || (request.headers.get("Accept") ?? "").includes("text/html");
  if (answer.status >= 400 || (isPage && !wantsPage)) {
    await answer.body?.cancel();
    return null;
  }
  const page = new Response(answer.body, answer);
  for (const [name, value] of Object.entries(PAGE_HEADERS)) page.headers.set(name, value);
  return page;
}

const sessionRequest = z.object({ name: z.string().check(z.minLength(1), z.maxLength(64)) });

/** The UUID that owns the devices of a console user: always the same for a name (RFC 9562, v8). */
async function uuidOf(name: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", encoder.encode(`rollcall console ${name}`));
  const hex = [...new Uint8Array(digest)]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

/**
 * The console's own routes. In development they give it tokens, and add the ingest token to its
 * heartbeats, so that the page never has it. Elsewhere people enter tokens of their own.
 *
 * @param dispatch the whole app, which handles a heartbeat of the console like one of a daemon
 */
export function consoleRoutes(dispatch: Hono<{ Bindings: Env }>["fetch"]): Hono<{ Bindings: Env }> {
  const app = new Hono<{ Bindings: Env }>();

  app.get("/console/config.json", async (c, next) => {
    if (!isConsoleOn(c.env)) return next();
    return c.json({ development: isDevelopment(c.env) }, 200, { "Cache-Control": "no-store" });
  });

  app.use("/debug/console/*", async (c, next) => {
    if (!isDevelopment(c.env)) {
      return c.json({ error: "unavailable", details: "Disabled in production" }, 403);
    }
    // A page elsewhere may have a name that resolves to this machine.
    if (!isLoopback(c.req.raw)) {
      throw new RollcallError("forbidden", "The console gives tokens to localhost only");
    }
    // A page of another origin needs a preflight for this type, and these paths answer none.
    if (!/^application\/json\b/i.test(c.req.header("Content-Type") ?? "")) {
      throw new RollcallError("unsupported_media_type", "Send application/json");
    }
    return next();
  });

  /** `{name}` → the user's UUID, and tokens for an hour. */
  app.post("/debug/console/session", async (c) => {
    const parsed = sessionRequest.safeParse(await c.req.json().catch(() => undefined));
    if (!parsed.success) {
      throw new RollcallError("bad_request", "name must have 1 to 64 characters", "name");
    }
    const { name } = parsed.data;
    const expiresAtMs = Date.now() + TOKEN_TTL_MS;
    const userUuid = await uuidOf(name);
    const jwt = await new SignJWT({ userId: name, username: name, scope: "publish" })
      .setProtectedHeader({ alg: "HS256", typ: "JWT" })
      // A revocation covers tokens that do not name their time for ever.
      .setIssuedAt()
      .setExpirationTime(Math.floor(expiresAtMs / 1000))
      .sign(encoder.encode(requireSecret(c.env, "JWT_SECRET")));
    const { token: presenceToken } = await mintPresenceToken(
      { user_id: userUuid, device_id: userUuid, ttlMs: TOKEN_TTL_MS },
      requireSecret(c.env, "PRESENCE_DO_TOKEN_SIGNING_KEY"),
    );
    return c.json({ userUuid, jwt, presenceToken, expiresAtMs });
  });

  /** A heartbeat of the contract, sent on with the ingest token. */
  app.post("/debug/console/heartbeat", (c) => {
    const request = new Request(new URL("/api/v1/daemon/presence/heartbeat", c.req.url), c.req.raw);
    const ingestToken = requireSecret(c.env, "PRESENCE_DO_INGEST_TOKEN");
    request.headers.set("Authorization", `Bearer ${ingestToken}`);
    return dispatch(request, c.env, c.executionCtx);
  });
  return app;
}
