import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env, exports } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import worker from "../../src/server/worker.ts";
import { signedToken } from "../room/tokens.ts";

const URL_BASE = "http://localhost:8787";
const BROWSER = { Accept: "text/html,application/xhtml+xml,*/*;q=0.8" };

function request(path: string, init?: RequestInit): Promise<Response> {
  return exports.default.fetch(URL_BASE + path, init);
}

/** The same Worker, deployed. */
async function askProduction(path: string, init: RequestInit, console?: string): Promise<Response> {
  const context = createExecutionContext();
  const vars = { ...env, ENVIRONMENT: "production", CONSOLE: console } as unknown as Env;
  const response = await worker.fetch(new Request(URL_BASE + path, init), vars, context);
  await waitOnExecutionContext(context);
  return response;
}

function session(body: unknown, headers: Record<string, string> = {}): RequestInit {
  return {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: JSON.stringify(body),
  };
}

describe("the console", () => {
  it("is served at the root to every client, and to browsers on every unknown path", async () => {
    for (const [path, headers] of [
      ["/", {}],
      ["/", BROWSER],
      ["/somewhere/else", BROWSER],
    ] as const) {
      const response = await request(path, { headers });
      expect(response.status).toBe(200);
      expect(response.headers.get("Content-Type")).toContain("text/html");
      expect(response.headers.get("Content-Security-Policy")).toContain("script-src 'self'");
      expect(await response.text()).toContain("<title>Rollcall console</title>");
    }
    const script = await request("/console/main.js");
    expect(script.headers.get("Content-Type")).toContain("text/javascript");
    await script.body?.cancel();
  });

  it("does not replace the 404 of an API, not even for a browser", async () => {
    for (const [path, headers] of [
      ["/api/v1/nothing", BROWSER],
      ["/api/nothing", BROWSER],
      ["/ws/nothing", BROWSER],
      ["/debug/nothing", BROWSER],
      ["/nothing", {}],
      ["/console/nothing.js", {}],
    ] as const) {
      const response = await request(path, { headers });
      expect([path, response.status]).toEqual([path, 404]);
      expect(await response.json()).toMatchObject({ details: "Route not found" });
    }
    const post = await request("/nothing", { method: "POST", headers: BROWSER });
    expect(post.status).toBe(404);
    await post.body?.cancel();
  });

  it("does not take WebSocket upgrades at the root, which belong to the fan-out", async () => {
    const token = await signedToken({ userId: "anna" });
    const response = await request(`/?token=${token}`, { headers: { Upgrade: "websocket" } });
    expect(response.status).toBe(101);
    response.webSocket?.accept();
    response.webSocket?.close();
  });

  it("is off in production unless CONSOLE is on", async () => {
    for (const path of ["/", "/console/main.js", "/console/config.json", "/index.html"]) {
      for (const value of [undefined, "off", "true"]) {
        const response = await askProduction(path, { headers: BROWSER }, value);
        expect([path, response.status]).toEqual([path, 404]);
        expect(await response.json()).toMatchObject({ error: "not_found" });
      }
    }
    const page = await askProduction("/", {}, "on");
    expect(await page.text()).toContain("<title>Rollcall console</title>");
    const config = await askProduction("/console/config.json", {}, "on");
    expect(await config.json()).toEqual({ development: false });
  });
});

describe("the console's own routes", () => {
  it("give working tokens in development, and the same device owner for the same name", async () => {
    const first = await request("/debug/console/session", session({ name: "Anna" }));
    expect(first.status).toBe(200);
    const grant = (await first.json()) as Record<string, string>;
    const again = await request("/debug/console/session", session({ name: "Anna" }));
    expect(await again.json()).toMatchObject({ userUuid: grant.userUuid });
    const other = await request("/debug/console/session", session({ name: "Berta" }));
    expect(((await other.json()) as typeof grant).userUuid).not.toBe(grant.userUuid);

    const snapshot = await request("/api/v1/presence", {
      headers: { Authorization: `Bearer ${grant.jwt}` },
    });
    expect(snapshot.status).toBe(200);
    await snapshot.body?.cancel();
    const devices = await request(`/api/v1/mobile/presence?user_id=${grant.userUuid}`, {
      headers: { Authorization: `Bearer ${grant.presenceToken}` },
    });
    expect(await devices.json()).toEqual({ devices: [] });
  });

  it("refuse names that are empty, too long or no text, and requests that a form of another site can send", async () => {
    for (const body of [{}, { name: "" }, { name: "x".repeat(65) }, { name: 1 }, null]) {
      const response = await request("/debug/console/session", session(body));
      expect(response.status).toBe(400);
      await response.body?.cancel();
    }
    for (const path of ["session", "heartbeat"]) {
      const response = await request(
        `/debug/console/${path}`,
        session({ name: "Anna" }, { "Content-Type": "text/plain" }),
      );
      expect(response.status).toBe(415);
      await response.body?.cancel();
    }
  });

  it("check a heartbeat of the page like any other, and add the ingest token themselves", async () => {
    const granted = await request("/debug/console/session", session({ name: "Clara" }));
    const { userUuid } = (await granted.json()) as { userUuid: string };
    const heartbeat = {
      schema_version: 1,
      user_id: userUuid,
      device_id: crypto.randomUUID(),
      status: "online",
      source: "Laptop",
      sent_at_ms: 1_739_030_400_000,
      seq: 1,
      ttl_ms: 12_000,
    };
    for (const status of [204, 409]) {
      const response = await request("/debug/console/heartbeat", session(heartbeat));
      expect(response.status).toBe(status);
      await response.body?.cancel();
    }
    const bad = await request("/debug/console/heartbeat", session({ ...heartbeat, ttl_ms: 0 }));
    expect(bad.status).toBe(400);
    await bad.body?.cancel();
  });

  it("are off in production, even with the console on", async () => {
    for (const path of ["session", "heartbeat"]) {
      const response = await askProduction(
        `/debug/console/${path}`,
        session({ name: "Anna" }),
        "on",
      );
      expect(response.status).toBe(403);
      await response.body?.cancel();
    }
  });
});
