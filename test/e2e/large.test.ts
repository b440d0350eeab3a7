// @module-tag slow
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import type { Inspection } from "../../src/actor/call.ts";
import { PING, parseFrames, unwrapEvent } from "../../src/wire/frames.ts";
import { type Server, startServer } from "./server.ts";

const SHARDS = 8;
const SOCKETS = 1_000;

let server: Server;
beforeAll(async () => {
  server = await startServer({ vars: { LARGE_ROOMS: `hall:${SHARDS}` } });
});
afterAll(async () => {
  await server.stop();
});

const NAMES = [...Array.from({ length: SHARDS }, (_, i) => `hall|${i}`), "hall|total"];

async function inspectAll(): Promise<Inspection[]> {
  return Promise.all(
    NAMES.map(async (name) => {
      const path = `/debug/actors/presence/${encodeURIComponent(name)}`;
      return (await (await fetch(`${server.url}${path}`)).json()) as Inspection;
    }),
  );
}

describe("1 000 sockets in a room of 8 shards", () => {
  test("have an exact count, get one publish each, and wake no actor for a minute in which they ping", async () => {
    const counts: number[] = new Array(SOCKETS).fill(0);
    let received = 0;
    let closed = 0;
    const open = async (n: number): Promise<WebSocket> => {
      const query = `token=user:idler${n}&room=hall&v=3&probe=1`;
      const socket = new WebSocket(`${server.wsUrl}/ws/presence?${query}`);
      socket.addEventListener("message", ({ data }) => {
        for (const frame of parseFrames(data)) {
          const { event, data } = unwrapEvent(frame);
          if (event === "presence.count") counts[n] = data.totalUsers;
          if (event === "cheer") received += 1;
        }
      });
      socket.addEventListener("close", () => {
        closed += 1;
      });
      await once(socket, "open");
      socket.send(PING);
      return socket;
    };
    const sockets: WebSocket[] = [];
    // As every client does; the runtime answers them.
    const pinging = setInterval(() => {
      for (const socket of sockets) if (socket.readyState === WebSocket.OPEN) socket.send(PING);
    }, 5_000);
    onTestFinished(() => clearInterval(pinging));
    for (let n = 0; n < SOCKETS; n += 50) {
      sockets.push(...(await Promise.all(Array.from({ length: 50 }, (_, i) => open(n + i)))));
    }
    await expect
      .poll(() => counts.filter((count) => count === SOCKETS).length, { timeout: 15_000 })
      .toBe(SOCKETS);

    const publish = await fetch(`${server.url}/api/v1/rooms/hall/events`, {
      method: "POST",
      headers: { Authorization: "Bearer user:backend", "Content-Type": "application/json" },
      body: JSON.stringify({ event: "cheer", data: {} }),
    });
    expect(await publish.json()).toMatchObject({ recipients: SOCKETS });
    await expect.poll(() => received, { timeout: 15_000 }).toBe(SOCKETS);

    // Everything under way has ended, and all actors sleep.
    await sleep(30_000);
    const before = await inspectAll();
    expect(before.reduce((sum, { sessions }) => sum + sessions, 0)).toBe(SOCKETS);
    await sleep(60_000);
    const askedAt = Date.now();
    const after = await inspectAll();
    for (const [i, { starts, wakeUps, startedAt }] of after.entries()) {
      // One question started the instance of before, the other the one that answers now.
      expect(starts, NAMES[i]).toBe((before[i]?.starts ?? 0) + 1);
      expect(Date.parse(startedAt)).toBeGreaterThanOrEqual(askedAt - 100);
      expect(wakeUps).toEqual({ fetch: 0, message: 0, close: 0, alarm: 0, rpc: 0 });
    }
    expect(closed).toBe(0);
    for (const socket of sockets) socket.close();
  }, 240_000);
});
