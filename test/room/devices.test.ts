import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env, exports } from "cloudflare:workers";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import type { DeviceRecord } from "../../rooms/devices/contract.ts";
import { beat, beatAll, beatOf, inspect, list, Stream, tokenFor } from "./device-fixture.ts";
import { connect } from "./socket.ts";

const stubOf = (userId: string) => env.DEVICES.getByName(userId);
const evict = (userId: string) => evictDurableObject(stubOf(userId));

/** What stands in storage, whatever the actor has in memory. */
function stored(userId: string): Promise<Record<string, DeviceRecord>> {
  return runInDurableObject(stubOf(userId), (_, { storage }) =>
    Object.fromEntries(storage.kv.list<DeviceRecord>({ prefix: "device:" })),
  );
}

/** Waits, on the actor's own alarm, until the stream has told of `device_id` going offline. */
async function offline(stream: Stream, device_id: string): Promise<number> {
  await stream.next((event) => event.device_id === device_id && event.status === "offline");
  return Date.now();
}

const DAY_MS = 86_400_000;

describe("what is kept of a device", () => {
  it("is the heartbeat, and when it was last heard", async () => {
    const sent = beatOf({ sent_at_ms: 1_000 });
    const before = Date.now();
    await beat(sent);
    const { records } = await inspect(sent.user_id);
    const key = `device:${sent.device_id}`;
    const updated_at_ms = records[key]?.updated_at_ms ?? 0;
    expect(records).toEqual({
      [key]: { ...sent, last_heartbeat_ms: 1_000, last_offline_ms: null, updated_at_ms },
    });
    expect(updated_at_ms).toBeGreaterThanOrEqual(before);
    await beat({ ...sent, status: "offline", sent_at_ms: 2_000, seq: 2 });
    expect((await inspect(sent.user_id)).records[key]).toMatchObject({
      status: "offline",
      last_heartbeat_ms: 1_000,
      last_offline_ms: 2_000,
    });
  });

  it("outlives the actor's instance: first beats and every change are stored at once", async () => {
    const sent = beatOf();
    const changes = [{}, { source: "other" }, { ttl_ms: 50_000 }, { status: "offline" as const }];
    for (const [seq, change] of changes.entries()) {
      await beat({ ...sent, ...change, seq: seq + 1 });
      await evict(sent.user_id);
      expect(await list(sent.user_id)).toEqual([{ ...sent, ...change, seq: seq + 1 }]);
    }
  });

  it("is forgotten 30 days after the device went offline", async () => {
    const old = beatOf({ status: "offline" });
    const recent = { ...beatOf({ status: "offline" }), user_id: old.user_id };
    await beat(old);
    await beat(recent);
    const day = 24 * 3_600_000;
    await runInDurableObject(stubOf(old.user_id), (_, { storage }) => {
      for (const [device, days] of [
        [old, 30.01],
        [recent, 29.99],
      ] as const) {
        const key = `device:${device.device_id}`;
        const record = storage.kv.get<DeviceRecord>(key) as DeviceRecord;
        storage.kv.put(key, { ...record, updated_at_ms: Date.now() - days * day });
      }
    });
    await evict(old.user_id);
    expect(await list(old.user_id)).toEqual([recent]);
    expect(Object.keys(await stored(old.user_id))).toEqual([`device:${recent.device_id}`]);
  });
});

describe("a device that falls silent", () => {
  it("turns offline in time, after an eviction, with nobody connected", async () => {
    const sent = beatOf({ ttl_ms: 700 });
    await beat(sent);
    await evict(sent.user_id);
    await vi.waitFor(
      async () => {
        const record = (await stored(sent.user_id))[`device:${sent.device_id}`];
        expect(record?.status).toBe("offline");
        const lateMs = (record?.last_offline_ms ?? 0) - sent.sent_at_ms - sent.ttl_ms;
        expect(lateMs).toBeGreaterThanOrEqual(0);
        expect(lateMs).toBeLessThan(1_000);
      },
      { timeout: 4_000 },
    );
  });

  it("stays offline when its actor starts again under a phone that still watches", async () => {
    const sent = beatOf({ ttl_ms: 300 });
    await beat(sent);
    const stream = await Stream.open(sent.user_id);
    await offline(stream, sent.device_id);
    // The alarm stands for the phone's socket only.
    expect((await inspect(sent.user_id)).alarm).not.toBeNull();
    await evict(sent.user_id);
    expect(await list(sent.user_id)).toMatchObject([{ status: "offline" }]);
    await stream.cancel();
  });

  it("turns offline each in its own time, a hundred of one user in one actor", async () => {
    const { user_id } = beatOf();
    const heartbeats = Array.from({ length: 100 }, (_, i) =>
      beatOf({ user_id, ttl_ms: 500 + i * 15 }),
    );
    const stream = await Stream.open(user_id);
    const before = Date.now();
    await beatAll({ heartbeats });
    const received = Date.now();
    await evict(user_id);
    for (const { device_id, ttl_ms } of heartbeats) {
      const seen = await stream.next(
        (event) => event.device_id === device_id && event.status === "offline",
      );
      expect(seen.sent_at_ms - before).toBeGreaterThanOrEqual(ttl_ms);
      expect(seen.sent_at_ms - received).toBeLessThan(ttl_ms + 1_000);
    }
    const { alarm, next_expiry_ms, dirty_devices } = await inspect(user_id);
    expect({ next_expiry_ms, dirty_devices }).toEqual({ next_expiry_ms: null, dirty_devices: 0 });
    await stream.cancel();
    expect(alarm).not.toBeNull(); // The stream's token still expires.
  });

  it("stays online however wrong its clock is, as long as it beats", async () => {
    for (const hours of [-6, 6]) {
      const sent = beatOf({ ttl_ms: 600, sent_at_ms: Date.now() + hours * 3_600_000 });
      const stream = await Stream.open(sent.user_id);
      for (let seq = 1; seq <= 4; seq++) {
        await beat({ ...sent, seq, sent_at_ms: sent.sent_at_ms + seq });
        await stream.next((event) => event.seq === seq);
        await scheduler.wait(300);
      }
      expect(stream.events.map(({ status }) => status)).toEqual(Array(4).fill("online"));
      const goneMs = await offline(stream, sent.device_id);
      expect(Math.abs(goneMs - (stream.events.at(-1)?.sent_at_ms ?? 0))).toBeLessThan(1_000);
      // After an expiry it is the daemon's own last word that counts, not the server's clock.
      const back = { ...sent, seq: 5, sent_at_ms: sent.sent_at_ms + 5 };
      expect((await beat(back)).status).toBe(204);
      await stream.cancel();
    }
  });
});

describe("keep-alives", () => {
  it("cost at most two rows for a thousand within the flush time, and do not move the alarm", async () => {
    const sent = beatOf();
    await beat(sent);
    const before = (await inspect(sent.user_id)).stats;
    for (let i = 0; i < 4; i++) {
      const heartbeats = Array.from({ length: 250 }, (_, j) => ({ ...sent, seq: 2 + i * 250 + j }));
      await beatAll({ heartbeats });
    }
    const { stats, dirty_devices, next_flush_ms, records, alarm, next_alarm_ms } = await inspect(
      sent.user_id,
    );
    expect(stats.storage_puts_total - before.storage_puts_total).toBeLessThanOrEqual(2);
    expect(stats.set_alarm_total).toBe(before.set_alarm_total);
    expect(stats.delete_alarm_total).toBe(before.delete_alarm_total);
    expect(dirty_devices).toBe(1);
    const record = records[`device:${sent.device_id}`] as DeviceRecord;
    expect(next_flush_ms).toBe(record.updated_at_ms + 30_000);
    expect(next_alarm_ms).toBe(Date.parse(alarm ?? ""));
    expect(await list(sent.user_id)).toMatchObject([{ seq: 1_001 }]);
  });

  it("of two devices cost a row each 30 s for both together, which is that of the alarm, and it never rings", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    onTestFinished(() => {
      vi.useRealTimers();
    });
    const one = beatOf({ ttl_ms: 35_000 });
    const other = { ...beatOf({ ttl_ms: 35_000 }), user_id: one.user_id };
    const startMs = Date.now();
    for (let i = 0; i <= 30; i++) {
      for (const [device, offsetMs] of [
        [one, 0],
        [other, 4_000],
      ] as const) {
        vi.setSystemTime(startMs + i * 10_000 + offsetMs);
        await beat({ ...device, sent_at_ms: Date.now(), seq: i + 1 });
        expect((await inspect(one.user_id)).next_alarm_ms).toBeGreaterThan(Date.now());
      }
    }
    const { stats } = await inspect(one.user_id);
    expect(stats.storage_puts_total).toBe(2);
    expect(stats.set_alarm_total).toBe(1 + 10);
  });

  it("are stored all at once where the alarm stands too far away to prove them", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    onTestFinished(() => {
      vi.useRealTimers();
    });
    const devices = [1, 2, 3].map(() => beatOf({ ttl_ms: 600_000 }));
    const user_id = devices[0]?.user_id ?? "";
    const startMs = Date.now();
    for (let i = 0; i <= 12; i++) {
      vi.setSystemTime(startMs + i * 10_000);
      for (const device of devices) {
        await beat({ ...device, user_id, sent_at_ms: Date.now(), seq: i + 1 });
      }
    }
    const { stats, records } = await inspect(user_id);
    expect(stats.storage_puts_total).toBe(3 + 3);
    for (const { updated_at_ms } of Object.values(records)) {
      expect(Date.now() - updated_at_ms).toBeLessThanOrEqual(30_000);
    }
    await evict(user_id);
    expect((await list(user_id)).map(({ seq }) => seq)).toEqual([13, 13, 13]);
  });

  it("take no row for the deadline: it follows from the records, also after a sleep", async () => {
    const sent = beatOf({ ttl_ms: 900 });
    await beat(sent);
    await evict(sent.user_id);
    const rows = await runInDurableObject(stubOf(sent.user_id), (_, { storage }) =>
      [...storage.kv.list()].map(([key]) => key).filter((key) => key !== "rollcall:starts"),
    );
    expect(rows).toEqual([`device:${sent.device_id}`]);
    await vi.waitFor(
      async () => {
        const { status } = (await stored(sent.user_id))[`device:${sent.device_id}`] as DeviceRecord;
        expect(status).toBe("offline");
      },
      { timeout: 4_000 },
    );
    const { alarm } = await inspect(sent.user_id);
    expect(Date.parse(alarm ?? "") - Date.now()).toBeGreaterThan(29 * DAY_MS);
  });

  it("that a sleeping actor had not stored still count for the device", async () => {
    const sent = beatOf({ ttl_ms: 900 });
    const stream = await Stream.open(sent.user_id);
    await beat(sent);
    await scheduler.wait(500);
    const heard = Date.now();
    await beat({ ...sent, seq: 2 });
    expect((await inspect(sent.user_id)).dirty_devices).toBe(1);
    await evict(sent.user_id);
    // Nothing but the alarm wakes it now.
    const gone = await stream.next(({ status }) => status === "offline");
    expect(gone.seq).toBe(2);
    expect(gone.sent_at_ms - heard).toBeGreaterThanOrEqual(900);
    expect(gone.sent_at_ms - heard).toBeLessThan(1_900);
    await stream.cancel();
  });

  it("leave only the alarm that forgets them when the last device says goodbye", async () => {
    const sent = beatOf();
    await beat(sent);
    await beat({ ...sent, seq: 2 });
    const { alarm, next_expiry_ms } = await inspect(sent.user_id);
    expect(next_expiry_ms).toBeGreaterThan(Date.now() + 50_000);
    expect(Date.parse(alarm ?? "")).toBeLessThanOrEqual(next_expiry_ms ?? 0);
    await beat({ ...sent, seq: 3, status: "offline" });
    const after = await inspect(sent.user_id);
    expect((after.next_alarm_ms ?? 0) - Date.now()).toBeGreaterThan(29 * DAY_MS);
    expect(after).toMatchObject({
      next_expiry_ms: null,
      next_flush_ms: null,
      dirty_devices: 0,
    });
  });

  it("move the alarm only when it has to ring earlier", async () => {
    const sent = beatOf({ ttl_ms: 60_000 });
    await beat(sent);
    const first = await inspect(sent.user_id);
    await beat({ ...sent, seq: 2, ttl_ms: 80_000 });
    expect((await inspect(sent.user_id)).alarm).toBe(first.alarm);
    await beat({ ...sent, seq: 3, ttl_ms: 20_000 });
    const earlier = await inspect(sent.user_id);
    expect(earlier.next_alarm_ms).toBeLessThan(first.next_alarm_ms ?? 0);
    expect(earlier.stats.set_alarm_total).toBe(first.stats.set_alarm_total + 1);
  });
});

describe("heartbeats in a race", () => {
  it("end with the highest stored, the older refused, and no watcher sent back", async () => {
    const sent = beatOf();
    const stream = await Stream.open(sent.user_id);
    const seqs = Array.from({ length: 200 }, (_, i) => i + 1).sort(() => Math.random() - 0.5);
    const statuses = await Promise.all(
      seqs.map(async (seq) => (await beat({ ...sent, seq })).status),
    );
    await stream.next(({ seq }) => seq === 200);
    const told = stream.events.map(({ seq }) => seq);
    expect(told).toEqual(told.toSorted((a, b) => a - b));
    expect(statuses.filter((status) => status === 204)).toHaveLength(told.length);
    expect(new Set(statuses)).toEqual(new Set([204, 409]));
    expect(await list(sent.user_id)).toMatchObject([{ seq: 200 }]);
    await stream.cancel();
  });
});

describe("who watches", () => {
  it("goes on hearing after the actor slept, stream and socket alike", async () => {
    const sent = beatOf();
    await beat(sent);
    const stream = await Stream.open(sent.user_id);
    const path = `/ws/devices?user_id=${sent.user_id}&token=${await tokenFor(sent.user_id)}`;
    const socket = await connect(null, path);
    await socket.event("device.sync");
    await evict(sent.user_id);
    await beat({ ...sent, seq: 2 });
    await stream.next(({ seq }) => seq === 2);
    expect((await socket.event("device.update")).seq).toBe(2);
    expect((await inspect(sent.user_id)).active_streams).toBe(2);
    await socket.close();
    await stream.cancel();
  });
});

describe("a user's devices", () => {
  it("stay at most 100: the one that was offline for longest is forgotten for a new one", async () => {
    const first = beatOf({ status: "offline" });
    await beat(first);
    const others = Array.from({ length: 99 }, () => ({ ...beatOf(), user_id: first.user_id }));
    for (const one of others) expect((await beat(one)).status).toBe(204);
    const extra = { ...beatOf(), user_id: first.user_id };
    expect((await beat(extra)).status).toBe(204);
    const known = (await list(first.user_id)).map(({ device_id }) => device_id);
    expect(known).toHaveLength(100);
    expect(known).not.toContain(first.device_id);
    const refused = await beat({ ...beatOf(), user_id: first.user_id });
    expect(refused.status).toBe(400);
    expect(await refused.json()).toMatchObject({ error: "invalid_payload" });
  });

  it("take the right time again after a heartbeat whose clock was far ahead, and refuse one a day ahead", async () => {
    const now = Date.now();
    const ahead = beatOf({ sent_at_ms: now + 20 * 3_600_000, seq: 5 });
    expect((await beat(ahead)).status).toBe(204);
    expect((await beat({ ...ahead, sent_at_ms: now + 25 * 3_600_000, seq: 9 })).status).toBe(400);
    expect((await beat({ ...ahead, source: "x".repeat(65) })).status).toBe(400);
    expect((await beat({ ...ahead, sent_at_ms: ahead.sent_at_ms + 1, seq: 1 })).status).toBe(204);
  });

  it("are not locked by a record of an earlier release whose time is years ahead", async () => {
    const sent = beatOf();
    await beat(sent);
    const stub = env.DEVICES.getByName(sent.user_id);
    await runInDurableObject(stub, (_, state) => {
      const key = `device:${sent.device_id}`;
      const record = state.storage.kv.get(key) as object;
      const locked = { sent_at_ms: Date.now() + 300 * DAY_MS, seq: Number.MAX_SAFE_INTEGER };
      state.storage.kv.put(key, { ...record, ...locked });
    });
    await evict(sent.user_id);
    expect((await beat({ ...sent, seq: 2 })).status).toBe(204);
  });

  it("are forgotten after 30 days by an alarm, though nobody asks for them", async () => {
    const sent = beatOf({ status: "offline" });
    await beat(sent);
    await evict(sent.user_id);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 30 * DAY_MS + 1_000 });
    const stub = env.DEVICES.getByName(sent.user_id);
    await runDurableObjectAlarm(stub);
    await runInDurableObject(stub, (_, state) => {
      expect([...state.storage.kv.list({ prefix: "device:" })]).toEqual([]);
    });
    vi.useRealTimers();
  });

  it("are deleted with all else that is stored of a user, by a backend only", async () => {
    const sent = beatOf();
    await beat(sent);
    const worker = exports.default as { fetch(url: string, init: RequestInit): Promise<Response> };
    const remove = (headers: Record<string, string>) =>
      worker.fetch(`https://rollcall.test/api/v1/users/${sent.user_id}`, {
        method: "DELETE",
        headers,
      });
    expect((await remove({})).status).toBe(401);
    const bearer = { Authorization: `Bearer ${env.PRESENCE_DO_INGEST_TOKEN}` };
    expect((await remove(bearer)).status).toBe(204);
    expect((await remove(bearer)).status).toBe(204);
    expect(await list(sent.user_id)).toEqual([]);
    expect((await inspect(sent.user_id)).records).toEqual({});
  });
});
