import { afterAll, beforeAll, expect, test } from "vitest";
import { joinMoods, type MoodState } from "../../client/moods.ts";
import type { WebSocketLike } from "../../client/socket.ts";
import { type Server, startServer } from "./server.ts";

let server: Server;
beforeAll(async () => {
  server = await startServer({ vars: { MOOD_SHARDS: "4" } });
});
afterAll(() => server.stop());

const post = (path: string, body: object) =>
  fetch(server.url + path, { method: "POST", body: JSON.stringify(body) });
const look = async (): Promise<MoodState> => (await fetch(`${server.url}/api/presence`)).json();

/** What `onState` was told last, and a way to wait for what it should be told. */
function hearing() {
  const states: MoodState[] = [];
  const onState = (state: MoodState) => void states.push(state);
  const until = (holds: (state: MoodState) => boolean) =>
    expect.poll(() => states.some(holds), { timeout: 15_000 }).toBe(true);
  return { onState, until, states };
}

/** A network that lets no socket through. */
class NoSocket implements WebSocketLike {
  readonly readyState = 0;
  constructor() {
    throw new Error("sockets fail here");
  }
  send(): void {}
  close(): void {}
  addEventListener(): void {}
}

test("visitors with and without sockets count each other, change their mood and leave", async () => {
  const bySocket = hearing();
  const first = joinMoods({ url: server.url, mood: "gratitude", onState: bySocket.onState });
  await bySocket.until(({ count, moods }) => count === 1 && moods.gratitude === 1);

  const byPolling = hearing();
  const second = joinMoods({
    url: server.url,
    onState: byPolling.onState,
    WebSocket: NoSocket,
  });
  await byPolling.until(({ count, moods }) => count === 2 && moods.presence === 1);
  await bySocket.until(({ count }) => count === 2);

  first.setMood("release");
  await bySocket.until(({ moods }) => moods.release === 1 && moods.gratitude === 0);
  second.setMood("connection");
  await byPolling.until(({ moods }) => moods.connection === 1);

  second.leave();
  const heard = byPolling.states.length;
  await expect.poll(async () => (await look()).count, { timeout: 10_000 }).toBe(1);
  first.leave();
  await expect.poll(async () => (await look()).count, { timeout: 10_000 }).toBe(0);
  expect(byPolling.states.length).toBe(heard);
});

test("a power cut loses nobody, and no log names a session", { tags: ["slow"] }, async () => {
  const ids = Array.from({ length: 20 }, (_, i) => `secret-session-${i}`);
  await Promise.all(ids.map((sessionId) => post("/api/heartbeat", { sessionId })));
  await post("/api/leave", { sessionId: ids[0] });
  await server.kill();
  const downAt = Date.now();
  await server.restart();
  // Whoever was here is here, unless starting took longer than a session lives.
  const state = await look();
  if (Date.now() - downAt < 25_000) expect(state.count).toBe(19);
  else expect(state.count).toBeLessThanOrEqual(19);
  expect(server.logs).not.toContain("secret-session");
});
