import { reset } from "cloudflare:test";
import { afterEach, describe, expect, test } from "vitest";
import { Deployment } from "../room/moods.ts";

const deployment = new Deployment(1);
afterEach(() => reset());

describe("the answer names the fault", () => {
  const bodies: [string, string, RegExp][] = [
    ["no JSON", "sessionId=a", /no JSON/],
    ["nothing", "", /no JSON/],
    ["a list", "[]", /sessionId is missing/],
    ["null", "null", /sessionId is missing/],
    ["no sessionId", "{}", /sessionId is missing/],
    ["a number for a sessionId", '{"sessionId":1}', /sessionId must be a string/],
    ["an empty sessionId", '{"sessionId":""}', /sessionId must not be empty/],
    ["a sessionId of 65 characters", JSON.stringify({ sessionId: "x".repeat(65) }), /64/],
    ["a sessionId of 65 emoji", JSON.stringify({ sessionId: "🦊".repeat(65) }), /64/],
  ];
  for (const path of ["/api/heartbeat", "/api/leave"]) {
    test.each(bodies)(`of a body for ${path}: %s`, async (_, body, why) => {
      const answer = await deployment.request(path, { method: "POST", body });
      expect(answer.status).toBe(400);
      expect(await answer.json()).toEqual({ error: expect.stringMatching(why) });
      expect(answer.headers.get("Access-Control-Allow-Origin")).toBe("*");
    });
  }

  test.each(["joy", "", 1, null, "__proto__"])(
    "of the mood %j, which does not exist",
    async (mood) => {
      const answer = await deployment.post("/api/heartbeat", { sessionId: "a", mood });
      expect(answer.status).toBe(400);
      expect(await answer.json()).toEqual({ error: expect.stringMatching(/^mood /) });
      expect((await deployment.state()).count).toBe(0);
    },
  );

  test("of a body of more than 4096 bytes", async () => {
    const answer = await deployment.post("/api/heartbeat", {
      sessionId: "a",
      rest: "x".repeat(5_000),
    });
    expect(answer.status).toBe(413);
    expect(await answer.json()).toEqual({ error: expect.stringMatching(/4096 bytes/) });
  });

  test.each([
    ["", "sessionId is missing"],
    ["?sessionId=", "sessionId must not be empty"],
    ["?sessionId=a&mood=joy", "mood must be one of gratitude, presence, release, connection"],
  ])("of an upgrade to /ws/moods%s", async (query, error) => {
    const answer = await deployment.request(`/ws/moods${query}`, {
      headers: { Upgrade: "websocket" },
    });
    expect(answer.status).toBe(400);
    expect(await answer.json()).toEqual({ error });
  });

  test("of a request to /ws/moods that is no upgrade, by its status 426", async () => {
    expect((await deployment.request("/ws/moods?sessionId=a")).status).toBe(426);
  });
});

test.each([
  "__proto__",
  "constructor",
  "toString",
  " ",
  "猫".repeat(64),
  "🦊".repeat(64),
  "\u0000",
])("%j works as a session id like any other", async (sessionId) => {
  expect(await deployment.heartbeat(sessionId)).toMatchObject({ count: 1, moods: { presence: 1 } });
  expect(await deployment.heartbeat(sessionId, "release")).toMatchObject({
    count: 1,
    moods: { presence: 0, release: 1 },
  });
  await deployment.leave(sessionId);
  expect(await deployment.state()).toMatchObject({ count: 0 });
});

test("a heartbeat is answered with the count, the caller included, and the server's time", async () => {
  const before = Date.now();
  const answer = await deployment.post("/api/heartbeat", { sessionId: "a", mood: "gratitude" });
  expect(await answer.json()).toEqual({
    count: 1,
    moods: { gratitude: 1, presence: 0, release: 0, connection: 0 },
    timestamp: expect.toSatisfy((at: number) => at >= before && at <= Date.now()),
  });
});

test("a beacon, which is text, ends a session; an unknown session gets the same answer", async () => {
  await deployment.heartbeat("a");
  for (const sessionId of ["a", "a", "never"]) {
    const answer = await deployment.request("/api/leave", {
      method: "POST",
      headers: { "Content-Type": "text/plain;charset=UTF-8" },
      body: JSON.stringify({ sessionId }),
    });
    expect([answer.status, await answer.json()]).toEqual([200, { success: true }]);
  }
  expect((await deployment.state()).count).toBe(0);
});

describe("where sessions are signed", () => {
  const KEY = "an-own-signing-key-of-a-deployment-0123456789";
  /** A deployment that follows these variables. */
  function deploy(vars: object = {}): Deployment {
    const own = new Deployment(1);
    Object.assign(own.env, {
      ENVIRONMENT: "production",
      PRESENCE_DO_TOKEN_SIGNING_KEY: KEY,
      ...vars,
    });
    return own;
  }
  async function issue(own: Deployment): Promise<string> {
    const answer = await own.post("/api/session", {});
    expect(answer.status).toBe(200);
    expect(answer.headers.get("Cache-Control")).toBe("no-store");
    return ((await answer.json()) as { sessionId: string }).sessionId;
  }
  const statusOf = async (own: Deployment, sessionId: string) =>
    (await own.post("/api/heartbeat", { sessionId })).status;

  test("as in production, an issued id counts, over HTTP and a socket, and ends itself", async () => {
    const own = deploy();
    const [first, second] = [await issue(own), await issue(own)];
    expect(first).toMatch(/^[\w.-]{1,64}$/);
    expect(await own.heartbeat(first)).toMatchObject({ count: 1 });
    const socket = await own.connect(first);
    // Beside the URL, as our clients send it.
    const token = btoa(second).replaceAll("=", "");
    const headers = { Upgrade: "websocket", "Sec-WebSocket-Protocol": `rollcall, token.${token}` };
    const upgrade = await own.request("/ws/moods?v=3", { headers });
    expect(upgrade.headers.get("Sec-WebSocket-Protocol")).toBe("rollcall");
    upgrade.webSocket?.accept();
    expect(await own.state()).toMatchObject({ count: 2 });
    await own.leave(first);
    await own.leave(second);
    expect((await socket.ended()).code).toBe(1000);
    expect(await own.state()).toMatchObject({ count: 0 });
  });

  test("an id that was made up, changed, or signed with another key is refused everywhere", async () => {
    const own = deploy();
    const good = await issue(own);
    const other = await issue(deploy({ PRESENCE_DO_TOKEN_SIGNING_KEY: `${KEY}-of-another` }));
    const changed = good.replace(/^./, (first) => (first === "a" ? "b" : "a"));
    for (const sessionId of ["anna", changed, `${good.slice(0, -1)}`, `${good}x`, other]) {
      for (const path of ["/api/heartbeat", "/api/leave"]) {
        const answer = await own.post(path, { sessionId });
        expect(answer.status).toBe(401);
        expect(await answer.json()).toEqual({ error: expect.stringMatching(/^sessionId /) });
      }
      const upgrade = await own.request(`/ws/moods?sessionId=${sessionId}`, {
        headers: { Upgrade: "websocket" },
      });
      expect(upgrade.status).toBe(401);
    }
    expect(await own.state()).toMatchObject({ count: 0 });
  });

  test("is said by MOODS_SIGNED, in development and in production", async () => {
    for (const [vars, status] of [
      [{ MOODS_SIGNED: "false" }, 200],
      [{ ENVIRONMENT: "development" }, 200],
      [{ ENVIRONMENT: "development", MOODS_SIGNED: "true" }, 401],
      [{ PRESENCE_DO_TOKEN_SIGNING_KEY: "short" }, 503],
    ] as const) {
      expect(await statusOf(deploy(vars), "anna")).toBe(status);
    }
    expect(
      await issue(deploy({ MOODS_SIGNED: "false", PRESENCE_DO_TOKEN_SIGNING_KEY: "" })),
    ).toMatch(/^[\w-]{22}$/);
  });
});

test("a deployment whose DEFAULT_CAP does not allow to join moods counts nobody", async () => {
  const closed = new Deployment(1);
  Object.assign(closed.env, { DEFAULT_CAP: '{"room:*":["join"]}' });
  for (const path of ["/api/session", "/api/heartbeat"]) {
    expect((await closed.post(path, { sessionId: "anna" })).status).toBe(403);
  }
  const headers = { Upgrade: "websocket" };
  expect((await closed.request("/ws/moods?sessionId=anna", { headers })).status).toBe(403);
});

test("the count over HTTP may be cached for a second", async () => {
  const answer = await deployment.request("/api/presence");
  expect(answer.headers.get("Cache-Control")).toBe("public, max-age=1");
  expect(await answer.json()).toMatchObject({ count: 0 });
});

test("pages of every origin may use the routes", async () => {
  for (const path of ["/api/heartbeat", "/api/presence", "/api/leave", "/api/presence/stream"]) {
    const preflight = await deployment.request(path, {
      method: "OPTIONS",
      headers: {
        Origin: "https://elsewhere.test",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
      },
    });
    expect(preflight.status).toBe(204);
    expect(preflight.headers.get("Access-Control-Allow-Origin")).toBe("*");
    expect(preflight.headers.get("Access-Control-Allow-Methods")).toBe("GET,POST,OPTIONS");
    expect(preflight.headers.get("Access-Control-Allow-Headers")).toBe("content-type");
  }
  const watcher = await deployment.watch();
  expect(watcher.headers.get("Access-Control-Allow-Origin")).toBe("*");
  expect(watcher.headers.get("Content-Type")).toBe("text/event-stream");
  await watcher.until(({ count }) => count === 0);
  watcher.leave();
});

test("a malformed MOOD_SHARDS is answered with 503, and named", async () => {
  const wrong = new Deployment(1);
  Object.assign(wrong.env, { MOOD_SHARDS: "0" });
  const answer = await wrong.request("/api/presence");
  expect([answer.status, await answer.json()]).toEqual([
    503,
    { error: "MOOD_SHARDS must be 1 to 256" },
  ]);
});
