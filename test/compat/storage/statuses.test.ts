import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import type { RosterSync } from "../../../rooms/presence/roster.ts";
import { connect, freshName, type TestSocket } from "../../room/socket.ts";
import { recorded } from "../rows.ts";
import { GARBAGE, NEXT, replaceMemory, rowsOf } from "./actor.ts";

/** A room with anna, berta and carla in it, whose actor then finds these rows. */
async function enter(rows: Record<string, unknown>) {
  const room = freshName();
  const stub = env.PRESENCE.getByName(room);
  const join = (user: string, version: number) =>
    connect(null, `/ws/presence?token=user:${user}&room=${room}&v=${version}`);
  const [anna, berta, carla] = await Promise.all([
    join("anna", 2),
    join("berta", 1),
    join("carla", 2),
  ]);
  await replaceMemory(stub, { rows });
  return { stub, anna, berta, carla };
}

async function statuses(socket: TestSocket): Promise<Record<string, string>> {
  await socket.caughtUp();
  socket.skip();
  socket.emit("presence.list", {});
  const { users }: RosterSync = await socket.event("presence.sync");
  return Object.fromEntries(users.map(({ userId, status }) => [userId, status]));
}

const next = (status: string) => ({ status, ...NEXT });

describe("statuses in storage", () => {
  it("of the previous release are shown, and change", async () => {
    const { rows } = recorded("presence");
    const { anna, berta, stub } = await enter(rows);
    expect(await statuses(anna)).toEqual({ anna: "busy", berta: "away", carla: "online" });
    anna.emit("presence.status", { status: "away" });
    await berta.event(
      "presence.status",
      ({ userId, status }) => userId === "anna" && status === "away",
    );
    berta.emit("presence.status", { status: "online" });
    await anna.event("presence.status", ({ userId }) => userId === "berta");
    expect(await rowsOf(stub)).toMatchObject({ "status:anna": "away" });
    expect(await rowsOf(stub)).not.toHaveProperty(["status:berta"]);
  });

  it("of a next release are shown, and keep their unknown fields when they change", async () => {
    const rows = { "status:anna": next("busy"), "status:berta": next("away") };
    const { anna, stub } = await enter(rows);
    expect(await statuses(anna)).toEqual({ anna: "busy", berta: "away", carla: "online" });
    anna.emit("presence.status", { status: "away" });
    await anna.event("presence.status", ({ userId }) => userId === "anna");
    expect(await rowsOf(stub)).toMatchObject({
      "status:anna": next("away"),
      "status:berta": next("away"),
    });
  });

  it("with values that this release does not know change no other user's status", async () => {
    const { anna, berta } = await enter({
      "status:anna": next("invisible"),
      "status:berta": "dancing",
      "status:carla": "busy",
    });
    const known = await statuses(anna);
    expect(known).toMatchObject({ carla: "busy" });
    for (const status of Object.values(known)) expect(["online", "away", "busy"]).toContain(status);
    berta.emit("presence.status", { status: "busy" });
    await anna.event("presence.status", ({ userId }) => userId === "berta");
    expect(await statuses(anna)).toMatchObject({ berta: "busy", carla: "busy" });
  });

  it("that are garbage count as online, and can be set", async () => {
    for (const garbage of GARBAGE) {
      const { anna, stub } = await enter({ "status:anna": garbage, "status:carla": "busy" });
      expect(await statuses(anna)).toEqual({ anna: "online", berta: "online", carla: "busy" });
      anna.emit("presence.status", { status: "away" });
      await anna.event("presence.status", ({ userId }) => userId === "anna");
      await replaceMemory(stub, {});
      expect(await statuses(anna)).toEqual({ anna: "away", berta: "online", carla: "busy" });
    }
  });
});
