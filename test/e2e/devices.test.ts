/** Devices as daemons and phones have them: `npm start`, curl, EventSource, the examples. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { connect as connectTcp, createServer as createTcpServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { EventSource } from "eventsource";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { VeraniClient } from "../../client/client.ts";
import { DeviceClient, watchDevices } from "../../client/devices.ts";
import type { DeviceInspection, Heartbeat } from "../../rooms/devices/contract.ts";
import { mintPresenceToken } from "../../rooms/devices/token.ts";
import { readDevVars } from "../../scripts/dev-vars.ts";
import { type Server, startServer } from "./server.ts";

const PROJECT = fileURLToPath(new URL("../..", import.meta.url));
const FLUSH_MS = 2_000;

let server: Server;
beforeAll(async () => {
  server = await startServer({ vars: { PRESENCE_DO_KEEPALIVE_FLUSH_MS: `${FLUSH_MS}` } });
});
/** Ends what the tests opened. They run side by side, so it waits for the last of them. */
const endings: (() => void)[] = [];
afterAll(async () => {
  for (const end of endings) end();
  await server?.stop();
});

const secrets = readDevVars();

function beatOf(changes: Partial<Heartbeat> = {}): Heartbeat {
  return {
    schema_version: 1,
    user_id: randomUUID(),
    device_id: randomUUID(),
    status: "online",
    source: "e2e",
    sent_at_ms: Date.now(),
    seq: 1,
    ttl_ms: 300_000,
    ...changes,
  };
}

async function beat(body: Heartbeat): Promise<number> {
  const response = await fetch(`${server.url}/api/v1/daemon/presence/heartbeat`, {
    method: "POST",
    headers: { Authorization: `Bearer ${secrets.PRESENCE_DO_INGEST_TOKEN}` },
    body: JSON.stringify(body),
  });
  return response.status;
}

async function tokenFor(user_id: string): Promise<string> {
  const grant = { user_id, device_id: randomUUID() };
  return (await mintPresenceToken(grant, secrets.PRESENCE_DO_TOKEN_SIGNING_KEY ?? "")).token;
}

async function streamUrl(user_id: string): Promise<string> {
  const path = `/api/v1/mobile/presence/stream?user_id=${user_id}`;
  return `${server.url}${path}&token=${await tokenFor(user_id)}`;
}

async function ask<T>(path: string): Promise<T> {
  return (await (await fetch(server.url + path)).json()) as T;
}
const inspect = (userId: string) => ask<DeviceInspection>(`/debug/presence?user_id=${userId}`);
const actorOf = (userId: string) =>
  ask<{ instance: string; starts: number; wakeUps: { alarm: number } }>(
    `/debug/actors/devices/${userId}`,
  );

/** A process whose output is read, and which ends with the test. */
class Running {
  output = "";
  readonly process: ChildProcess;
  readonly ended: Promise<number | null>;

  constructor(command: string, args: string[]) {
    this.process = spawn(command, args, { cwd: PROJECT, stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.output += text;
      });
    }
    this.ended = new Promise((resolve) => this.process.once("exit", resolve));
    endings.push(() => this.process.kill("SIGKILL"));
  }

  saw(text: string, timeout = 15_000): Promise<void> {
    return vi.waitFor(() => expect(this.output).toContain(text), { timeout, interval: 50 });
  }
}

/** A stream by the specification: `eventsource`. */
async function watch(user_id: string): Promise<{ events: Heartbeat[]; source: EventSource }> {
  const source = new EventSource(await streamUrl(user_id));
  endings.push(() => source.close());
  const events: Heartbeat[] = [];
  source.onmessage = ({ data }) => events.push(JSON.parse(data));
  await vi.waitFor(() => expect(source.readyState).toBe(EventSource.OPEN), { timeout: 10_000 });
  return { events, source };
}

describe.concurrent("by hand, as the README has it", () => {
  it("a daemon is seen online, and offline once it stops", async () => {
    const user = randomUUID();
    const token = execFileSync("npm", ["run", "-s", "token", "--", "--user", user], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    }).trim();
    const url = `${server.url}/api/v1/mobile/presence/stream?user_id=${user}`;
    const curl = new Running("curl", ["-sN", "-H", `Authorization: Bearer ${token}`, url]);
    await curl.saw(":");
    const sent = beatOf({ user_id: user, ttl_ms: 2_000 });
    expect(await beat(sent)).toBe(204);
    await curl.saw(`data: ${JSON.stringify(sent)}\n\n`);
    await curl.saw('"status":"offline"', 6_000);
  });

  it.each([
    ["by its socket", []],
    ["over HTTP", ["--http"]],
  ])("the example's daemon and watcher do the same %s; Ctrl-C says goodbye", async (_, how) => {
    const user = randomUUID();
    const device = randomUUID();
    const node = `${PROJECT}/node_modules/.bin/node`;
    const watcher = new Running(node, [
      "examples/daemon/watch.ts",
      ...["--user", user, "--url", server.url],
    ]);
    const daemon = new Running(node, [
      "examples/daemon/daemon.ts",
      ...["--user", user, "--device", device, "--url", server.url, "--ttl", "3000", ...how],
    ]);
    await daemon.saw(`online by ${how.length > 0 ? "http" : "socket"}`);
    // Whichever heartbeat is the first that the watcher sees.
    await watcher.saw(`${device} online (example-daemon,`);
    daemon.process.kill("SIGINT");
    await watcher.saw(`${device} offline`);
    expect(await daemon.ended).toBe(0);
  });

  it("the daemon in a shell does the same with curl and a token of its own", async () => {
    const user = randomUUID();
    const device = randomUUID();
    const grant = { user_id: user, device_id: device, scope: ["presence:heartbeat"] };
    const key = secrets.PRESENCE_DO_TOKEN_SIGNING_KEY ?? "";
    const { token } = await mintPresenceToken(grant, key);
    const { events } = await watch(user);
    const daemon = new Running("env", [
      `DAEMON_TOKEN=${token}`,
      ...["sh", "examples/daemon/daemon.sh", user, device, server.url],
    ]);
    const seen = (status: string) =>
      vi.waitFor(() => expect(events.at(-1)).toMatchObject({ device_id: device, status }), {
        timeout: 10_000,
      });
    await seen("online");
    daemon.process.kill("SIGTERM");
    await seen("offline");
    expect(await daemon.ended, daemon.output).toBe(0);
  });
});

/** A line to the server that can be made to swallow all that is sent over it, as a dead network does. */
class Line {
  isDead = false;
  port = 0;
  readonly #server = createTcpServer((client) => {
    const upstream = connectTcp(server.port, "127.0.0.1");
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      from.on("data", (data) => {
        if (!this.isDead) to.write(data);
      });
      from.on("error", () => {});
      from.on("close", () => {
        if (!this.isDead) to.destroy();
      });
    }
    endings.push(
      () => client.destroy(),
      () => upstream.destroy(),
    );
  });

  async open(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    endings.push(() => this.#server.close());
    this.port = (this.#server.address() as { port: number }).port;
    return `http://127.0.0.1:${this.port}`;
  }
}

describe.concurrent("a device that beats by a socket", () => {
  const deviceAt = (url: string, userId: string, more: object = {}) => {
    const token = secrets.PRESENCE_DO_INGEST_TOKEN ?? "";
    const device = new DeviceClient({ url, userId, deviceId: randomUUID(), token, ...more });
    endings.push(() => void device.close());
    return device;
  };
  const online = (device: DeviceClient) =>
    vi.waitFor(() => expect([device.state, device.via]).toEqual(["online", "socket"]), {
      timeout: 10_000,
    });
  const listed = async (userId: string) => {
    const token = await tokenFor(userId);
    const path = `/api/v1/mobile/presence?user_id=${userId}&token=${token}`;
    return (await ask<{ devices: Heartbeat[] }>(path)).devices;
  };

  it("and whose network disappears is offline within its ttl and 3 s for who watches by stream and by client", {
    tags: ["slow"],
  }, async () => {
    const userId = randomUUID();
    const line = new Line();
    const { events } = await watch(userId);
    const device = deviceAt(await line.open(), userId, { ttlMs: 6_000 });
    await online(device);
    const token = await tokenFor(userId);
    const url = `${server.wsUrl}/ws/devices?user_id=${userId}`;
    const shown = watchDevices(url, { token, onDevices() {} });
    endings.push(() => shown.close());
    await vi.waitFor(() => expect(shown.devices).toMatchObject([{ status: "online" }]));
    // It is asked about meanwhile, and stays online by its pings.
    await sleep(9_000);
    expect(events.map(({ status }) => status)).toEqual(["online"]);
    line.isDead = true;
    const deadMs = Date.now();
    await vi.waitFor(() => expect(events.at(-1)?.status).toBe("offline"), { timeout: 12_000 });
    expect(Date.now() - deadMs).toBeLessThan(9_000);
    await vi.waitFor(() => expect(shown.devices).toMatchObject([{ status: "offline" }]));
  });

  it("and whose network disappears wakes nobody while nobody watches, and the next answer has it offline", {
    tags: ["slow"],
  }, async () => {
    const userId = randomUUID();
    const line = new Line();
    const device = deviceAt(await line.open(), userId, { ttlMs: 6_000 });
    await online(device);
    const before = await actorOf(userId);
    line.isDead = true;
    await sleep(25_000);
    const [known] = await listed(userId);
    expect(known).toMatchObject({ status: "offline" });
    const after = await actorOf(userId);
    // It slept, and the question woke it: no alarm did before.
    expect(after.starts).toBe(before.starts + 1);
    expect(after.wakeUps.alarm).toBe(0);
  });
});

describe.concurrent("streams", () => {
  it("survive the actor's sleep, do not keep it awake, and a heartbeat wakes a new instance", {
    tags: ["slow"],
  }, async () => {
    const sent = beatOf();
    await beat(sent);
    const watchers = await Promise.all(Array.from({ length: 10 }, () => watch(sent.user_id)));
    const before = await actorOf(sent.user_id);
    const text = await heardBy(sent.user_id, async () => {
      // The runtime lets an idle actor go after 10 s: who wakes it within a minute starts it anew.
      await sleep(60_000);
    });
    expect(text.match(/^: keep-alive$/gm)?.length).toBeGreaterThanOrEqual(7);
    expect(await beat({ ...sent, seq: 2 })).toBe(204);
    for (const { events, source } of watchers) {
      await vi.waitFor(() => expect(events.map(({ seq }) => seq)).toEqual([1, 2]), {
        timeout: 5_000,
      });
      expect(source.readyState).toBe(EventSource.OPEN);
    }
    const after = await actorOf(sent.user_id);
    expect(after.instance).not.toBe(before.instance);
    // One start for the heartbeat, none for pings, comments or alarms.
    expect(after.starts).toBe(before.starts + 1);
  });

  it("of clients that vanish are gone within 20 s", { tags: ["slow"] }, async () => {
    const { user_id } = beatOf();
    const url = await streamUrl(user_id);
    const curls = Array.from({ length: 3 }, () => new Running("curl", ["-sN", url]));
    const { source } = await watch(user_id);
    await vi.waitFor(async () => expect((await inspect(user_id)).active_streams).toBe(4));
    for (const curl of curls) curl.process.kill("SIGKILL");
    source.close();
    await vi.waitFor(async () => expect((await inspect(user_id)).active_streams).toBe(0), {
      timeout: 20_000,
      interval: 500,
    });
  });

  it("of a reader that stops reading are cut off, at a bounded cost", async () => {
    const sent = beatOf();
    const { pathname, search } = new URL(await streamUrl(sent.user_id));
    const idle = connectTcp(server.port, "127.0.0.1");
    endings.push(() => idle.destroy());
    idle.write(`GET ${pathname}${search} HTTP/1.1\r\nHost: test\r\n\r\n`);
    await new Promise((resolve) => idle.once("data", resolve));
    idle.pause();
    const from = server.logs.length;
    // What the kernel and the development proxy take comes on top.
    const source = "x".repeat(64);
    let gone = false;
    for (let round = 0; round < 400 && !gone; round++) {
      const heartbeats = Array.from({ length: 500 }, (_, i) => ({
        ...sent,
        seq: round * 500 + i + 1,
        source,
      }));
      const response = await fetch(`${server.url}/api/v1/daemon/presence/heartbeats`, {
        method: "POST",
        headers: { Authorization: `Bearer ${secrets.PRESENCE_DO_INGEST_TOKEN}` },
        body: JSON.stringify({ heartbeats }),
      });
      expect(response.status).toBe(200);
      gone = server.logs.slice(from).includes("stream_cut_off");
    }
    await server.waitForLog("stream_cut_off", 5_000, from);
    await vi.waitFor(async () => expect((await inspect(sent.user_id)).active_streams).toBe(0));
  });

  it("are what a VeraniClient hears as well", async () => {
    const sent = beatOf();
    await beat(sent);
    const token = await tokenFor(sent.user_id);
    const url = `${server.wsUrl}/ws/devices?user_id=${sent.user_id}&token=${token}`;
    const client = new VeraniClient(url);
    endings.push(() => client.disconnect());
    const heard: unknown[] = [];
    client.on("device.sync", (data: { devices: Heartbeat[] }) => heard.push(data.devices));
    client.on("device.update", (data: Heartbeat) => heard.push(data.seq));
    await vi.waitFor(() => expect(heard).toEqual([[sent]]), { timeout: 5_000 });
    await beat({ ...sent, seq: 2 });
    await vi.waitFor(() => expect(heard).toEqual([[sent], 2]), { timeout: 5_000 });
  });
});

async function heardBy(userId: string, task: () => Promise<void>): Promise<string> {
  const curl = new Running("curl", ["-sN", await streamUrl(userId)]);
  await curl.saw(":");
  await task();
  curl.process.kill("SIGKILL");
  return curl.output;
}

describe("a power cut", { tags: ["slow"] }, () => {
  it("gives a device that beats by a socket its ttl to come back, and then takes it for dead", async () => {
    const [alive, dead] = [beatOf({ ttl_ms: 6_000 }), beatOf({ ttl_ms: 6_000 })];
    const line = new Line();
    const token = secrets.PRESENCE_DO_INGEST_TOKEN ?? "";
    const devices = [server.url, await line.open()].map((url, i) => {
      const { user_id: userId, device_id: deviceId } = i === 0 ? alive : dead;
      const device = new DeviceClient({ url, userId, deviceId, token, ttlMs: 6_000 });
      endings.push(() => void device.close());
      return device;
    });
    for (const device of devices) {
      await vi.waitFor(() => expect(device.state).toBe("online"), { timeout: 10_000 });
    }
    line.isDead = true;
    await server.kill();
    await server.restart();
    const watching = [await watch(alive.user_id), await watch(dead.user_id)];
    await vi.waitFor(() => expect(watching[1]?.events.at(-1)?.status).toBe("offline"), {
      timeout: 12_000,
    });
    const statuses = watching[0]?.events.map(({ status }) => status);
    expect(new Set(statuses)).toEqual(new Set(["online"]));
  });

  it("makes no beating device offline, and a dead one at most the flush time later", async () => {
    const alive = beatOf({ ttl_ms: 2_500 });
    await beat(alive);
    await sleep(1_000);
    // In memory only: what is stored would have the device offline at 2.5 s.
    await beat({ ...alive, seq: 2 });
    const heard = Date.now();
    expect((await inspect(alive.user_id)).dirty_devices).toBe(1);
    await server.kill();
    await server.restart();
    const back = Date.now();
    const { events } = await watch(alive.user_id);
    await vi.waitFor(() => expect(events.at(-1)?.status).toBe("offline"), { timeout: 15_000 });
    const goneAfterMs = (events.at(-1)?.sent_at_ms ?? 0) - heard;
    expect(goneAfterMs).toBeGreaterThanOrEqual(alive.ttl_ms);
    // A server that comes back later than that sees it as soon as it is back.
    expect(goneAfterMs).toBeLessThan(Math.max(alive.ttl_ms + FLUSH_MS, back - heard) + 2_000);
  });
});
