import { createExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { mintPresenceToken } from "../../rooms/devices/token.ts";
import { totalName } from "../../rooms/moods/tally.ts";
import { describeService } from "../../src/server/description/documents.ts";
import app from "../../src/server/worker.ts";
import { sign } from "../room/fanout-client.ts";
import { freshName } from "../room/socket.ts";

const ORIGIN = "https://rollcall.test";
const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"];

/** Without the runtime's client in between, which makes a GET of every request for a WebSocket. */
const ask = async (path: string, init: RequestInit = {}): Promise<Response> =>
  app.fetch(new Request(ORIGIN + path, init), env, createExecutionContext());

/** The methods of every path of the service, by its descriptions. */
function describedMethods(): Map<string, Set<string>> {
  const { openapi, asyncapi } = describeService();
  const routes = new Map(
    Object.entries(openapi.paths).map(([path, item]) => [
      path,
      new Set(Object.keys(item).map((method) => method.toUpperCase())),
    ]),
  );
  for (const { address } of Object.values(asyncapi.channels)) {
    routes.set(address, (routes.get(address) ?? new Set<string>()).add("GET"));
  }
  return routes;
}

const ROUTES = [...describedMethods()].map(([path, methods]) => ({
  path: path.replaceAll(/\{\w+\}/g, "x"),
  taken: [...methods, ...(methods.has("GET") ? ["HEAD"] : []), "OPTIONS"],
}));

describe("methods of every route that is described", () => {
  it("the matrix has streams, sockets and routes of all systems", () => {
    expect(ROUTES.map(({ path }) => path)).toEqual(
      expect.arrayContaining([
        "/fanout/stream",
        "/ws/presence",
        "/api/v1/mobile/presence/stream",
        "/api/presence/stream",
        "/sync",
        "/debug/presence",
      ]),
    );
  });

  it.each(ROUTES)(
    "$path refuses other methods with 405 and names its own in Allow",
    async ({ path, taken }) => {
      for (const method of METHODS.filter((one) => !taken.includes(one))) {
        const answer = await ask(path, { method });
        expect([method, answer.status]).toEqual([method, 405]);
        expect(answer.headers.get("Allow")?.split(", ").sort()).toEqual(taken.toSorted());
        const body = await answer.text();
        if (method !== "HEAD")
          expect(JSON.parse(body)).toMatchObject({ error: expect.any(String) });
      }
    },
  );

  it.each(ROUTES)("$path answers OPTIONS with 204 and its methods", async ({ path, taken }) => {
    const answer = await ask(path, { method: "OPTIONS" });
    expect(answer.status).toBe(204);
    expect(answer.headers.get("Allow")?.split(", ").sort()).toEqual(taken.toSorted());
  });

  it.each(ROUTES.filter(({ taken }) => taken.includes("HEAD")))(
    "$path answers HEAD like GET, without a body",
    async ({ path }) => {
      const [get, head] = [await ask(path), await ask(path, { method: "HEAD" })];
      await get.body?.cancel();
      expect(head.status).toBe(get.status);
      expect(await head.text()).toBe("");
      expect(head.headers.get("Content-Type")).toBe(get.headers.get("Content-Type"));
    },
  );
});

describe("HEAD of a stream or socket, with a valid token", () => {
  async function expectNoSession(
    path: string,
    init: RequestInit,
    stub: { getSessionCount(): Promise<number> },
  ) {
    for (let i = 0; i < 3; i++) {
      const answer = await ask(path, init);
      expect(await answer.text()).toBe("");
    }
    expect(await stub.getSessionCount()).toBe(0);
  }
  const upgrade = { method: "HEAD", headers: { Upgrade: "websocket" } };

  it("of the fan-out's stream answers 200 and makes no subscriber", async () => {
    const user = freshName();
    const path = `/fanout/stream?type=a&token=${await sign({ userId: user })}`;
    const { status, headers } = await ask(path, { method: "HEAD" });
    expect([status, headers.get("Content-Type")]).toEqual([200, "text/event-stream"]);
    await expectNoSession(path, { method: "HEAD" }, env.FANOUT.getByName(user));
    expect((await ask(`${path}x`, { method: "HEAD" })).status).toBe(401);
    expect((await ask(path.replace("type=a&", ""), { method: "HEAD" })).status).toBe(400);
  });

  it("of the devices' stream answers 200 and makes no watcher", async () => {
    const user = crypto.randomUUID();
    const key = String(
      (env as { PRESENCE_DO_TOKEN_SIGNING_KEY?: string }).PRESENCE_DO_TOKEN_SIGNING_KEY,
    );
    const { token } = await mintPresenceToken({ user_id: user, device_id: user }, key);
    const path = `/api/v1/mobile/presence/stream?user_id=${user}&token=${token}`;
    expect((await ask(path, { method: "HEAD" })).status).toBe(200);
    await expectNoSession(path, { method: "HEAD" }, env.DEVICES.getByName(user));
    expect((await ask(`${path}x`, { method: "HEAD" })).status).toBe(403);
    const socket = `/ws/devices?user_id=${user}&token=${token}`;
    await expectNoSession(socket, upgrade, env.DEVICES.getByName(user));
  });

  it("of the moods' stream answers 200 and makes no watcher", async () => {
    const total = env.MOODS.getByName(totalName(Number(env.MOOD_SHARDS)));
    expect((await ask("/api/presence/stream", { method: "HEAD" })).status).toBe(200);
    await expectNoSession("/api/presence/stream", { method: "HEAD" }, total);
  });

  it("of a socket with an Upgrade header connects nobody", async () => {
    const user = freshName();
    const token = await sign({ userId: user });
    for (const path of ["/", "/ws/fanout"]) {
      await expectNoSession(`${path}?token=${token}`, upgrade, env.FANOUT.getByName(user));
    }
    const room = env.PRESENCE.getByName(user);
    await expectNoSession(`/ws/presence?room=${user}&token=${token}`, upgrade, room);
  });
});
