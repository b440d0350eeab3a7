import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { beat, beatOf, inspect, list, Stream } from "../../room/device-fixture.ts";
import { recorded } from "../rows.ts";
import { broken, GARBAGE, NEXT, nextVersion, replaceMemory, rowsOf } from "./actor.ts";

const stubOf = (userId: string) => env.DEVICES.getByName(userId);
const FLUSH_MS = 30_000;

/** A user whose actor has the recorded rows, or what `change` makes of them, as of `agoMs` ago. */
async function user(
  change: (rows: Record<string, unknown>) => void = () => {},
  agoMs = 0,
): Promise<string> {
  const name = crypto.randomUUID();
  const { rows } = recorded("devices", { name, nowMs: Date.now() - agoMs });
  change(rows);
  await replaceMemory(stubOf(name), { rows });
  return name;
}

const DEVICES = [1, 2, 3].map((n) => `00000000-0000-4000-8000-00000000000${n}`);
const [first = "", second = "", third = ""] = DEVICES;
const RECORDED = [
  { device_id: first, status: "online", source: "daemon-do", seq: 1, ttl_ms: 60_000 },
  { device_id: second, status: "online", source: "daemon-do", seq: 1, ttl_ms: 60_000 },
  { device_id: third, status: "offline", source: "daemon-do", seq: 1, ttl_ms: 60_000 },
];

const recordKeys = (rows: Record<string, unknown>) =>
  Object.keys(rows).filter((key) => key.startsWith("device:"));

function raise(rows: Record<string, unknown>): void {
  for (const key of recordKeys(rows)) rows[key] = nextVersion(rows[key]);
}

describe("device records of the previous release", () => {
  it("are listed with the status that they had", async () => {
    expect(await list(await user())).toMatchObject(RECORDED);
  });

  it("still refuse an older heartbeat and take a newer one", async () => {
    const user_id = await user();
    const { seq, ...sent } = { ...beatOf({ user_id, device_id: first }), sent_at_ms: 0 };
    expect((await beat({ ...sent, seq })).status).toBe(409);
    expect((await beat({ ...sent, seq: seq + 1 })).status).toBe(204);
    expect(await list(user_id)).toMatchObject([{ device_id: first, seq: 2 }, {}, {}]);
  });

  it("give devices the flush time on top where keep-alives may have been lost", async () => {
    const agoMs = 55_000;
    const user_id = await user(() => {}, agoMs);
    const expiresInMs = ((await inspect(user_id)).next_expiry_ms ?? 0) - Date.now();
    expect(expiresInMs).toBeGreaterThan(60_000 - agoMs + FLUSH_MS - 5_000);
    const saved = await user((rows) => delete rows.held, agoMs);
    expect((await inspect(saved)).next_expiry_ms).toBeLessThan(Date.now() + 60_000 - agoMs + 1_000);
  });

  it("let a device turn offline in time, by the actor's own alarm", async () => {
    const user_id = await user((rows) => delete rows.held, 58_500);
    const stream = await Stream.open(user_id);
    await stream.next(({ device_id, status }) => device_id === first && status === "offline");
    await stream.next(({ device_id, status }) => device_id === second && status === "offline");
    await stream.cancel();
  });
});

describe("device records of a next release", () => {
  it("are read, and keep their unknown fields when a heartbeat rewrites them", async () => {
    const user_id = await user(raise);
    expect(await list(user_id)).toMatchObject(RECORDED);
    const sent = beatOf({ user_id, device_id: third, seq: 2 });
    expect((await beat(sent)).status).toBe(204);
    expect((await beat({ ...sent, device_id: first, status: "offline" })).status).toBe(204);
    expect(await rowsOf(stubOf(user_id))).toMatchObject({
      [`device:${first}`]: { status: "offline", seq: 2, ...NEXT },
      [`device:${second}`]: { status: "online", seq: 1, ...NEXT },
      [`device:${third}`]: { status: "online", seq: 2, ...NEXT },
    });
  });

  it("send watchers no unknown field", async () => {
    const user_id = await user(raise);
    for (const device of await list(user_id)) {
      expect(Object.keys(device).sort()).toEqual(Object.keys(beatOf()).sort());
    }
  });

  it("keep their unknown fields when a device expires", async () => {
    const user_id = await user((rows) => {
      raise(rows);
      delete rows.held;
    }, 58_500);
    const stream = await Stream.open(user_id);
    await stream.next(({ device_id, status }) => device_id === first && status === "offline");
    expect(await rowsOf(stubOf(user_id))).toMatchObject({
      [`device:${first}`]: { status: "offline", ...NEXT },
    });
    await stream.cancel();
  });

  it("give devices the flush time on top, also where the marker of unsaved keep-alives is an object", async () => {
    const user_id = await user((rows) => {
      rows.held = nextVersion({ held: true });
    }, 55_000);
    const { next_expiry_ms } = await inspect(user_id);
    expect(next_expiry_ms).toBeGreaterThan(Date.now() + FLUSH_MS);
  });
});

describe("garbage among device records", () => {
  it("is skipped, and the next heartbeat of that device is stored", async () => {
    const sample = recorded("devices").rows[`device:${first}`] as object;
    const bad = [...GARBAGE, ...broken(sample)];
    const ids = bad.map(() => crypto.randomUUID());
    const user_id = await user((rows) => {
      for (const [i, one] of bad.entries()) rows[`device:${ids[i]}`] = one;
    });
    const known = (await list(user_id)).filter(({ device_id }) => DEVICES.includes(device_id));
    expect(known).toMatchObject(RECORDED);
    for (const device_id of ids) {
      expect((await beat(beatOf({ user_id, device_id, seq: 2 }))).status).toBe(204);
    }
    const listed = (await list(user_id)).map(({ device_id }) => device_id);
    expect(listed.sort()).toEqual([...DEVICES, ...ids].sort());
  });

  it("in place of the marker of unsaved keep-alives changes no device", async () => {
    for (const held of GARBAGE) {
      const user_id = await user((rows) => {
        rows.held = held;
      });
      expect(await list(user_id)).toMatchObject(RECORDED);
      expect((await beat(beatOf({ user_id, device_id: first, seq: 2 }))).status).toBe(204);
    }
  });
});
