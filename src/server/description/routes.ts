import { Hono } from "hono";
import { guardRoutes } from "../../http/guard.ts";
import { type OriginEnv, publicOrigin } from "../../http/origin.ts";
import { RollcallError } from "../../wire/errors.ts";
import type { AsyncApi } from "./asyncapi.ts";
import type { OpenApi } from "./openapi.ts";

/** Both descriptions are public, and change with a deployment: a cache keeps them for an hour. */
const HEADERS = { "Cache-Control": "public, max-age=3600" };
/** The page runs nothing and loads nothing. Its empty icon saves browsers a request for one. */
const PAGE_HEADERS = {
  "Cache-Control": "public, max-age=3600",
  "Content-Security-Policy":
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; " +
    "frame-ancestors 'none'",
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
};

const DEVELOPMENT_ORIGIN = "http://localhost:8787";

export interface DescriptionEnv extends OriginEnv {
  /** The static assets, into which `scripts/assets.ts` writes the documents. */
  ASSETS: Pick<Fetcher, "fetch">;
}

/** OpenAPI's `servers` for a Worker that is reached at `origin`; without one, where the document is. */
export function httpServers(origin: string | undefined): OpenApi["servers"] {
  return [{ url: origin ?? "/" }];
}

/** AsyncAPI's `servers`, which need a host: without a configured one, that of `npm start`. */
export function eventServers(origin = DEVELOPMENT_ORIGIN): AsyncApi["servers"] {
  const url = new URL(origin);
  const isSecure = url.protocol === "https:";
  return {
    sockets: { host: url.host, protocol: isSecure ? "wss" : "ws" },
    streams: { host: url.host, protocol: isSecure ? "https" : "http" },
  };
}

/**
 * `/openapi.json`, `/asyncapi.json`, and both to read at `/docs`: static assets, in which the
 * addresses of the documents are filled in.
 */
export function descriptionRoutes<E extends DescriptionEnv>(): Hono<{ Bindings: E }> {
  const app = new Hono<{ Bindings: E }>();
  guardRoutes(app, {
    "/openapi.json": { methods: ["GET"], cors: {} },
    "/asyncapi.json": { methods: ["GET"], cors: {} },
    "/docs": { methods: ["GET"] },
  });

  app.get("/openapi.json", async (c) => {
    const url = new URL(c.req.url);
    const document = JSON.parse(await readAsset(c.env, url)) as OpenApi;
    const servers = httpServers(publicOrigin(c.req.raw, c.env));
    return c.json({ ...document, servers }, 200, HEADERS);
  });

  app.get("/asyncapi.json", async (c) => {
    const url = new URL(c.req.url);
    const document = JSON.parse(await readAsset(c.env, url)) as AsyncApi;
    const servers = eventServers(publicOrigin(c.req.raw, c.env));
    return c.json({ ...document, servers }, 200, HEADERS);
  });

  app.get("/docs", async (c) =>
    c.html(await readAsset(c.env, new URL(c.req.url)), 200, PAGE_HEADERS),
  );
  return app;
}

/** @throws RollcallError `unavailable` when the assets were deployed without the file */
async function readAsset(env: DescriptionEnv, { origin, pathname }: URL): Promise<string> {
  const asset = await env.ASSETS.fetch(origin + pathname);
  if (asset.ok) return asset.text();
  await asset.body?.cancel();
  throw new RollcallError("unavailable", `${pathname} was not built`);
}
