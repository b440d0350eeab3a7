import { env, exports } from "cloudflare:workers";
import { publish } from "rollcall/fanout";
import { testRoom } from "rollcall/testing";
import { expect, it, onTestFinished } from "vitest";
import { login } from "./login.ts";

const ORIGIN = "https://app.test";

it("shows who is in a room, and lets nobody in without a token", async () => {
  const room = testRoom(env.PRESENCE, {
    path: (name) => `/ws/presence?room=${name}`,
    worker: exports.default,
    login,
  });
  const ann = await room.connect("ann");
  await room.connect("ben");
  await expect(ann).toHaveRoster(["ann", "ben"]);
  await expect(room.connect("eve", { token: "made-up" })).rejects.toThrow("4401");
});

it("delivers a wave to the user's devices, and their answers to the sender", async () => {
  const ann = await login("ann");
  const ben = await login("ben");
  const { webSocket: device } = await exports.default.fetch(`${ORIGIN}/`, {
    headers: { Upgrade: "websocket", Authorization: `Bearer ${ben.token}` },
  });
  if (!device) throw new Error("The upgrade was refused");
  device.accept();
  onTestFinished(() => device.close());
  device.addEventListener("message", ({ data }) => {
    const { envelopeId, payload } = JSON.parse(String(data));
    device.send(JSON.stringify({ type: "ack", envelopeId, result: `${payload.from} waves` }));
  });
  device.send(JSON.stringify({ type: "subscribe", filters: [{ type: "wave" }] }));

  const message = { userId: "ben", type: "wave", payload: { from: "ann" } };
  const server = {
    url: ORIGIN,
    token: ann.token,
    fetch: (url: RequestInfo | URL, init?: RequestInit) => exports.default.fetch(url, init),
  };
  await expect
    .poll(() => publish(server, message))
    .toMatchObject({ clientCount: 1, results: ["ann waves"] });
});

it("counts open pages without a login", async () => {
  const post = async (path: string, body: object) => {
    const request = { method: "POST", body: JSON.stringify(body) };
    const response = await exports.default.fetch(ORIGIN + path, request);
    return (await response.json()) as { sessionId: string; count: number };
  };
  const open = async () => {
    const { sessionId } = await post("/api/session", {});
    return (await post("/api/heartbeat", { sessionId })).count;
  };
  expect(await open()).toBe(1);
  expect(await open()).toBe(2);
});
