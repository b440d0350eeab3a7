import { describe, expect, it, vi } from "vitest";
import { PROBE } from "../../src/wire/frames.ts";
import {
  attempts,
  connected,
  FakeWebSocket,
  installFakes,
  latest,
  newClient,
  pass,
  pick,
  sleep,
} from "./client-fake.ts";

installFakes();

const HOUR_MS = 3_600_000;
const hello = (pingMs: number, lookMs?: number) => ({
  type: "hello",
  data: { protocol: 2, session: "s", epoch: "e", seq: 0, pingMs, ...(lookMs && { lookMs }) },
});

/** A browser page around the client. */
function openPage(): { page: EventTarget; document: { hidden: boolean }; listeners: () => number } {
  const page = new EventTarget();
  const document = { hidden: false };
  let count = 0;
  vi.stubGlobal("document", document);
  vi.stubGlobal(
    "addEventListener",
    (type: string, listener: () => void, options: { signal: AbortSignal }) => {
      count++;
      options.signal.addEventListener("abort", () => count--);
      page.addEventListener(type, listener, options);
    },
  );
  return { page, document, listeners: () => count };
}

describe("pings", () => {
  it("begin when the connection opens, before all else: so the server knows whom to miss", async () => {
    const client = newClient();
    client.emit("said.while.away");
    await pass();
    latest().open();
    expect(latest().sent[0]).toBe('{"type":"ping"}');
    expect(latest().sent).toHaveLength(2);
    await pass(5_000);
    expect(client.isConnected(), "a peer that never answered").toBe(false);
  });

  it("leave every interval, also while messages come in", async () => {
    const { socket } = await connected({ pingInterval: 1_000 });
    for (let n = 0; n < 20; n++) {
      await pass(500);
      socket.say({ type: "event", data: { type: "news" } });
    }
    expect(socket.pings).toBe(10);
  });

  it.each([
    ["its own, where the room asks for less", 5_000, 9_000, 5_000],
    ["the room's, where that is shorter", 5_000, 2_000, 2_000],
    ["its own, where the room looks at no pings", 5_000, 0, 5_000],
  ])("keep an interval of %s", async (_, pingInterval, pingMs, expectedMs) => {
    const { socket } = await connected({ pingInterval });
    await pass(100);
    socket.say([hello(pingMs)]);
    await pass(expectedMs - 101);
    expect(socket.pings).toBe(0);
    await pass(1);
    expect(socket.pings).toBe(1);
  });

  it("come at the room's interval, from at once, where it would drop who never pings", async () => {
    const { socket } = await connected({ pingInterval: 0 });
    await pass(100);
    expect(socket.pings).toBe(0);
    socket.say([hello(5_000)]);
    expect(socket.pings).toBe(1);
    socket.say({ type: "pong" });
    await pass(4_999);
    expect(socket.pings).toBe(1);
    await pass(1);
    expect(socket.pings).toBe(2);
  });

  it("forget the last server's wish on the next connection", async () => {
    pick(0);
    const { socket } = await connected();
    socket.say(hello(1_000));
    socket.end(1006);
    await pass();
    latest().accept();
    await pass(4_999);
    expect(latest().pings).toBe(0);
  });

  it("are none with pingInterval 0, and nobody is taken for dead", async () => {
    const { page } = openPage();
    const { client, socket } = await connected({ pingInterval: 0 });
    socket.say(hello(0));
    await pass(HOUR_MS);
    sleep(HOUR_MS);
    page.dispatchEvent(new Event("focus"));
    await pass(HOUR_MS);
    expect([socket.pings, client.isConnected()]).toEqual([0, true]);
  });
});

describe("probes", () => {
  /** Lets `ms` pass with a server that answers each ping. */
  async function live(socket: FakeWebSocket, ms: number): Promise<void> {
    for (let passed = 0; passed < ms; passed += 2_500) {
      await pass(2_500);
      socket.say({ type: "pong" });
    }
  }
  const probes = ({ sent }: FakeWebSocket) => sent.filter((text) => text === PROBE).length;

  it("are sent in place of a ping when no client has probed for the room's time", async () => {
    const { socket } = await connected();
    socket.say(hello(5_000, 40_000));
    await live(socket, 37_500);
    expect([socket.pings, probes(socket)]).toEqual([7, 0]);
    await live(socket, 5_000);
    expect([socket.pings, probes(socket)]).toEqual([7, 1]);
    // A probe that was lost is repeated after the same time.
    await live(socket, 40_000);
    expect([socket.pings, probes(socket)]).toEqual([14, 2]);
  });

  it("are not sent while other clients probe, nor to rooms that ask for none", async () => {
    const { socket } = await connected();
    socket.say(hello(5_000, 40_000));
    for (let n = 0; n < 10; n++) {
      await live(socket, 30_000);
      socket.say([{ type: "probed" }]);
    }
    expect(probes(socket)).toBe(0);
    socket.end(1006);
    await pass(1_000);
    latest().accept();
    latest().say(hello(5_000));
    await live(latest(), 300_000);
    expect([latest().pings, probes(latest())]).toEqual([60, 0]);
  });
});

describe("a dead peer", () => {
  it("is dropped at the deadline, without waiting for a close event", async () => {
    pick(0);
    const { client, socket } = await connected({ pingInterval: 5_000, pongTimeout: 2_000 });
    const closes: number[] = [];
    client.onClose(({ code }) => closes.push(code));
    await pass(6_999);
    expect(client.isConnected()).toBe(true);
    await pass(1);
    expect([socket.closedWith, closes]).toEqual([4408, [4408]]);
    await pass(1);
    latest().accept();
    socket.end(1006);
    await pass(4_000);
    expect([client.isConnected(), closes, attempts()]).toEqual([true, [4408], 2]);
  });

  it("is none as long as any message comes", async () => {
    const { client, socket } = await connected({ pingInterval: 5_000, pongTimeout: 2_000 });
    for (let n = 0; n < 40; n++) {
      await pass(1_500);
      socket.say({ type: "event", data: { type: "news" } });
    }
    expect([client.isConnected(), attempts()]).toEqual([true, 1]);
  });

  it("is found by its oldest unanswered ping, however often it is pinged", async () => {
    const { client } = await connected({ pingInterval: 1_000, pongTimeout: 2_500 });
    await pass(3_499);
    expect(client.isConnected()).toBe(true);
    await pass(1);
    expect(client.getState()).toBe("reconnecting");
  });

  it("is found by the default options within ten seconds", async () => {
    const { client } = await connected();
    await pass(10_000);
    expect(client.getState()).toBe("reconnecting");
  });

  it("is never looked for with pongTimeout 0", async () => {
    const { client, socket } = await connected({ pongTimeout: 0 });
    await pass(60_000);
    expect([client.isConnected(), socket.pings]).toEqual([true, 12]);
  });
});

describe("a laptop that slept", () => {
  it("asks at its first look, and drops a peer that does not answer soon", async () => {
    const { client, socket } = await connected();
    await pass(2_000);
    sleep(8 * HOUR_MS);
    await pass(3_000);
    expect([socket.pings, client.isConnected()]).toEqual([1, true]);
    await pass(2_499);
    expect(client.isConnected()).toBe(true);
    await pass(1);
    expect(client.getState()).toBe("reconnecting");
  });

  it("keeps a connection that lived through it", async () => {
    const { client, socket } = await connected();
    await pass(2_000);
    sleep(8 * HOUR_MS);
    await pass(3_000);
    socket.say({ type: "pong" });
    await pass(4_000);
    expect([client.isConnected(), attempts()]).toEqual([true, 1]);
  });

  it("asks again where an answer was due in its sleep: it may lie unread", async () => {
    const { client, socket } = await connected();
    await pass(5_000);
    expect(socket.pings).toBe(1);
    sleep(HOUR_MS);
    await pass(5_000);
    expect([socket.pings, client.isConnected()]).toEqual([2, true]);
    await pass(2_500);
    expect(client.getState()).toBe("reconnecting");
  });

  it("connects at its first look when the next attempt was due in its sleep", async () => {
    pick(1);
    const { page } = openPage();
    newClient({ reconnection: { initialDelay: 20_000 } });
    await pass();
    latest().end(1006);
    sleep(HOUR_MS);
    page.dispatchEvent(new Event("pageshow"));
    await pass();
    expect(attempts()).toBe(2);
  });

  it("gives up an attempt that hung in its sleep", async () => {
    pick(0);
    const { page } = openPage();
    const client = newClient();
    await pass();
    sleep(HOUR_MS);
    page.dispatchEvent(new Event("online"));
    await pass();
    expect([attempts(), client.getState()]).toEqual([2, "connecting"]);
  });

  it("goes on pinging when the clock was set back", async () => {
    const { client, socket } = await connected();
    await pass(1_000);
    sleep(-HOUR_MS);
    for (let n = 0; n < 5; n++) {
      await pass(5_000);
      socket.say({ type: "pong" });
    }
    expect(socket.pings).toBeGreaterThanOrEqual(5);
    expect([client.isConnected(), attempts()]).toEqual([true, 1]);
  });
});

describe("a page", () => {
  it.each(["visibilitychange", "pageshow", "focus", "online", "resume"])(
    "asks the peer at once on %s, with a short deadline",
    async (type) => {
      const { page } = openPage();
      const { client, socket } = await connected({ pingInterval: 25_000, pongTimeout: 20_000 });
      await pass(10);
      page.dispatchEvent(new Event(type));
      expect(socket.pings).toBe(1);
      await pass(2_499);
      expect(client.isConnected()).toBe(true);
      await pass(1);
      expect(client.getState()).toBe("reconnecting");
    },
  );

  it("asks once when several of these come together", async () => {
    const { page } = openPage();
    const { client, socket } = await connected();
    for (const type of ["visibilitychange", "pageshow", "focus", "focus"]) {
      page.dispatchEvent(new Event(type));
      await pass(100);
    }
    expect(socket.pings).toBe(1);
    socket.say({ type: "pong" });
    await pass(4_000);
    expect(client.isConnected()).toBe(true);
  });

  it("gives the peer its full time again once it has answered", async () => {
    const { page } = openPage();
    const { client, socket } = await connected({ pingInterval: 10_000, pongTimeout: 9_000 });
    page.dispatchEvent(new Event("focus"));
    socket.say({ type: "pong" });
    await pass(18_999);
    expect([client.isConnected(), socket.pings]).toEqual([true, 2]);
    await pass(1);
    expect(client.isConnected()).toBe(false);
  });

  it("that comes back connects at once, but not where the server asked for patience", async () => {
    pick(1);
    const { page } = openPage();
    const { socket } = await connected({ reconnection: { initialDelay: 20_000 } });
    socket.end(1006);
    page.dispatchEvent(new Event("online"));
    await pass();
    expect(attempts()).toBe(2);
    latest().end(1013);
    page.dispatchEvent(new Event("online"));
    await pass(1_000);
    expect(attempts()).toBe(2);
  });

  it("is let go of by disconnect, by close and by a refusal, and watched again after reconnect", async () => {
    const { listeners } = openPage();
    const { client, socket } = await connected();
    const watching = listeners();
    expect(watching).toBeGreaterThan(0);
    socket.end(1006);
    await pass(1_000);
    expect(attempts()).toBe(2);
    expect(listeners()).toBe(watching);
    client.disconnect();
    expect(listeners()).toBe(0);
    client.reconnect();
    await pass();
    expect(listeners()).toBe(watching);
    latest().end(4403);
    expect(listeners()).toBe(0);
    client.reconnect();
    client.close();
    await pass();
    expect(listeners()).toBe(0);
  });
});

describe("a hidden tab", () => {
  class FakeWorker {
    static all: FakeWorker[] = [];
    onmessage: (() => void) | null = null;
    delayMs: number | undefined;
    terminated = false;
    constructor() {
      FakeWorker.all.push(this);
    }
    postMessage(delayMs: number): void {
      this.delayMs = delayMs;
    }
    terminate(): void {
      this.terminated = true;
    }
  }

  async function hiddenClient(worker: unknown) {
    FakeWorker.all = [];
    vi.stubGlobal("Worker", worker);
    vi.stubGlobal("URL", Object.assign(URL, { createObjectURL: () => "blob:ticker" }));
    const { page, document } = openPage();
    const opened = await connected();
    expect(FakeWorker.all).toEqual([]);
    document.hidden = true;
    page.dispatchEvent(new Event("visibilitychange"));
    opened.socket.say({ type: "pong" });
    return { ...opened, page, document };
  }

  it("pings on time by a Worker's timer, and lets it go when it is seen again", async () => {
    const { client, socket, page, document } = await hiddenClient(FakeWorker);
    const [worker] = FakeWorker.all;
    if (!worker) throw new Error("No Worker was started");
    const before = socket.pings;
    // The page's own timers stand still: only the clock moves, and the Worker rings.
    const until = Date.now() + 20_000;
    while (Date.now() < until) {
      sleep(worker.delayMs ?? 0);
      worker.onmessage?.();
      socket.say({ type: "pong" });
    }
    expect([socket.pings - before, FakeWorker.all.length]).toEqual([4, 1]);
    document.hidden = false;
    page.dispatchEvent(new Event("visibilitychange"));
    expect([worker.terminated, client.isConnected()]).toEqual([true, true]);
  });

  it("pings by its own timers where no Worker may be started", async () => {
    let tries = 0;
    const { client, socket } = await hiddenClient(
      class {
        constructor() {
          tries++;
          throw new DOMException("refused by the page's policy", "SecurityError");
        }
      },
    );
    const before = socket.pings;
    for (let n = 0; n < 4; n++) {
      await pass(5_000);
      socket.say({ type: "pong" });
    }
    expect([socket.pings - before, tries, client.isConnected()]).toEqual([4, 1, true]);
  });

  it("stops its Worker on close", async () => {
    const { client } = await hiddenClient(FakeWorker);
    client.close();
    expect(FakeWorker.all.map(({ terminated }) => terminated)).toEqual([true]);
    expect(FakeWebSocket.all).toHaveLength(1);
  });
});
