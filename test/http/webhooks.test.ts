import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { describePresence } from "../../rooms/presence/contract.ts";
import type { PresenceCalls } from "../../rooms/presence/index.ts";
import { call } from "../../src/actor/call.ts";
import worker from "../../src/server/worker.ts";
import { freshName, TestSocket } from "../room/socket.ts";

/** The variables of a deployment whose webhooks are malformed. */
const malformed = { ...env, WEBHOOKS: '[{"url":' } as unknown as Env;
const BODIES: Record<string, object> = {
  "/api/v1/rooms/{room}/events": { event: "a" },
  "/api/v1/rooms/{room}/events/batch": { messages: [{ event: "a" }] },
};

/** What a room has stored. */
function stored(room: string): Promise<string[]> {
  return runInDurableObject(
    env.PRESENCE.getByName(room) as never,
    (_, { storage }: DurableObjectState) =>
      [...storage.kv.list()].map(([key]) => key).filter((key) => !key.startsWith("rollcall:")),
  );
}

describe("where WEBHOOKS is malformed", () => {
  it.each(
    describePresence().routes.map(({ method, path }) => [method.toUpperCase(), path] as const),
  )("%s %s answers 503", async (method, path) => {
    const room = freshName();
    const query = path.includes("{room}") ? "" : `?room=${room}`;
    const target = path.replace("{room}", room).replace("{id}", "ann");
    const body = BODIES[path];
    const request = new Request(`https://rollcall.test${target}${query}`, {
      method,
      headers: { Authorization: "Bearer user:ann", "Content-Type": "application/json" },
      ...(body && { body: JSON.stringify(body) }),
    });
    const answer = await worker.fetch(request, malformed);
    expect(answer.status).toBe(503);
    expect(await answer.json()).toEqual({ error: "unavailable", details: "Not configured" });
  });

  it.each([
    ["/api/v1/rooms/{room}/stream?token=user:ann"],
    ["/ws/presence?room={room}&token=user:ann"],
  ])("no stream and no socket begins: %s", async (path) => {
    const room = freshName();
    const headers = path.startsWith("/ws") ? { Upgrade: "websocket" } : {};
    const request = new Request(`https://rollcall.test${path.replace("{room}", room)}`, {
      headers,
    });
    expect((await worker.fetch(request, malformed)).status).toBe(503);
    expect(await stored(room)).toEqual([]);
  });

  it("an actor that is reached directly takes nobody, and answers no call", async () => {
    const room = freshName();
    const stub = env.PRESENCE.getByName(room);
    await runInDurableObject(stub as never, (instance: object) => {
      Object.defineProperty(instance, "env", { value: malformed });
    });
    for (const version of ["1", "3"]) {
      const url = `https://rollcall.test/ws/presence?room=${room}&v=${version}&token=user:ann`;
      const answer = await stub.fetch(url, { headers: { Upgrade: "websocket" } });
      if (!answer.webSocket) throw new Error("no upgrade");
      const { code, reason } = await new TestSocket(answer.webSocket).ended();
      expect({ code, reason }).toEqual({ code: 1013, reason: "Not configured" });
    }
    const calls = call<{ "~calls"?: PresenceCalls }>(stub);
    await expect(calls.list()).rejects.toMatchObject({ code: "unavailable" });
    await expect(calls.changes({})).rejects.toMatchObject({ code: "unavailable" });
    expect(await stored(room)).toEqual([]);
  });
});
