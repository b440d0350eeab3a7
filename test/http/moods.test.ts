import { reset } from "cloudflare:test";
import { afterEach, describe, expect, test } from "vitest";
import { Deployment } from "../room/moods.ts";

const house = new Deployment(1);
afterEach(() => reset());

describe("what is wrong is named", () => {
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
    test.each(bodies)(`${path}: %s`, async (_, body, why) => {
      const answer = await house.request(path, { method: "POST", body });
      expect(answer.status).toBe(400);
      expect(await answer.json()).toEqual({ error: expect.stringMatching(why) });
      expect(answer.headers.get("Access-Control-Allow-Origin")).toBe("*");
    });
  }

  test.each(["joy", "", 1, null, "__proto__"])("mood %j", async (mood) => {
    const answer = await house.post("/api/heartbeat", { sessionId: "a", mood });
    expect(answer.status).toBe(400);
    expect(await answer.json()).toEqual({ error: expect.stringMatching(/^mood /) });
    expect((await house.look()).count).toBe(0);
  });

  test("a body that is far too large", async () => {
    const answer = await house.post("/api/heartbeat", { sessionId: "a", rest: "x".repeat(5_000) });
    expect(answer.status).toBe(413);
    expect(await answer.json()).toEqual({ error: expect.stringMatching(/4096 bytes/) });
  });

  test.each([
    ["", "sessionId is missing"],
    ["?sessionId=", "sessionId must not be empty"],
    ["?sessionId=a&mood=joy", "mood must be one of gratitude, presence, release, connection"],
  ])("a socket at /ws/moods%s", async (query, error) => {
    const answer = await house.request(`/ws/moods${query}`, { headers: { Upgrade: "websocket" } });
    expect(answer.status).toBe(400);
    expect(await answer.json()).toEqual({ error });
  });

  test("no socket at /ws/moods", async () => {
    expect((await house.request("/ws/moods?sessionId=a")).status).toBe(426);
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
])("%j is a session id like any other", async (sessionId) => {
  expect(await house.heartbeat(sessionId)).toMatchObject({ count: 1, moods: { presence: 1 } });
  expect(await house.heartbeat(sessionId, "release")).toMatchObject({
    count: 1,
    moods: { presence: 0, release: 1 },
  });
  await house.leave(sessionId);
  expect(await house.look()).toMatchObject({ count: 0 });
});

test("a heartbeat answers with the count, the caller in it, and the server's time", async () => {
  const before = Date.now();
  const answer = await house.post("/api/heartbeat", { sessionId: "a", mood: "gratitude" });
  expect(await answer.json()).toEqual({
    count: 1,
    moods: { gratitude: 1, presence: 0, release: 0, connection: 0 },
    timestamp: expect.toSatisfy((at: number) => at >= before && at <= Date.now()),
  });
});

test("a beacon, which is text, leaves; who is not here leaves just the same", async () => {
  await house.heartbeat("a");
  for (const sessionId of ["a", "a", "never"]) {
    const answer = await house.request("/api/leave", {
      method: "POST",
      headers: { "Content-Type": "text/plain;charset=UTF-8" },
      body: JSON.stringify({ sessionId }),
    });
    expect([answer.status, await answer.json()]).toEqual([200, { success: true }]);
  }
  expect((await house.look()).count).toBe(0);
});

test("a look may be cached for a second", async () => {
  const answer = await house.request("/api/presence");
  expect(answer.headers.get("Cache-Control")).toBe("public, max-age=1");
  expect(await answer.json()).toMatchObject({ count: 0 });
});

test("pages of any origin may ask", async () => {
  for (const path of ["/api/heartbeat", "/api/presence", "/api/leave", "/api/presence/stream"]) {
    const preflight = await house.request(path, {
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
  const watcher = await house.watch();
  expect(watcher.headers.get("Access-Control-Allow-Origin")).toBe("*");
  expect(watcher.headers.get("Content-Type")).toBe("text/event-stream");
  await watcher.until(({ count }) => count === 0);
  watcher.leave();
});

test("a number of shards that is none is refused in words", async () => {
  const wrong = new Deployment(1);
  Object.assign(wrong.env, { MOOD_SHARDS: "0" });
  const answer = await wrong.request("/api/presence");
  expect([answer.status, await answer.json()]).toEqual([
    503,
    { error: "MOOD_SHARDS must be 1 to 256" },
  ]);
});
