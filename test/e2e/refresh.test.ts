import { setTimeout as sleep } from "node:timers/promises";
import { SignJWT } from "jose";
import { afterAll, beforeAll, expect, test } from "vitest";
import { VeraniClient } from "../../client/client.ts";
import { type Server, startServer } from "./server.ts";

/** Of `.dev.vars.example`, which tests run with. */
const SECRET = "development-only-jwt-secret-0123456789abcdef";
const CLIENTS = 100;
const LIFE_S = 5;
const MINUTE_MS = 60_000;

let server: Server;
beforeAll(async () => {
  server = await startServer();
});
afterAll(() => server?.stop());

function tokenOf(userId: string): Promise<string> {
  const key = new TextEncoder().encode(SECRET);
  const exp = Math.ceil(Date.now() / 1_000) + LIFE_S;
  return new SignJWT({ userId, exp }).setProtectedHeader({ alg: "HS256" }).sign(key);
}

test("a hundred clients with tokens of 5 s live for a minute without a close, a presence event or a missed event", {
  tags: ["slow"],
  timeout: 2 * MINUTE_MS,
}, async (context) => {
  const url = `${server.url.replace("http", "ws")}/ws/presence?room=refresh`;
  const heard = { closes: 0, events: 0 };
  const statuses: number[] = [];
  const clients = Array.from({ length: CLIENTS }, (_, n) => {
    const client = new VeraniClient(url, { token: () => tokenOf(`user-${n}`) });
    statuses[n] = 0;
    client.on("presence.status", () => {
      statuses[n] = (statuses[n] ?? 0) + 1;
    });
    return client;
  });
  const talker = new VeraniClient(url, { token: "user:talker" });
  await Promise.all([...clients, talker].map((client) => client.waitForConnection()));
  await expect.poll(() => talker.roster.size, { timeout: 20_000 }).toBe(CLIENTS + 1);
  await sleep(1_000);
  for (const client of clients) {
    client.onClose(() => {
      heard.closes += 1;
    });
    for (const event of ["online", "offline", "update"]) {
      client.on(`presence.${event}`, () => {
        heard.events += 1;
      });
    }
  }
  const untilMs = Date.now() + MINUTE_MS;
  let said = 0;
  let worstMs = 0;
  while (Date.now() < untilMs) {
    said += 1;
    talker.emit("presence.status", { status: said % 2 === 0 ? "online" : "away" });
    const beforeMs = performance.now();
    await sleep(1_000);
    worstMs = Math.max(worstMs, performance.now() - beforeMs - 1_000);
  }
  // On a machine that stood still for a second, no client had the time that it needs.
  if (worstMs > 1_000) context.skip(`this machine stood still for ${Math.round(worstMs)} ms`);
  expect(heard).toEqual({ closes: 0, events: 0 });
  expect(statuses).toEqual(clients.map(() => said));
  for (const client of [...clients, talker]) client.close();
});
