import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import worker from "../../src/server/worker.ts";

/** The Worker as it is deployed, without the console. */
async function ask(path: string, init?: RequestInit, more: object = {}): Promise<Response> {
  const context = createExecutionContext();
  const vars = { ...env, ENVIRONMENT: "production", CONSOLE: "off", ...more } as unknown as Env;
  const request = new Request(`https://example.com${path}`, init);
  const response = await worker.fetch(request, vars, context);
  await waitOnExecutionContext(context);
  return response;
}

describe("the script for pages", () => {
  it.each([
    ["/rollcall.js", /^text\/javascript/],
    ["/rollcall.mjs", /^text\/javascript/],
    ["/rollcall.js.map", /^application\/json/],
    ["/rollcall.mjs.map", /^application\/json/],
  ])(
    "%s is served in production to pages of every origin, and cached for an hour",
    async (path, type) => {
      const response = await ask(path);
      expect(response.status).toBe(200);
      expect(Object.fromEntries(response.headers)).toMatchObject({
        "access-control-allow-origin": "*",
        "cache-control": "public, max-age=3600",
        "content-type": expect.stringMatching(type),
        "cross-origin-resource-policy": "cross-origin",
        "x-content-type-options": "nosniff",
      });
      const text = await response.text();
      if (path.endsWith(".map")) expect(JSON.parse(text).sources).toContain("client/client.ts");
      else expect(text).toContain(`//# sourceMappingURL=${path.slice(1)}.map`);
    },
  );

  it("is not sent again to a browser that has it", async () => {
    const first = await ask("/rollcall.js", { method: "HEAD" });
    expect(await first.text()).toBe("");
    const etag = first.headers.get("ETag") ?? "";
    expect(etag).not.toBe("");

    const again = await ask("/rollcall.js", { headers: { "If-None-Match": etag } });
    expect(again.status).toBe(304);
    expect(again.headers.get("Cache-Control")).toBe("public, max-age=3600");
  });

  it("is unavailable, and never a page, where it was not built", async () => {
    const page = { headers: { "Content-Type": "text/html" } };
    const ASSETS = { fetch: async () => new Response("<!doctype html>", page) };
    expect((await ask("/rollcall.js", {}, { ASSETS })).status).toBe(503);
  });
});
