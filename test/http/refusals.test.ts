import { env, exports } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { translateRefusal } from "../../src/wire/refusal.ts";
import { sign } from "../room/fanout-client.ts";
import { connect, freshName, TestSocket, upgrade } from "../room/socket.ts";
import { signedToken } from "../room/tokens.ts";

const worker = exports.default as { fetch(url: string, init?: RequestInit): Promise<Response> };
const ORIGIN = "https://rollcall.test";

/** How the server closes an upgrade that it accepts only to say why it refuses. */
async function closeOf(response: Response): Promise<{ code: number; reason: string }> {
  expect(response.status).toBe(101);
  if (!response.webSocket) throw new Error("no socket");
  return new TestSocket(response.webSocket).ended();
}

describe("a refused upgrade of a client that connects with v=3", () => {
  it.each([
    ["no token", "/ws/presence", 4401],
    ["a bad token", "/ws/presence?token=bad", 4401],
    ["a foreign workspace", "/ws/presence?token=user:ann&room=workspace:w1", 4403],
    ["a malformed room", "/ws/presence?token=user:ann&room=a%20b", 4400],
    ["a fan-out without a token", "/ws/fanout", 4401],
    ["a fan-out at the root without a token", "/", 4401],
    ["a mood without a session", "/ws/moods", 4400],
    ["devices without a user", "/ws/devices", 4400],
  ])("is accepted and closed with the code that gives the reason: %s", async (_, path, code) => {
    const query = path.includes("?") ? "&v=3" : "?v=3";
    const close = await closeOf(await upgrade(null, path + query));
    expect(close.code).toBe(code);
    expect(close.reason).not.toBe("");
    const { status } = await upgrade(null, path);
    expect(status).toBeGreaterThanOrEqual(400);
  });

  it("is closed by the actor itself when the client reaches it directly, or the room is full", async () => {
    const lab = env.LAB.getByName(freshName());
    expect((await closeOf(await upgrade(lab, "/ws?v=3&refuse=coded"))).code).toBe(4403);
    expect((await closeOf(await upgrade(lab, "/ws?v=3&refuse=plain"))).code).toBe(4401);
    const tight = env.TIGHT.getByName(freshName());
    for (const user of ["a", "b", "c"]) await connect(tight, `/ws?userId=${user}`);
    const close = await closeOf(await upgrade(tight, "/ws?v=3&userId=d"));
    expect(close).toEqual({ code: 1013, reason: "The room is full" });
    expect((await upgrade(tight, "/ws?v=2&userId=d")).status).toBe(429);
  });

  it("is closed when an actor of an earlier release refuses with a status", async () => {
    const request = new Request(`${ORIGIN}/ws?v=3`, { headers: { Upgrade: "websocket" } });
    const body = { error: "too_many_sockets", details: "The room is full" };
    const coded = await translateRefusal(request, Response.json(body, { status: 429 }));
    expect(await closeOf(coded)).toEqual({ code: 1013, reason: "The room is full" });
    const plain = await translateRefusal(request, new Response("no", { status: 403 }));
    expect((await closeOf(plain)).code).toBe(4403);
  });
});

describe("HEAD on a stream", () => {
  it("answers with the headers, and leaves no subscriber behind", async () => {
    const userId = freshName();
    const headers = { Authorization: `Bearer ${await sign({ userId })}` };
    const url = `${ORIGIN}/fanout/stream?type=a`;
    for (let i = 0; i < 3; i++) {
      const answer = await worker.fetch(url, { method: "HEAD", headers });
      expect(answer.status).toBe(200);
      expect(answer.headers.get("Content-Type")).toBe("text/event-stream");
      expect(await answer.text()).toBe("");
    }
    expect((await worker.fetch(url, { method: "HEAD" })).status).toBe(401);
    const { sessions } = await (env.FANOUT.getByName(userId) as never as Inspected).inspect();
    expect(sessions).toBe(0);
    const moods = await worker.fetch(`${ORIGIN}/api/presence/stream`, { method: "HEAD" });
    expect(moods.headers.get("Content-Type")).toBe("text/event-stream");
    const preflight = await worker.fetch(url, {
      method: "OPTIONS",
      headers: { "Access-Control-Request-Headers": "authorization, Last-Event-ID" },
    });
    expect(preflight.headers.get("Access-Control-Allow-Headers")).toContain("last-event-id");
  });
});

interface Inspected {
  inspect(): Promise<{ sessions: number }>;
}

describe("text with half of a surrogate pair", () => {
  it("is refused where it would become a key or a name", async () => {
    const token = await signedToken({ userId: "a\ud800" });
    expect((await upgrade(null, `/ws/presence?token=${token}`)).status).toBeGreaterThanOrEqual(400);
    const answer = await worker.fetch(`${ORIGIN}/api/heartbeat`, {
      method: "POST",
      body: '{"sessionId":"a\\ud800"}',
    });
    expect(answer.status).toBe(400);
    const lab = await connect(env.LAB.getByName(freshName()), "/ws?v=2");
    lab.send('{"type":"say\\ud800","data":{}}');
    expect(await lab.event("error")).toMatchObject({ code: "bad_frame" });
    const become = { channels: ["\ud800"] };
    expect(await lab.ask("become", become)).toMatchObject({ type: "ack" });
    expect(await lab.event("error")).toMatchObject({ code: "internal" });
  });
});
