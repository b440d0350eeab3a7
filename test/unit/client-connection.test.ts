import { describe, expect, it, vi } from "vitest";
import type { CloseInfo, ConnectionState, VeraniClient } from "../../client/client.ts";
import { RollcallError } from "../../client/client.ts";
import {
  attempts,
  connected,
  FakeWebSocket,
  installFakes,
  latest,
  newClient,
  pass,
  pick,
} from "./client-fake.ts";

installFakes();

const codeOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => "resolved",
    (error) => error.code,
  );

describe("connecting", () => {
  it("asks for protocol 3 and leaves the rest of the URL alone", async () => {
    newClient({}, "ws://test/ws/presence?room=lobby&token=user%3Aalice");
    await pass();
    expect(Object.fromEntries(latest().url.searchParams)).toEqual({
      room: "lobby",
      token: "user:alice",
      v: "3",
      probe: "1",
    });
  });

  it("takes https for wss, and refuses what is no URL at once", async () => {
    newClient({}, "https://test/ws");
    await pass();
    expect(latest().url.protocol).toBe("wss:");
    expect(() => newClient({}, "not a url")).toThrow(TypeError);
  });

  it("is connected when the socket opens: a Verani server sends no hello", async () => {
    const client = newClient();
    expect([client.getState(), client.isConnecting, client.isConnected()]).toEqual([
      "connecting",
      true,
      false,
    ]);
    await pass();
    latest().accept();
    expect(client.getConnectionState()).toEqual({
      state: "connected",
      isConnected: true,
      isConnecting: false,
      reconnectAttempts: 0,
      connectionId: 1,
    });
  });

  it("tells the states in Verani's order over a loss", async () => {
    pick(0.5);
    const { client, socket } = await connected();
    const states: ConnectionState[] = [];
    client.onStateChange((state) => states.push(state));
    socket.end(1006);
    await pass(500);
    latest().accept();
    expect(states).toEqual(["disconnected", "reconnecting", "connecting", "connected"]);
  });

  it("calls callbacks that were set after the construction, the latest of each kind", async () => {
    const client = newClient();
    const told: string[] = [];
    client.onOpen(() => told.push("replaced"));
    client.onOpen(() => told.push("open"));
    client.onClose((event) => told.push(`close ${event.code} ${event.reason}`));
    await pass();
    latest().accept();
    latest().end(4403, "members only");
    expect(told).toEqual(["open", "close 4403 members only"]);
  });

  it("gives up an attempt that hangs, and comes back", async () => {
    pick(0);
    const client = newClient({ connectionTimeout: 3_000 });
    const errors: unknown[] = [];
    const closes: CloseInfo[] = [];
    client.onError((error) => errors.push(error));
    client.onClose((event) => closes.push(event));
    await pass(2_999);
    expect([attempts(), client.getState()]).toEqual([1, "connecting"]);
    await pass(1);
    expect(errors).toEqual([expect.objectContaining({ code: "timeout" })]);
    expect(closes).toEqual([expect.objectContaining({ code: 4408 })]);
    expect(FakeWebSocket.all[0]?.closedWith).toBe(4408);
    await pass(1);
    expect(attempts()).toBe(2);
  });
});

describe("coming back", () => {
  it.each([1001, 1005, 1006, 1009, 1011, 1013, 4401, 4408, 4429])(
    "happens after close code %i",
    async (code) => {
      const { client, socket } = await connected();
      socket.end(code);
      expect(client.getState()).toBe("reconnecting");
      await pass(2_000);
      expect(attempts()).toBe(2);
    },
  );

  it.each([1000, 4400, 4403])("does not happen after close code %i", async (code) => {
    const { client, socket } = await connected();
    socket.end(code);
    await pass(3_600_000);
    expect([client.getState(), attempts()]).toEqual(["disconnected", 1]);
    client.reconnect();
    await pass();
    expect(attempts()).toBe(2);
  });

  it("spreads a thousand clients that are cut off together evenly over the window", async () => {
    const start = Date.now();
    const clients = Array.from({ length: 1_000 }, () => newClient());
    await pass();
    const first = FakeWebSocket.all.splice(0);
    for (const socket of first) socket.accept();
    // Every thousandth of the unit interval once, in no order: what an even source would give.
    let turn = 0;
    vi.spyOn(Math, "random").mockImplementation(() => ((turn++ * 377) % 1_000) / 1_000);
    for (const socket of first) socket.end(1006);
    const perTenth: number[] = [];
    for (let tenth = 0; tenth < 10; tenth++) {
      const before = attempts();
      await pass(tenth === 0 ? 99 : 100);
      perTenth.push(attempts() - before);
    }
    expect(perTenth).toEqual(Array(10).fill(100));
    expect(Date.now() - start).toBe(999);
    expect(new Set(clients.map((client) => client.getState()))).toEqual(new Set(["connecting"]));
  });

  it("draws the wait from [0, min(maxDelay, initialDelay × multiplier^n)]", async () => {
    pick(1);
    const waits: number[] = [];
    newClient({ reconnection: { initialDelay: 1_000, maxDelay: 5_000, backoffMultiplier: 2 } });
    await pass();
    for (let n = 0; n < 5; n++) {
      const from = Date.now();
      const before = attempts();
      latest().end(1006);
      while (attempts() === before) await pass(100);
      waits.push(Date.now() - from);
    }
    expect(waits).toEqual([1_000, 2_000, 4_000, 5_000, 5_000]);
    pick(0);
    latest().end(1006);
    await pass();
    expect(attempts()).toBe(7);
  });

  it("does not hammer a server that accepts and closes at once", async () => {
    pick(1);
    newClient();
    for (let n = 0; n < 600; n++) {
      await pass(100);
      if (latest().readyState === 0) {
        latest().accept();
        latest().end(1011);
      }
    }
    // 1, 1.5, 2.25 … s apart: eight within a minute.
    expect(attempts()).toBeLessThanOrEqual(9);
  });

  it("starts small again after a connection that lasted", async () => {
    pick(1);
    const { client } = await connected();
    for (let n = 0; n < 5; n++) {
      latest().end(1006);
      await pass(Math.ceil(1_000 * 1.5 ** n) + 1);
    }
    expect(client.getConnectionState().reconnectAttempts).toBe(5);
    latest().accept();
    await pass(5_000);
    latest().end(1006);
    expect(client.getConnectionState().reconnectAttempts).toBe(1);
    const before = attempts();
    await pass(1_000);
    expect(attempts()).toBe(before + 1);
  });

  it("waits at least the whole window after 1013", async () => {
    pick(0);
    const { socket } = await connected({ reconnection: { initialDelay: 4_000 } });
    socket.end(1013);
    await pass(3_999);
    expect(attempts()).toBe(1);
    await pass(1);
    expect(attempts()).toBe(2);
  });

  it("never ends by default, and ends in the state error after maxAttempts", async () => {
    pick(0);
    const forever = newClient();
    for (let n = 0; n < 50; n++) {
      await pass();
      latest().end(1006);
    }
    expect(forever.getState()).toBe("reconnecting");
    forever.close();

    const limited = newClient({ reconnection: { maxAttempts: 3 } });
    const before = attempts();
    for (let n = 0; n < 10; n++) {
      await pass();
      latest().end(1006);
    }
    expect([limited.getState(), attempts() - before]).toEqual(["error", 4]);
    limited.reconnect();
    await pass();
    expect(limited.getState()).toBe("connecting");
  });

  it("starts small again after reconnect was called", async () => {
    pick(1);
    const client = newClient();
    await pass();
    for (let n = 0; n < 5; n++) {
      latest().end(1006);
      await pass(30_000);
    }
    client.reconnect();
    expect(client.getConnectionState().reconnectAttempts).toBe(0);
  });

  it("does not happen when it is switched off", async () => {
    const { client, socket } = await connected({ reconnection: { enabled: false } });
    socket.end(1006);
    await pass(60_000);
    expect([client.getState(), attempts()]).toEqual(["disconnected", 1]);
  });

  it("keeps its pace when plain JavaScript hands undefined for an option", async () => {
    pick(1);
    const reconnection = { initialDelay: undefined } as unknown as { initialDelay: number };
    const { socket } = await connected({ reconnection });
    socket.end(1006);
    await pass(999);
    expect(attempts()).toBe(1);
    await pass(1);
    expect(attempts()).toBe(2);
  });

  it("goes on when a callback throws, and tells onError", async () => {
    const { client, socket } = await connected();
    const errors: unknown[] = [];
    client.onClose(() => {
      throw new Error("app");
    });
    client.onStateChange(() => {
      throw new Error("app");
    });
    client.onError((error) => errors.push(error));
    socket.end(1006);
    await pass(1_000);
    latest().accept();
    expect(client.isConnected()).toBe(true);
    expect(errors.length).toBeGreaterThan(0);
  });

  it("keeps what waits when the app decides to come back after a close that was for good", async () => {
    const client = newClient();
    client.onStateChange((state) => state === "disconnected" && client.reconnect());
    const answer = client.emitWithAck("add");
    const connection = client.waitForConnection();
    await pass();
    latest().end(4403);
    await pass();
    latest().accept();
    await connection;
    latest().say({ type: "ack", id: latest().frames[0]?.id, data: 1 });
    expect(await answer).toBe(1);
  });

  it("does not happen when onError calls disconnect", async () => {
    const token = async () => Promise.reject(new Error("login is down"));
    const client = newClient({ token });
    client.onError(() => client.disconnect());
    await pass(60_000);
    expect(client.getConnectionState()).toMatchObject({ state: "disconnected", connectionId: 1 });
  });

  it("makes one attempt when onClose itself calls reconnect", async () => {
    const { client, socket } = await connected();
    client.onClose(() => client.reconnect());
    socket.end(1006);
    await pass(60);
    expect([attempts(), client.getState()]).toEqual([2, "connecting"]);
    latest().accept();
    await pass(4_000);
    expect([attempts(), client.getState()]).toEqual([2, "connected"]);
  });
});

describe("an abandoned socket", () => {
  it("is not heard any more, whatever it says", async () => {
    const { client, socket: old } = await connected();
    client.reconnect();
    await pass();
    latest().accept();
    const told: unknown[] = [];
    client.on("news", (data) => told.push(data));
    client.onClose((event) => told.push(event));
    client.onError((error) => told.push(error));
    old.say({ type: "news", data: 1 });
    old.dispatchEvent(new Event("error"));
    old.end(4403);
    await pass(1_000);
    expect(told).toEqual([]);
    expect([client.isConnected(), attempts()]).toEqual([true, 2]);
    expect(old.closedWith).toBe(1000);
  });

  it("is closed when it opens after all", async () => {
    pick(1);
    const client = newClient({ connectionTimeout: 1_000 });
    await pass(1_000);
    const [late] = FakeWebSocket.all;
    late?.accept();
    expect(late?.readyState).toBe(2);
    expect(client.getState()).toBe("reconnecting");
  });
});

describe("the token", () => {
  it("is asked for anew at each connection", async () => {
    pick(0);
    let asked = 0;
    newClient({ token: async () => `token ${++asked}` });
    await pass();
    expect(latest().token).toBe("token 1");
    latest().accept();
    latest().end(4401);
    await pass();
    expect(latest().token).toBe("token 2");
  });

  it("stands in no URL, unless the server knows no other way", async () => {
    newClient({ token: "secret" });
    await pass();
    expect(latest().url.href).not.toContain("secret");
    expect(latest().protocols).toEqual(["rollcall", "token.c2VjcmV0"]);
    newClient({ token: "secret", tokenIn: "query" });
    await pass();
    expect(latest().url.searchParams.get("token")).toBe("secret");
    expect(latest().protocols).toEqual([]);
  });

  it.each(["a", "ab", "abc", "ü – 語 🎉", '{"a":[1]}'])("%s arrives as it is", async (token) => {
    newClient({ token });
    await pass();
    expect(latest().token).toBe(token);
    expect(latest().protocols[1]).toMatch(/^token\.[\w-]+$/);
  });

  it("may be a string", async () => {
    newClient({ token: "user:alice&bob" });
    await pass();
    expect(latest().token).toBe("user:alice&bob");
  });

  it("that cannot be had is a failed attempt", async () => {
    pick(1);
    let asked = 0;
    const client = newClient({
      token: () => {
        if (++asked === 1) throw new Error("login is down");
        return "fresh";
      },
    });
    const errors: unknown[] = [];
    client.onError((error) => errors.push(error));
    await pass();
    expect([client.getState(), attempts(), errors]).toEqual([
      "reconnecting",
      0,
      [new Error("login is down")],
    ]);
    await pass(1_000);
    expect([asked, attempts()]).toEqual([2, 1]);
  });

  it("that never comes is given up in time, and one that comes too late opens nothing", async () => {
    let resolve: (token: string) => void = () => {};
    const client = newClient({
      connectionTimeout: 1_000,
      token: () => new Promise((done) => (resolve = done)),
    });
    await pass(1_000);
    expect(client.getState()).toBe("reconnecting");
    client.disconnect();
    resolve("late");
    await pass(1_000);
    expect(attempts()).toBe(0);
  });

  it("that fails after disconnect is nobody's business any more", async () => {
    let reject: (error: Error) => void = () => {};
    const client = newClient({ token: () => new Promise((_, fail) => (reject = fail)) });
    const errors: unknown[] = [];
    client.onError((error) => errors.push(error));
    await pass();
    client.disconnect();
    reject(new Error("late"));
    await pass(60_000);
    expect([errors, client.getState()]).toEqual([[], "disconnected"]);
  });
});

describe("leaving", () => {
  it("disconnect closes with 1000, tells onClose at once and stays away until reconnect", async () => {
    const { client, socket } = await connected();
    const closes: number[] = [];
    client.onClose(({ code }) => closes.push(code));
    client.disconnect();
    expect([socket.closedWith, closes, client.getState()]).toEqual([1000, [1000], "disconnected"]);
    await pass(60_000);
    expect(attempts()).toBe(1);
    const states: ConnectionState[] = [];
    client.onStateChange((state) => states.push(state));
    client.reconnect();
    await pass();
    latest().accept();
    expect(states).toEqual(["connecting", "connected"]);
  });

  it("disconnect on the news of a connection lets onOpen be", async () => {
    const client = newClient();
    let opened = 0;
    client.onOpen(() => opened++);
    client.onStateChange((state) => state === "connected" && client.disconnect());
    await pass();
    latest().accept();
    expect([opened, client.getState()]).toEqual([0, "disconnected"]);
  });

  it("disconnect ends the wait for the next attempt, with nothing to close", async () => {
    const { client, socket } = await connected();
    socket.end(1006);
    const closes: CloseInfo[] = [];
    client.onClose((event) => closes.push(event));
    client.disconnect();
    await pass(60_000);
    expect([closes, client.getState(), attempts()]).toEqual([[], "disconnected", 1]);
  });

  it.each(["connecting", "connected", "reconnecting"] as const)(
    "close leaves no timer running when it was %s",
    async (state) => {
      const client = newClient();
      await pass();
      if (state !== "connecting") latest().accept();
      if (state === "reconnecting") latest().end(1006);
      client.emitWithAck("question").catch(() => {});
      client.waitForConnection().catch(() => {});
      expect(client.getState()).toBe(state);
      expect(vi.getTimerCount()).toBeGreaterThan(0);
      client.close();
      expect(vi.getTimerCount()).toBe(0);
    },
  );

  it("close calls nobody back any more", async () => {
    const { client } = await connected();
    const told: unknown[] = [];
    client.on("news", (data) => told.push(data));
    client.onStateChange((state) => told.push(state));
    client.close();
    told.length = 0;
    client.reconnect();
    await pass();
    latest().accept();
    latest().say({ type: "news", data: 1 });
    expect(told).toEqual([]);
  });
});

describe("waitForConnection", () => {
  it("outlives failed attempts", async () => {
    pick(0);
    const client = newClient();
    const outcome = codeOf(client.waitForConnection());
    await pass();
    latest().end(1006);
    await pass();
    latest().accept();
    expect(await outcome).toBe("resolved");
    expect(await codeOf(client.waitForConnection())).toBe("resolved");
  });

  it("ends with timeout after twice the connectionTimeout", async () => {
    const client = newClient({ connectionTimeout: 1_000 });
    const outcome = codeOf(client.waitForConnection());
    await pass(1_999);
    expect(await Promise.race([outcome, "waiting"])).toBe("waiting");
    await pass(1);
    expect(await outcome).toBe("timeout");
  });

  it.each([
    ["disconnect", (client: VeraniClient) => client.disconnect()],
    ["a close that is for good", () => latest().end(4403)],
    ["the last attempt allowed", () => latest().end(1006)],
  ])("ends with disconnected after %s", async (_, end) => {
    const client = newClient({ reconnection: { maxAttempts: 1 } });
    pick(0);
    await pass();
    latest().end(1006);
    await pass();
    const outcome = client.waitForConnection().catch((error: unknown) => error);
    end(client);
    expect(await outcome).toBeInstanceOf(RollcallError);
    expect(await outcome).toMatchObject({ code: "disconnected" });
  });
});
