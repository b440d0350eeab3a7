import { describe, expect, it } from "vitest";
import { describeEvents } from "../../src/server/asyncapi.ts";
import { describeRoutes } from "../../src/server/description.ts";
import worker from "../../src/server/worker.ts";

const URL_HERE = new URL("https://example.com/");
/** What belongs to the console and to the descriptions themselves, and is no API. */
const OURS = /^\/($|docs$|openapi\.json$|asyncapi\.json$|console\/|debug\/console\/)/;

describe("the descriptions", () => {
  it("name every route that the Worker has", () => {
    const { paths = {} } = describeRoutes(URL_HERE);
    const info = { title: "", version: "", description: "" };
    const { channels } = describeEvents(info, URL_HERE);
    const described = new Set([
      ...Object.entries(paths).flatMap(([path, item]) =>
        Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`),
      ),
      ...Object.values(channels).map(({ address }) => `GET ${address}`),
    ]);
    const undescribed = worker.routes
      // Middleware, preflights, and what goes to the second Worker whole.
      .filter(({ method }) => method !== "ALL" && method !== "OPTIONS")
      .filter(({ path }) => !OURS.test(path))
      .map(({ method, path }) => `${method} ${path.replaceAll(/:(\w+)/g, "{$1}")}`)
      .filter((route) => !described.has(route));
    expect(undescribed).toEqual([]);
  });

  it("name sockets by the scheme and host that were asked", () => {
    const info = { title: "", version: "", description: "" };
    expect(describeEvents(info, new URL("http://localhost:8787/asyncapi.json")).servers).toEqual({
      sockets: { host: "localhost:8787", protocol: "ws" },
      streams: { host: "localhost:8787", protocol: "http" },
    });
    expect(describeEvents(info, URL_HERE).servers).toMatchObject({ sockets: { protocol: "wss" } });
  });
});
