import { env, exports } from "cloudflare:workers";
import { describe, expect, it, vi } from "vitest";
import type { Untyped } from "../../../src/wire/frames.ts";
import { CONSUMER, type Delivered } from "../../room/consumer.ts";
import { connect, freshName } from "../../room/socket.ts";
import { broken, GARBAGE, NEXT, nextVersion, replaceMemory, rowsOf } from "./actor.ts";

const worker = exports.default as { fetch(url: string, init?: RequestInit): Promise<Response> };

async function ask(path: string): Promise<{ status: number; body: Untyped }> {
  const response = await worker.fetch(`https://rollcall.test/api/v1/${path}`, {
    headers: { Authorization: "Bearer user:backend" },
  });
  return { status: response.status, body: await response.json() };
}

const enter = (room: string, user: string) =>
  connect(null, `/ws/presence?room=${room}&v=1&token=user:${user}`);

async function delivered(room: string): Promise<Delivered[]> {
  return (await fetch(`${CONSUMER}?room=${room}`)).json();
}

/** An occupied room that keeps its changes, with the rows that it has stored. */
async function occupied(prefix: string) {
  const room = `${prefix}-${freshName()}`;
  const stub = env.PRESENCE.getByName(room);
  await enter(room, "anna");
  await vi.waitFor(async () =>
    expect((await ask(`rooms/${room}/changes`)).body.snapshot).toHaveLength(1),
  );
  if (prefix === "hook")
    await vi.waitFor(async () => expect(await delivered(room)).toHaveLength(1));
  await vi.waitFor(async () => expect(await rowsOf(stub)).toHaveProperty(["member:anna"]));
  return { room, stub, rows: await rowsOf(stub) };
}

const CHUNK = "changes:at:0000000000000001";
const HOOK = `webhook:${CONSUMER}/all`;

describe("what a room stores of who is in it", () => {
  it("is read as a next release writes it, and keeps what this one does not know", async () => {
    const { room, stub, rows } = await occupied("hook");
    const chunk = rows[CHUNK] as { changes: object[] };
    const changes = chunk.changes.map((change) => ({ ...change, later: 1 }));
    await replaceMemory(stub, {
      rows: {
        ...rows,
        "changes:head": nextVersion(rows["changes:head"]),
        "member:anna": nextVersion(rows["member:anna"]),
        [CHUNK]: nextVersion({ ...chunk, changes }),
        [HOOK]: nextVersion(rows[HOOK]),
      },
    });
    const before = (await delivered(room)).length;
    await enter(room, "berta");
    await vi.waitFor(async () => expect((await delivered(room)).length).toBeGreaterThan(before));
    await vi.waitFor(async () =>
      expect(await rowsOf(stub)).toMatchObject({
        "changes:head": NEXT,
        [CHUNK]: { ...NEXT, changes: [{ later: 1 }, { later: 1 }, { userId: "berta" }] },
        [HOOK]: { ...NEXT, offset: 3 },
      }),
    );
    expect(((await rowsOf(stub))[HOOK] as { batch?: unknown }).batch).toBeUndefined();
  });

  it("begins a new epoch where the log is damaged, in which all that are present join", async () => {
    const { room, stub, rows } = await occupied("pull");
    const { cursor } = (await ask(`rooms/${room}/changes`)).body;
    for (const [key, value] of [
      ...GARBAGE.slice(0, 12).map((garbage) => [CHUNK, garbage] as const),
      ...broken(rows[CHUNK] as object).map((row) => [CHUNK, row] as const),
      ...GARBAGE.slice(0, 6).map((garbage) => ["changes:head", garbage] as const),
    ]) {
      await replaceMemory(stub, { rows: { ...rows, [key]: value } });
      const { status, body } = await ask(`rooms/${room}/changes?after=${cursor}`);
      // What is wrong may be something that nobody needs.
      if (body.cursor === cursor) continue;
      expect([status, body.snapshot]).toEqual([200, [{ userId: "anna", sessions: 1 }]]);
      const epoch = body.cursor.split(":")[0];
      if (epoch === cursor.split(":")[0]) continue;
      const all = (await ask(`rooms/${room}/changes?after=${epoch}:0`)).body;
      expect(all.changes.map(({ type }: Untyped) => type)).toEqual([
        "room.occupied",
        "user.joined",
      ]);
    }
  });

  it("is made anew where a user's row, or how far a webhook is, is damaged", async () => {
    const { room, stub, rows } = await occupied("hook");
    for (const garbage of [...GARBAGE, ...broken(rows[HOOK] as object)]) {
      await replaceMemory(stub, { rows: { ...rows, "member:anna": garbage, [HOOK]: garbage } });
      expect((await ask(`rooms/${room}`)).body.totalUsers).toBe(1);
    }
    await enter(room, "berta");
    await vi.waitFor(async () => {
      const bodies = (await delivered(room)).map(({ body }) => body).join();
      expect(bodies).toContain('"userId":"berta"');
    });
  });
});

describe("what a user's actor stores of where the user is", () => {
  it("is read as a next release writes it, and keeps what this one does not know", async () => {
    const [user, room] = [freshName(), freshName()];
    const stub = env.FANOUT.getByName(user);
    await enter(room, user);
    await vi.waitFor(async () => expect(await rowsOf(stub)).toHaveProperty(["person"]));
    const rows = await rowsOf(stub);
    const person = rows.person as { rooms: object[] };
    const rooms = person.rooms.map((entry) => ({ ...entry, later: 1 }));
    await replaceMemory(stub, { rows: { ...rows, person: nextVersion({ ...person, rooms }) } });
    expect((await ask(`users/${user}`)).body).toMatchObject({ online: true, rooms: [{ room }] });
    await enter(freshName(), user);
    await vi.waitFor(async () =>
      expect(await rowsOf(stub)).toMatchObject({ person: { ...NEXT, rooms: [{ later: 1 }, {}] } }),
    );
  });

  it("counts as nothing where it is damaged", async () => {
    const user = freshName();
    const stub = env.FANOUT.getByName(user);
    await stub.inspect();
    const good = { v: 1, rooms: [], seq: 1, isShown: false, floorS: 1 };
    for (const garbage of [...GARBAGE, ...broken(good)]) {
      await replaceMemory(stub, { rows: { person: garbage, "watcher:x": garbage } });
      expect((await ask(`users/${user}`)).body.online).toBe(false);
    }
  });
});

describe("a user who is blocked in a room", () => {
  it("stays out as a next release writes it, and comes in where the row is damaged", async () => {
    const room = freshName();
    const stub = env.PRESENCE.getByName(room);
    await stub.inspect();
    const block = { v: 1, untilMs: Date.now() + 60_000 };
    await replaceMemory(stub, { rows: { "block:anna": nextVersion(block) } });
    const kept = await enter(room, "anna");
    expect((await kept.ended()).code).toBe(4403);
    for (const garbage of GARBAGE) {
      await replaceMemory(stub, { rows: { "block:anna": garbage } });
      const anna = await enter(room, "anna");
      await anna.event("presence.sync");
      await anna.close();
    }
  });
});
