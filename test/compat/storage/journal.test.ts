import { reset } from "cloudflare:test";
import { afterEach, describe, expect, it } from "vitest";
import type { MoodState } from "../../../rooms/moods/tally.ts";
import { Deployment } from "../../room/moods.ts";
import { recorded } from "../rows.ts";
import { broken, GARBAGE, nextVersion, replaceMemory, rowsOf } from "./actor.ts";

afterEach(() => reset());

const SHARD = "shard:0";
/** An empty journal needs no rows: `connected` of the recording is here by its socket only. */
const RECORDED = { count: 131, moods: { gratitude: 1, presence: 130, release: 0, connection: 0 } };
const plain = ({ count, moods }: MoodState) => ({ count, moods });

/** A deployment whose only shard has these rows. */
async function deployment(
  rows: Record<string, unknown> = recorded("moods").rows,
): Promise<Deployment> {
  const house = new Deployment(1);
  await replaceMemory(house.stub(SHARD), { rows });
  return house;
}

const segments = (rows: Record<string, unknown>) =>
  Object.entries(rows).filter(([key]) => key.startsWith("moods:"));

describe("the journal of moods that the previous release wrote", () => {
  it("gives every session, in the mood of the last segment", async () => {
    expect(plain(await (await deployment()).state())).toEqual(RECORDED);
  });

  it("is continued: after a heartbeat and a leave the next start knows both", async () => {
    const house = await deployment();
    await house.heartbeat("new", "connection");
    await house.leave("late");
    await house.evict([SHARD], "hibernate");
    expect(plain(await house.state())).toEqual({
      count: 131,
      moods: { gratitude: 0, presence: 130, release: 0, connection: 1 },
    });
  });

  it("gives no session whose 30 s have passed", async () => {
    const house = await deployment(recorded("moods", { nowMs: Date.now() - 30_000 }).rows);
    expect((await house.state()).count).toBe(0);
  });

  it("gives sessions the time of heartbeats that it announced but did not store", async () => {
    const nowMs = Date.now() - 33_000;
    const open = recorded("shard", { nowMs }).rows;
    expect((await (await deployment(open)).state()).count).toBe(1);
    const closed = Object.fromEntries(
      segments(open).map(([key, row]) => [key, { ...(row as object), openUntilMs: 0 }]),
    );
    expect((await (await deployment(closed)).state()).count).toBe(0);
  });
});

describe("the journal of moods that a next release wrote", () => {
  const raised = () =>
    Object.fromEntries(
      segments(recorded("moods").rows).map(([key, row]) => [key, nextVersion(row)]),
    );

  it("is read, and its segments are not overwritten while they matter", async () => {
    const rows = raised();
    const house = await deployment(rows);
    expect(plain(await house.state())).toEqual(RECORDED);
    await house.heartbeat("new", "connection");
    await house.leave("late");
    expect(await rowsOf(house.stub(SHARD))).toMatchObject(rows);
    await house.evict([SHARD], "hibernate");
    expect((await house.state()).count).toBe(131);
  });

  it("is read where it has a mood that this release does not know", async () => {
    const rows = raised();
    const last = rows["moods:1"] as { ids: string[]; moods: Uint8Array; beats: Float64Array };
    rows["moods:1"] = {
      ...last,
      ids: [...last.ids, "from-later"],
      moods: Uint8Array.of(...last.moods, 7),
      beats: Float64Array.of(...last.beats, Date.now()),
    };
    const house = await deployment(rows);
    const { count, moods } = await house.state();
    expect(moods).toMatchObject({ gratitude: 1, presence: 130 });
    expect(count).toBe(Object.values(moods).reduce((sum, n) => sum + n, 0));
    expect((await house.heartbeat("new", "connection")).moods.connection).toBe(1);
  });
});

describe("garbage in the journal of moods", () => {
  it("is skipped, and all other segments count", async () => {
    const { rows } = recorded("moods");
    const sample = rows["moods:1"] as object;
    const garbage = [...GARBAGE, ...broken(sample)];
    const house = await deployment({
      ...rows,
      ...Object.fromEntries(garbage.map((one, i) => [`moods:${i + 2}`, one])),
    });
    const { count, moods } = await house.state();
    // What is broken may be a time, with which the sessions of the sample count nevertheless.
    expect(moods).toMatchObject({ presence: 130 });
    expect(count).toBe(Object.values(moods).reduce((sum, n) => sum + n, 0));
    expect((await house.heartbeat("new", "connection")).moods.connection).toBe(1);
    await house.evict([SHARD], "hibernate");
    expect((await house.state()).moods).toMatchObject({ presence: 130, connection: 1 });
  });

  it("does not stop an actor with nothing else in storage from counting", async () => {
    for (const garbage of GARBAGE) {
      const house = await deployment({ "moods:0": garbage });
      expect((await house.heartbeat("new", "connection")).count).toBe(1);
      await house.evict([SHARD], "hibernate");
      expect((await house.state()).count).toBe(1);
      await reset();
    }
  });
});
