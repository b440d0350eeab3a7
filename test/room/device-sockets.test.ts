import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import type { Heartbeat } from "../../rooms/devices/contract.ts";
import { BEARER, beat, beatOf, inspect, list, Stream, tokenFor } from "./device-fixture.ts";
import { connect, type TestSocket, upgrade } from "./socket.ts";

const stubOf = (userId: string) => env.DEVICES.getByName(userId);
const sleep = (userId: string) => evictDurableObject(stubOf(userId));
const crash = (userId: string) => evictDurableObject(stubOf(userId), { webSockets: "close" });

type Device = Pick<Heartbeat, "user_id" | "device_id">;
const pathOf = ({ user_id, device_id }: Device): string =>
  `/ws/devices/beat?user_id=${user_id}&device_id=${device_id}`;

function openBeats(device: Device, query = ""): Promise<TestSocket> {
  return connect(null, pathOf(device) + query, BEARER);
}

/** A device whose socket has told that it is online. */
async function online(changes: Partial<Heartbeat> = {}): Promise<[TestSocket, Heartbeat]> {
  const sent = beatOf(changes);
  const socket = await openBeats(sent);
  socket.send(JSON.stringify(sent));
  await socket.caughtUp();
  return [socket, sent];
}

async function watcher(userId: string, query = "&probe_devices=1"): Promise<TestSocket> {
  const token = await tokenFor(userId);
  const socket = await connect(null, `/ws/devices?user_id=${userId}&token=${token}${query}`);
  await socket.event("device.sync");
  return socket;
}

const wakeUps = (userId: string) =>
  runInDurableObject(stubOf(userId), (actor) => (actor as never as Inspected).inspect().wakeUps);
interface Inspected {
  inspect(): { wakeUps: Record<string, number> };
}

function setClock(): (aheadMs: number) => void {
  const startMs = Date.now();
  vi.useFakeTimers({ toFake: ["Date"], now: startMs });
  onTestFinished(() => {
    vi.useRealTimers();
  });
  return (aheadMs) => vi.setSystemTime(startMs + aheadMs);
}

describe("a device that beats by a socket", () => {
  it("is online from its first frame, bare or as an event, and as it says with each change", async () => {
    const [socket, sent] = await online();
    expect(await list(sent.user_id)).toEqual([sent]);
    const change = { ...sent, seq: 2, source: "other" };
    socket.emit("device.beat", change);
    await socket.caughtUp();
    expect(await list(sent.user_id)).toEqual([change]);
    socket.send(JSON.stringify({ ...change, seq: 3, status: "offline" }));
    await socket.caughtUp();
    expect(await list(sent.user_id)).toEqual([{ ...change, seq: 3, status: "offline" }]);
    socket.send(JSON.stringify({ ...change, seq: 4 }));
    await socket.caughtUp();
    expect(await list(sent.user_id)).toEqual([{ ...change, seq: 4 }]);
    await socket.close();
  });

  it("costs one row, and no alarm, for as long as it stays", async () => {
    const [socket, sent] = await online({ ttl_ms: 35_000 });
    const { alarm, stats } = await inspect(sent.user_id);
    expect(alarm).toBeNull();
    expect(stats).toMatchObject({ storage_puts_total: 1, set_alarm_total: 0 });
    const before = await wakeUps(sent.user_id);
    for (let i = 0; i < 20; i++) socket.send('{"type":"ping"}');
    await socket.until(
      () => socket.received.filter(({ event }) => event === "pong").length >= 20,
      "pongs",
    );
    expect((await wakeUps(sent.user_id)).message).toBe(before.message);
    await socket.close();
  });

  it("stays online while its pings come, which the runtime answers, and after each sleep", async () => {
    const [socket, sent] = await online({ ttl_ms: 1_500 });
    for (let i = 0; i < 4; i++) {
      await scheduler.wait(600);
      socket.send('{"type":"ping"}');
      await sleep(sent.user_id);
      expect(await list(sent.user_id)).toEqual([sent]);
    }
    await socket.close();
  });

  it("turns offline at once when its socket closes with 1000, awake or asleep", async () => {
    for (const asleep of [false, true]) {
      const [socket, sent] = await online();
      const phone = await watcher(sent.user_id);
      if (asleep) await sleep(sent.user_id);
      await socket.close(1000);
      const { sent_at_ms, ...event } = await phone.event("device.update");
      expect(event).toMatchObject({ device_id: sent.device_id, status: "offline", seq: 1 });
      expect(Math.abs(sent_at_ms - Date.now())).toBeLessThan(2_000);
      await phone.close();
    }
  });

  it("turns offline its ttl after its socket closed with any other code, by the alarm", async () => {
    for (const asleep of [false, true]) {
      const [socket, sent] = await online({ ttl_ms: 900 });
      if (asleep) await sleep(sent.user_id);
      await socket.close(3_001);
      const closedMs = Date.now();
      expect(await list(sent.user_id)).toMatchObject([{ status: "online" }]);
      const phone = await watcher(sent.user_id, "");
      const { sent_at_ms } = await phone.event(
        "device.update",
        ({ status }) => status === "offline",
      );
      expect(sent_at_ms - closedMs).toBeGreaterThan(700);
      expect(sent_at_ms - closedMs).toBeLessThan(1_900);
      await phone.close();
    }
  });

  it("stays online for watchers when it opens a new socket within its ttl", async () => {
    const [socket, sent] = await online({ ttl_ms: 60_000 });
    const phone = await watcher(sent.user_id);
    await socket.close(3_001);
    const again = await openBeats(sent);
    again.send(JSON.stringify({ ...sent, seq: 2 }));
    await again.caughtUp();
    await phone.caughtUp();
    const statuses = phone.received.flatMap(({ event, data }) =>
      event === "device.update" ? [data.status] : [],
    );
    expect(statuses).toEqual(["online"]);
    await runDurableObjectAlarm(stubOf(sent.user_id));
    expect(await list(sent.user_id)).toMatchObject([{ status: "online" }]);
    await again.close();
  });

  it("stays online while one of two sockets is open, and with it its pings", async () => {
    const [first, sent] = await online();
    const second = await openBeats(sent);
    second.send(JSON.stringify({ ...sent, seq: 2 }));
    await second.caughtUp();
    await first.close(1000);
    expect(await list(sent.user_id)).toMatchObject([{ status: "online" }]);
    await second.close(1000);
    expect(await list(sent.user_id)).toMatchObject([{ status: "offline" }]);
  });
});

describe("a device whose network disappears", () => {
  it("sets no alarm, and is offline in the first snapshot after its ttl", async () => {
    const go = setClock();
    const [socket, sent] = await online({ ttl_ms: 35_000 });
    go(3_600_000);
    expect(await runDurableObjectAlarm(stubOf(sent.user_id))).toBe(false);
    await sleep(sent.user_id);
    const [device] = await list(sent.user_id);
    expect(device).toMatchObject({ status: "offline", sent_at_ms: Date.now() });
    expect(await socket.ended()).toMatchObject({ code: 4408 });
  });

  it("turns offline for a watcher that probes at the time it received, also after the actor slept", async () => {
    const go = setClock();
    const [, sent] = await online({ ttl_ms: 35_000 });
    const phone = await watcher(sent.user_id);
    const { in_ms } = await phone.event("device.probe");
    expect(in_ms).toBeGreaterThan(34_000);
    expect(in_ms).toBeLessThan(36_300);
    await sleep(sent.user_id);
    go(in_ms - 2_000);
    phone.emit("device.probe");
    const { in_ms: rest } = await phone.event("device.probe");
    expect(rest).toBeLessThan(3_400);
    go(in_ms + 1_500);
    phone.emit("device.probe");
    await phone.event("device.update", ({ status }) => status === "offline");
    await phone.caughtUp();
    expect(phone.received.filter(({ event }) => event === "device.probe")).toHaveLength(2);
    expect((await inspect(sent.user_id)).records[`device:${sent.device_id}`]).toMatchObject({
      status: "offline",
      last_offline_ms: Date.now(),
    });
  });

  it("that comes online is probed for by a watcher who connected when nothing was due, though it had been due before", async () => {
    setClock();
    const [first, sent] = await online({ ttl_ms: 2_000 });
    await first.close(1_000);
    const phone = await watcher(sent.user_id);
    await online({ ...sent, seq: 2 });
    const { in_ms } = await phone.event("device.probe");
    expect(in_ms).toBeLessThan(4_000);
  });

  it("is offline in an open stream within its ttl and 3 s, since the stream's Worker probes", async () => {
    const [, sent] = await online({ ttl_ms: 1_000 });
    const stream = await Stream.open(sent.user_id);
    const { sent_at_ms } = await stream.next(({ status }) => status === "offline");
    expect(sent_at_ms - sent.sent_at_ms).toBeLessThan(4_000);
    await stream.cancel();
  });

  it("is offline in a stream that was opened before the device connected, also after the actor slept", async () => {
    const sent = beatOf({ ttl_ms: 1_000 });
    const stream = await Stream.open(sent.user_id);
    const socket = await openBeats(sent);
    socket.send(JSON.stringify(sent));
    await stream.next(({ status }) => status === "online");
    await sleep(sent.user_id);
    await stream.next(({ status }) => status === "offline");
    await stream.cancel();
  });

  it("is found by an alarm when a watcher does not probe", async () => {
    const [, sent] = await online({ ttl_ms: 700 });
    const phone = await watcher(sent.user_id, "");
    expect((await inspect(sent.user_id)).alarm).not.toBeNull();
    await phone.event("device.update", ({ status }) => status === "offline");
    await phone.close();
  });

  it("turns offline by an alarm after its last heartbeat, when it went on over HTTP", async () => {
    const [, sent] = await online({ ttl_ms: 800 });
    await scheduler.wait(500);
    expect((await beat({ ...sent, seq: 2 })).status).toBe(204);
    const heardMs = Date.now();
    const phone = await watcher(sent.user_id, "");
    const { sent_at_ms } = await phone.event("device.update", ({ status }) => status === "offline");
    expect(sent_at_ms - heardMs).toBeGreaterThan(700);
    expect(sent_at_ms - heardMs).toBeLessThan(1_900);
    await phone.close();
  });
});

describe("after a crash", () => {
  it("a device that beats by a socket has its ttl to come back", async () => {
    const go = setClock();
    const [, sent] = await online({ ttl_ms: 35_000 });
    go(3_600_000);
    await crash(sent.user_id);
    expect(await list(sent.user_id)).toMatchObject([{ status: "online" }]);
    await sleep(sent.user_id);
    go(3_600_000 + 34_000);
    expect(await list(sent.user_id)).toMatchObject([{ status: "online" }]);
    go(3_600_000 + 35_000);
    await runDurableObjectAlarm(stubOf(sent.user_id));
    expect(await list(sent.user_id)).toMatchObject([{ status: "offline" }]);
  });

  it("a device whose keep-alives are nowhere but in the alarm is not taken for dead, and a dead one is found", async () => {
    const sent = beatOf({ ttl_ms: 2_000 });
    for (let seq = 1; seq <= 8; seq++) {
      await beat({ ...sent, seq });
      await scheduler.wait(400);
    }
    const heardMs = Date.now() - 400;
    // Another isolate finds it, by the alarm: what was in memory is lost.
    await runInDurableObject(stubOf(sent.user_id), (_, { storage }) =>
      storage.kv.put("held", { held: true, isolate: "another", v: 1 }),
    );
    await sleep(sent.user_id);
    expect(await list(sent.user_id)).toMatchObject([{ status: "online" }]);
    await sleep(sent.user_id);
    const stream = await Stream.open(sent.user_id);
    expect((await inspect(sent.user_id)).next_expiry_ms).toBeGreaterThanOrEqual(heardMs + 2_000);
    await stream.cancel();
  });
});

describe("heartbeats by a socket", () => {
  it("and over HTTP are in one order", async () => {
    const [socket, sent] = await online({ seq: 5 });
    expect((await beat(sent)).status).toBe(409);
    expect((await beat({ ...sent, seq: 6 })).status).toBe(204);
    socket.send(JSON.stringify({ ...sent, seq: 6 }));
    expect(await socket.event("error")).toMatchObject({ code: "conflict" });
    socket.send(JSON.stringify({ ...sent, seq: 7, status: "offline" }));
    await socket.caughtUp();
    expect(await list(sent.user_id)).toMatchObject([{ status: "offline", seq: 7 }]);
    await socket.close();
  });

  it("are answered for who gives them an id", async () => {
    const sent = beatOf();
    const socket = await openBeats(sent, "&v=3");
    expect(await socket.ask("device.beat", sent)).toMatchObject({ type: "ack" });
    expect(await socket.ask("device.beat", sent)).toMatchObject({ error: { code: "conflict" } });
    await socket.close();
  });

  it.each([
    ["of another device", { device_id: crypto.randomUUID() }, "forbidden"],
    ["of another user", { user_id: crypto.randomUUID() }, "forbidden"],
    ["with a bad ttl", { ttl_ms: 0 }, "invalid_payload"],
    ["with a status of its own", { status: "away" }, "invalid_payload"],
    ["of another schema", { schema_version: 2 }, "invalid_payload"],
  ])("%s are refused with an error, and change nothing", async (_, changes, code) => {
    const sent = beatOf();
    const socket = await openBeats(sent);
    socket.send(JSON.stringify({ ...sent, ...changes }));
    expect(await socket.event("error")).toMatchObject({ code });
    expect(await list(sent.user_id)).toEqual([]);
    await socket.close();
  });

  it("that are no frame are refused with an error", async () => {
    const sent = beatOf();
    const socket = await openBeats(sent);
    for (const text of ["{", "[]", '{"schema_version":1', '{"schema_version":1,"__proto__":{}}']) {
      socket.send(text);
      expect(await socket.event("error")).toMatchObject({ code: "bad_frame" });
    }
    socket.send("ping");
    await socket.event("pong");
    await socket.close();
  });

  it("are refused from watchers, and probes are refused from daemons and from watchers without probe_devices", async () => {
    const [socket, sent] = await online();
    socket.emit("device.probe");
    expect(await socket.event("error")).toMatchObject({ code: "forbidden" });
    const phone = await watcher(sent.user_id, "");
    phone.send(JSON.stringify({ ...sent, seq: 9 }));
    expect(await phone.event("error")).toMatchObject({ code: "forbidden" });
    phone.emit("device.probe");
    expect(await phone.event("error")).toMatchObject({ code: "forbidden" });
    expect(await list(sent.user_id)).toEqual([sent]);
    await Promise.all([socket.close(), phone.close()]);
  });
});

describe("who opens a socket for heartbeats", () => {
  it("needs the ingest token or the device's own, in the header, as a subprotocol or in the URL", async () => {
    const sent = beatOf();
    const scope = ["presence:heartbeat"];
    const { mintPresenceToken } = await import("../../rooms/devices/token.ts");
    const own = async (device: Device) =>
      (await mintPresenceToken({ ...device, scope }, env.PRESENCE_DO_TOKEN_SIGNING_KEY)).token;
    const token = await own({ user_id: sent.user_id, device_id: sent.device_id });
    const ask = async (headers: Record<string, string>, query = "") =>
      (await upgrade(null, pathOf(sent) + query, headers)).status;
    const { subprotocolsFor } = await import("../../src/wire/subprotocol.ts");
    expect(await ask(BEARER)).toBe(101);
    expect(await ask({ Authorization: `Bearer ${token}` })).toBe(101);
    expect(await ask({}, `&token=${token}`)).toBe(101);
    expect(await ask({ "Sec-WebSocket-Protocol": subprotocolsFor(token).join(", ") })).toBe(101);
    expect(await ask({})).toBe(401);
    expect(await ask({ Authorization: "Bearer wrong" })).toBe(401);
    expect(await ask({ Authorization: `Bearer ${await tokenFor(sent.user_id)}` })).toBe(401);
    const others = await own(beatOf({ user_id: sent.user_id }));
    expect(await ask({ Authorization: `Bearer ${others}` })).toBe(403);
    const bad = `/ws/devices/beat?user_id=${sent.user_id}&device_id=X`;
    expect((await upgrade(null, bad, BEARER)).status).toBe(400);
  });

  it("is refused by the actor itself, however it is reached", async () => {
    const sent = beatOf();
    const query = `user_id=${sent.user_id}&device_id=${sent.device_id}&beats=`;
    const stub = stubOf(sent.user_id) as never;
    expect((await upgrade(stub, `/ws/devices?${query}`)).status).toBe(401);
    const Authorization = `Bearer ${await tokenFor(sent.user_id)}`;
    expect((await upgrade(stub, `/ws/devices?${query}`, { Authorization })).status).toBe(401);
    expect((await upgrade(null, `/ws/devices?${query}`, { Authorization })).status).toBe(401);
  });

  it("loses it when the device's own token expires, and the device has its ttl to come back", async () => {
    const sent = beatOf();
    const token = await tokenFor(sent.user_id, { scope: ["presence:heartbeat"], ttlMs: 800 });
    const { verifyPresenceToken, signPresenceToken } = await import("../../rooms/devices/token.ts");
    const key = env.PRESENCE_DO_TOKEN_SIGNING_KEY;
    const claims = await verifyPresenceToken(token, key);
    const own = await signPresenceToken({ ...claims, device_id: sent.device_id }, key);
    const socket = await connect(null, pathOf(sent), { Authorization: `Bearer ${own}` });
    socket.send(JSON.stringify(sent));
    expect(await socket.ended()).toMatchObject({ code: 4401 });
    expect(await list(sent.user_id)).toMatchObject([{ status: "online" }]);
  });
});

describe("a socket that is dead and vouches for nothing", () => {
  it("is closed when its actor next has something to do", async () => {
    const go = setClock();
    const [spoken, sent] = await online({ status: "offline", ttl_ms: 35_000 });
    const silent = await openBeats(sent);
    await sleep(sent.user_id);
    go(50_000);
    await list(sent.user_id);
    expect([spoken.closed, silent.closed]).toEqual([null, null]);
    await sleep(sent.user_id);
    go(62_000);
    await list(sent.user_id);
    expect(await spoken.ended()).toMatchObject({ code: 4408 });
    expect(await silent.ended()).toMatchObject({ code: 4408 });
  });
});

describe("a socket that floods", () => {
  it("has its newest heartbeat count, a few rows a second, and is closed for more", async () => {
    const [socket, sent] = await online();
    const before = (await inspect(sent.user_id)).stats.storage_puts_total;
    for (let seq = 2; seq <= 9; seq++) {
      socket.send(JSON.stringify({ ...sent, seq, source: `source-${seq}` }));
    }
    await vi.waitFor(async () => expect(await list(sent.user_id)).toMatchObject([{ seq: 9 }]), {
      timeout: 3_000,
    });
    const { stats } = await inspect(sent.user_id);
    expect(stats.storage_puts_total - before).toBeLessThanOrEqual(6);
    for (let seq = 10; seq <= 500; seq++) socket.send(JSON.stringify({ ...sent, seq }));
    expect(await socket.ended()).toMatchObject({ code: 4429 });
  });
});
