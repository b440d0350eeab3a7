import { exports } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { describeService } from "../../src/server/description/documents.ts";
import { eventServers, httpServers } from "../../src/server/description/routes.ts";
import worker from "../../src/server/worker.ts";

/** The console, the descriptions themselves, and the script for pages: these paths are no API. */
const OURS =
  /^\/($|docs$|openapi\.json$|asyncapi\.json$|rollcall\.m?js|console\/|debug\/console\/)/;

async function read(url: string): Promise<{ servers: unknown; response: Response }> {
  const response = await exports.default.fetch(url);
  return { servers: ((await response.json()) as { servers: unknown }).servers, response };
}

describe("the descriptions", () => {
  it("name every route that the Worker has", () => {
    const { openapi, asyncapi } = describeService();
    const described = new Set([
      ...Object.entries(openapi.paths).flatMap(([path, item]) =>
        Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`),
      ),
      ...Object.values(asyncapi.channels).map(({ address }) => `GET ${address}`),
    ]);
    const undescribed = worker.routes
      // Middleware, preflights, and the routes of the second Worker, which are forwarded.
      .filter(({ method }) => method !== "ALL" && method !== "OPTIONS")
      .filter(({ path }) => !OURS.test(path))
      .map(({ method, path }) => `${method} ${path.replaceAll(/:(\w+)/g, "{$1}")}`)
      .filter((route) => !described.has(route));
    expect(undescribed).toEqual([]);
  });

  it("name 429 for each route but those of trusted backends, of images and of tools", () => {
    const { openapi } = describeService();
    const unlimited = Object.entries(openapi.paths).flatMap(([path, item]) =>
      Object.entries(item as Record<string, { responses: object }>).flatMap(
        ([method, { responses }]) =>
          "429" in responses ? [] : [`${method.toUpperCase()} ${path}`],
      ),
    );
    expect(unlimited.filter((route) => !route.includes(" /debug/")).sort()).toEqual([
      "DELETE /api/images/{key}",
      "DELETE /api/v1/users/{id}",
      "DELETE /api/v1/workspaces/{id}",
      "GET /api/images/{key}",
      "GET /api/llm/tools",
      "POST /api/v1/devices/tokens",
      "POST /api/v1/presence/tokens",
    ]);
  });

  it("name servers by the scheme and host of a request on this machine", async () => {
    const local = await read("http://localhost:8787/asyncapi.json");
    expect(local.servers).toEqual({
      sockets: { host: "localhost:8787", protocol: "ws" },
      streams: { host: "localhost:8787", protocol: "http" },
    });
    const http = await read("http://127.0.0.1:8787/openapi.json");
    expect(http.servers).toEqual([{ url: "http://127.0.0.1:8787" }]);
  });

  it("do not repeat a host that is not configured", async () => {
    for (const host of ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example"]) {
      const http = await read(`https://${host}/openapi.json`);
      expect(http.servers).toEqual([{ url: "/" }]);
      const events = await read(`https://${host}/asyncapi.json`);
      expect(JSON.stringify(events.servers)).not.toContain("evil");
    }
    expect(httpServers("https://live.example.com")).toEqual([{ url: "https://live.example.com" }]);
    expect(eventServers("https://live.example.com")).toMatchObject({
      sockets: { host: "live.example.com", protocol: "wss" },
    });
  });

  it("may be read by pages of every origin and cached for an hour", async () => {
    for (const path of ["openapi.json", "asyncapi.json"]) {
      const { response } = await read(`https://example.com/${path}`);
      expect(response.headers.get("Content-Type")).toBe("application/json");
      expect(response.headers.get("Access-Control-Allow-Origin")).toBe("*");
      expect(response.headers.get("Cache-Control")).toBe("public, max-age=3600");
    }
  });
});
