import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { DeviceClient, type DeviceClientOptions } from "../../client/devices.ts";
import { attempts, FakeWebSocket, installFakes, latest, pass, pick } from "./client-fake.ts";

installFakes();

const USER = "11111111-1111-4111-8111-111111111111";
const DEVICE = "22222222-2222-4222-8222-222222222222";
const TTL_MS = 30_000;

/** What the server answers over HTTP, and what it was sent. */
const answer = vi.fn<() => Response>();
const posted: { url: string; token: string; body: Record<string, unknown> }[] = [];
beforeEach(() => {
  posted.length = 0;
  answer.mockReset().mockImplementation(() => new Response(null, { status: 204 }));
  vi.stubGlobal("fetch", async (url: string, init: { headers: object; body: string }) => {
    const { Authorization: token } = init.headers as { Authorization: string };
    posted.push({ url, token, body: JSON.parse(init.body) });
    return answer();
  });
});

const clients: DeviceClient[] = [];
afterEach(async () => {
  for (const client of clients.splice(0)) await client.close();
  vi.unstubAllGlobals();
});

function start(more: Partial<DeviceClientOptions> = {}): {
  device: DeviceClient;
  states: string[];
  errors: string[];
} {
  const states: string[] = [];
  const errors: string[] = [];
  const device = new DeviceClient({
    ...{ url: "http://test/base/", userId: USER, deviceId: DEVICE, token: "secret" },
    ...{ ttlMs: TTL_MS, WebSocket: FakeWebSocket },
    onState: (state) => states.push(state),
    onError: ({ message }) => errors.push(message),
    ...more,
  });
  clients.push(device);
  return { device, states, errors };
}

/** The heartbeats that the socket was given. */
const beatsOf = (socket: FakeWebSocket) =>
  socket.frames.filter(({ type }) => type === "device.beat") as { id: string; data: object }[];

/** The server takes the last heartbeat of the latest socket. */
function ack(): void {
  latest().say({ type: "ack", id: beatsOf(latest()).at(-1)?.id, data: null });
}

/** A client whose socket is open and whose first heartbeat was taken. */
async function online(more: Partial<DeviceClientOptions> = {}) {
  const started = start(more);
  await pass();
  latest().accept();
  ack();
  return started;
}

/** Time passes, and the server answers pings. */
async function live(ttls: number): Promise<void> {
  for (let i = 0; i < 3 * ttls; i++) {
    await pass(TTL_MS / 3);
    latest().say({ type: "pong" });
  }
}

/** As many attempts as it takes until HTTP fills in. */
async function fallBack(): Promise<void> {
  await pass();
  latest().end(1006);
  await pass(600);
  latest().end(1006);
  await pass();
}

describe("a device", () => {
  test("connects with its token beside the URL, and sends one heartbeat", async () => {
    const { device, states } = start({ source: "laptop" });
    await pass();
    expect(latest().url.href).toBe(
      `ws://test/base/ws/devices/beat?user_id=${USER}&device_id=${DEVICE}&v=3`,
    );
    expect(latest().token).toBe("secret");
    latest().accept();
    expect(device.state).toBe("connecting");
    ack();
    expect([device.state, device.via, states]).toEqual(["online", "socket", ["online"]]);
    await live(10);
    expect(attempts()).toBe(1);
    expect(beatsOf(latest())).toMatchObject([
      {
        data: {
          ...{ schema_version: 1, user_id: USER, device_id: DEVICE, status: "online" },
          ...{ source: "laptop", seq: 1, ttl_ms: TTL_MS },
        },
      },
    ]);
    expect(posted).toEqual([]);
  });

  test("pings three times in its ttl", async () => {
    await online();
    await live(2);
    expect(latest().pings).toBe(6);
    expect(attempts()).toBe(1);
  });

  test("reports a change at once, and pings for a shorter ttl", async () => {
    const { device } = await online();
    device.set({ source: "other", ttlMs: 3_000 });
    expect(beatsOf(latest()).at(-1)).toMatchObject({
      data: { source: "other", ttl_ms: 3_000, seq: 2 },
    });
    const before = latest().pings;
    await pass(1_000);
    latest().say({ type: "pong" });
    await pass(1_000);
    expect(latest().pings - before).toBeGreaterThanOrEqual(2);
  });

  test("begins again with a heartbeat and a fresh token when its line breaks", async () => {
    let tokens = 0;
    const { device } = await online({ token: async () => `token-${++tokens}` });
    latest().end(1006);
    expect(device.state).toBe("connecting");
    await pass(600);
    expect(latest().token).toBe("token-2");
    latest().accept();
    ack();
    expect(beatsOf(latest())).toMatchObject([{ data: { status: "online", seq: 2 } }]);
    expect(device.state).toBe("online");
  });

  test("notices a dead line within its ttl, and connects anew", async () => {
    pick(0);
    await online();
    await pass((TTL_MS * 2) / 3 + 100);
    expect(attempts()).toBe(2);
  });

  test("says goodbye by its socket, and with 1000", async () => {
    const { device, states } = await online();
    const socket = latest();
    await device.close();
    expect(beatsOf(socket).at(-1)).toMatchObject({ data: { status: "offline", seq: 2 } });
    expect(socket.closedWith).toBe(1000);
    expect(posted).toEqual([]);
    expect(states.at(-1)).toBe("closed");
    await device.close();
    device.set({ source: "late" });
    await pass(TTL_MS);
    expect(attempts()).toBe(1);
  });
});

describe("where sockets fail", () => {
  test("it beats over HTTP after the second attempt, three times in its ttl, and tries sockets on", async () => {
    pick(1);
    const { device } = start();
    await fallBack();
    expect(posted).toMatchObject([
      {
        url: "http://test/base/api/v1/daemon/presence/heartbeat",
        token: "Bearer secret",
        body: { status: "online", seq: 1 },
      },
    ]);
    expect([device.state, device.via]).toEqual(["online", "http"]);
    await pass(TTL_MS - 1);
    expect(posted).toHaveLength(3);
    const before = attempts();
    expect(before).toBeGreaterThan(2);
    while (attempts() === before) await pass(500);
    latest().accept();
    ack();
    expect(device.via).toBe("socket");
    const { length } = posted;
    await live(2);
    expect(posted).toHaveLength(length);
  });

  test("it beats over HTTP three times in each ttl and stays online, however many sockets fail", async () => {
    pick(1);
    const { states } = start({ ttlMs: 12_000 });
    await fallBack();
    await pass(600_000);
    expect(attempts()).toBeGreaterThan(15);
    expect(posted.length).toBeGreaterThanOrEqual(150);
    expect(states).toEqual(["online"]);
  });

  test("it says goodbye over HTTP", async () => {
    const { device } = start();
    await fallBack();
    await device.close();
    expect(posted.at(-1)?.body).toMatchObject({ status: "offline", seq: 2 });
    await pass(TTL_MS);
    expect(posted).toHaveLength(2);
  });

  test("it needs no WebSocket at all", async () => {
    vi.stubGlobal("WebSocket", undefined);
    const { WebSocket: _, ...options } = { WebSocket: FakeWebSocket };
    const device = new DeviceClient({
      ...options,
      ...{ url: "http://test", userId: USER, deviceId: DEVICE, token: "secret" },
    });
    clients.push(device);
    await pass();
    expect([device.state, device.via]).toEqual(["online", "http"]);
  });

  test("it is unreachable while nothing answers, waits longer and longer, and comes back", async () => {
    pick(1);
    answer.mockImplementation(() => {
      throw new TypeError("fetch failed");
    });
    const { device, errors } = start();
    await fallBack();
    expect(device.state).toBe("unreachable");
    expect(errors).toContain("fetch failed");
    answer.mockImplementation(() => new Response(null, { status: 204 }));
    await pass(30_000);
    expect(device.state).toBe("online");
  });

  test("it waits longer and longer over HTTP too, up to 30 s, while nothing answers", async () => {
    pick(1);
    answer.mockImplementation(() => {
      throw new TypeError("fetch failed");
    });
    start({ ttlMs: 3_000 });
    await fallBack();
    await pass(120_000);
    const before = posted.length;
    await pass(300_000);
    expect(posted.length - before).toBe(10);
  });
});

describe("a server that refuses", () => {
  test("the socket for good is asked over HTTP, and is done with if that is refused as well", async () => {
    answer.mockImplementation(() => new Response("no", { status: 403 }));
    const { device, errors } = start();
    await pass();
    latest().open();
    latest().end(4403, "The token is for another device");
    await pass(TTL_MS);
    expect(device.state).toBe("refused");
    expect(errors[0]).toContain("The token is for another device");
    await pass(600_000);
    expect([attempts(), posted.length]).toEqual([1, 3]);
  });

  test("the socket alone, as an earlier release does, gets heartbeats over HTTP until a socket works", async () => {
    const { device } = start();
    await pass();
    latest().open();
    latest().end(4403);
    await pass();
    expect([device.state, device.via]).toEqual(["online", "http"]);
    const startMs = Date.now();
    while (attempts() === 1) await pass(5_000);
    expect(Date.now() - startMs).toBeGreaterThan(100_000);
    latest().accept();
    ack();
    expect(device.via).toBe("socket");
  });

  test("a token, over HTTP, is asked three times", async () => {
    answer.mockImplementation(() => new Response("no", { status: 401 }));
    const { device } = start();
    await fallBack();
    await pass(TTL_MS);
    expect(device.state).toBe("refused");
    expect(posted).toHaveLength(3);
  });

  test("a heartbeat as not newer than the last gets the next one in time", async () => {
    const { device } = start();
    await pass();
    latest().accept();
    const error = { code: "conflict", message: "Non-monotonic seq" };
    latest().say({ type: "nack", id: "1", error });
    expect(device.state).toBe("unreachable");
    await pass(TTL_MS / 3);
    expect(beatsOf(latest())).toHaveLength(2);
    ack();
    expect(device.state).toBe("online");
  });

  test("an older heartbeat than the last one is not listened to", async () => {
    const { device } = await online();
    device.set({ source: "other" });
    latest().say({ type: "nack", id: "1", error: { code: "forbidden", message: "No" } });
    expect(device.state).toBe("online");
  });
});
