import { Hono } from "hono";
import { guardRoutes } from "../http/guard.ts";
import { RollcallError } from "../wire/errors.ts";

/** `scripts/script-tag.ts` builds them. Their addresses never change, so a cache keeps them for an hour only. */
const PATHS = ["/rollcall.js", "/rollcall.js.map", "/rollcall.mjs", "/rollcall.mjs.map"];

const HEADERS = {
  "Cache-Control": "public, max-age=3600",
  // For pages that embed only what allows it (COEP): their script tags need not say `crossorigin`.
  "Cross-Origin-Resource-Policy": "cross-origin",
  "X-Content-Type-Options": "nosniff",
};

/** The clients for pages without a bundler, on any origin: static assets with an ETag. */
export function scriptRoutes<E extends { ASSETS: Pick<Fetcher, "fetch"> }>(): Hono<{
  Bindings: E;
}> {
  const app = new Hono<{ Bindings: E }>();
  guardRoutes(app, Object.fromEntries(PATHS.map((path) => [path, { methods: ["GET"], cors: {} }])));
  for (const path of PATHS) {
    app.get(path, async (c) => {
      const asset = await c.env.ASSETS.fetch(c.req.raw);
      // Without the file, the assets answer with the console's page.
      if (asset.headers.get("Content-Type")?.startsWith("text/html")) {
        await asset.body?.cancel();
        throw new RollcallError("unavailable", `${path} was not built`);
      }
      const answer = new Response(asset.body, asset);
      for (const [name, value] of Object.entries(HEADERS)) answer.headers.set(name, value);
      return answer;
    });
  }
  return app;
}
