import { OpenAPIHono } from "@hono/zod-openapi";
import { fanoutRoutes } from "../../rooms/fanout/routes.ts";
import type { AppEnv } from "../http/routes.ts";
import { PROTOCOL_VERSION } from "../wire/version.ts";
import { describeEvents, SECURITY } from "./asyncapi.ts";
import { describeService } from "./description/documents.ts";
import { renderDocs } from "./docs-page.ts";

const TITLE = "Rollcall";
const TAGS = [
  { name: "Presence", description: "Who is in a room." },
  { name: "Devices", description: "Which devices of a user are online, by their heartbeats." },
  {
    name: "Fan-out",
    description: "Messages to a user's sockets, by content, and what they answer.",
  },
  { name: "Moods", description: "How many people are here, and in which mood. No account needed." },
  { name: "Workspace", description: "LiveStore sync, images, completions." },
  { name: "Debugging", description: "What actors tell of themselves. In development only." },
];

/** Both descriptions are public, and as good as the Worker that gives them: an hour at most. */
const HEADERS = { "Access-Control-Allow-Origin": "*", "Cache-Control": "public, max-age=3600" };
/** The page runs nothing and loads nothing; its empty icon spares browsers the question for one. */
const PAGE_HEADERS = {
  "Cache-Control": "public, max-age=3600",
  "Content-Security-Policy":
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; " +
    "frame-ancestors 'none'",
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
};

export type OpenApi = ReturnType<OpenAPIHono<AppEnv>["getOpenAPI31Document"]>;

const app = new OpenAPIHono<AppEnv>();
app.route("/", fanoutRoutes());

/** The HTTP routes as OpenAPI 3.1. */
export function describeRoutes(url: URL): OpenApi {
  const described = app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: {
      title: TITLE,
      version: PROTOCOL_VERSION,
      description: "The HTTP routes. Sockets and streams are described in `/asyncapi.json`.",
      license: { name: "MIT", url: "https://opensource.org/license/mit" },
    },
    servers: [{ url: url.origin }],
    tags: TAGS,
  });
  // Systems whose contract describes their routes.
  const { paths, components } = describeService().openapi;
  const schemas = { ...described.components?.schemas, ...components.schemas };
  return {
    ...described,
    paths: { ...described.paths, ...paths },
    components: { ...described.components, schemas },
  } as OpenApi;
}

/**
 * The descriptions of `app` at `/openapi.json` and `/asyncapi.json`, and both to read at `/docs`. They
 * are made when asked for, of the schemas that routes and rooms work with.
 */
export function descriptionRoutes(): OpenAPIHono<AppEnv> {
  for (const [name, scheme] of Object.entries(SECURITY)) {
    app.openAPIRegistry.registerComponent("securitySchemes", name, scheme);
  }
  const info = {
    title: TITLE,
    version: PROTOCOL_VERSION,
    description: "The events of sockets and streams. HTTP routes are described in `/openapi.json`.",
  };
  const routes = new OpenAPIHono<AppEnv>();
  routes.get("/openapi.json", (c) => c.json(describeRoutes(new URL(c.req.url)), 200, HEADERS));
  routes.get("/asyncapi.json", (c) =>
    c.json(describeEvents(info, new URL(c.req.url)), 200, HEADERS),
  );
  routes.get("/docs", (c) => {
    const url = new URL(c.req.url);
    const page = renderDocs(describeRoutes(url), describeEvents(info, url));
    return c.html(page, 200, PAGE_HEADERS);
  });
  return routes;
}
