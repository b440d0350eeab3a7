import { reset } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, describe, expect, it, vi } from "vitest";
import type { RosterSync } from "../../../rooms/presence/roster.ts";
import { beat, beatOf, Stream } from "../../room/device-fixture.ts";
import { Deployment } from "../../room/moods.ts";
import { connect, freshName, type TestSocket } from "../../room/socket.ts";
import { recorded } from "../rows.ts";
import {
  type Attachment,
  attachmentsOf,
  GARBAGE,
  garbageFor,
  LATER,
  nextAttachment,
  replaceMemory,
} from "./actor.ts";

async function sync(socket: TestSocket): Promise<RosterSync> {
  await socket.caughtUp();
  socket.skip();
  socket.emit("presence.list", {});
  return socket.event("presence.sync");
}

describe("sockets of a presence room", () => {
  const room = () => {
    const name = freshName();
    const join = (user: string) =>
      connect(null, `/ws/presence?token=user:${user}&room=${name}&v=1`);
    return { stub: env.PRESENCE.getByName(name), join };
  };

  /** Anna, Berta and Carla are connected, with these attachments. */
  async function enter(attachments: Record<string, unknown>) {
    const { stub, join } = room();
    const [anna, berta, carla] = await Promise.all([join("anna"), join("berta"), join("carla")]);
    await replaceMemory(stub, { attachmentOf: ({ meta }) => attachments[meta.userId] });
    return { stub, anna, berta, carla, join };
  }

  it("of the previous release keep their users and their protocols", async () => {
    const { anna, berta, carla, join } = await enter(recorded("presence").sockets);
    const { users, totalConnections } = await sync(anna);
    expect(users).toContainEqual(
      expect.objectContaining({ userId: "carla", username: "Carla", devices: 1 }),
    );
    expect(totalConnections).toBe(3);
    await join("dora");
    // Only protocol 2 has diffs.
    await anna.event("presence.diff", ({ joins }) => joins[0]?.userId === "dora");
    await carla.event("presence.diff", ({ joins }) => joins[0]?.userId === "dora");
    await berta.event("presence.online", ({ userId }) => userId === "dora");
  });

  it("of the previous release are closed when their tokens expire", async () => {
    const attachment = recorded("presence").sockets.carla as Attachment;
    const meta = { ...attachment.meta, expiresAtMs: Date.now() + 1_000 };
    const { anna, carla } = await enter({ carla: { ...attachment, meta } });
    // Wakes the actor, which then sets its alarm.
    await anna.caughtUp();
    expect((await carla.ended()).code).toBe(4401);
  });

  it("of a next release stay, and keep their unknown fields when they are written again", async () => {
    const { sockets } = recorded("presence");
    const raised = Object.fromEntries(
      Object.entries(sockets).map(([name, one]) => [name, nextAttachment(one)]),
    );
    const { anna, stub } = await enter(raised);
    expect((await sync(anna)).totalUsers).toBe(3);
    anna.emit("presence.status", { status: "away" });
    await anna.event("presence.status");
    expect((await sync(anna)).users).toContainEqual(
      expect.objectContaining({ userId: "anna", status: "away" }),
    );
    for (const attachment of await attachmentsOf(stub)) {
      expect(attachment).toMatchObject({ ...LATER, rollcall: 99, meta: LATER });
    }
  });

  it("with garbage attachments are closed with 1011 or kept, and all others stay", async () => {
    const { stub, join } = room();
    const garbage = garbageFor(recorded("presence").sockets.berta);
    const anna = await join("anna");
    const broken = await Promise.all(garbage.map((_, i) => join(`broken-${i}`)));
    await replaceMemory(stub, {
      attachmentOf: ({ meta: { userId } }) => garbage[Number(userId.split("-")[1])],
    });
    const { users, totalConnections } = await sync(anna);
    expect(users).toContainEqual(expect.objectContaining({ userId: "anna", devices: 1 }));
    // What is not taken for a session is closed, and not left to wait for ever.
    const closed = () => broken.filter((socket) => socket.closed);
    await vi.waitFor(() => expect(closed()).toHaveLength(garbage.length + 1 - totalConnections));
    for (const socket of closed()) expect(socket.closed?.code).toBe(1011);
    expect(closed().length).toBeGreaterThan(GARBAGE.length);
    anna.emit("presence.status", { status: "busy" });
    await anna.event("presence.status");
    expect((await sync(await join("late"))).users).toContainEqual(
      expect.objectContaining({ userId: "anna", status: "busy" }),
    );
  });
});

describe("sockets of a mood room", () => {
  afterEach(() => reset());

  const SHARD = "shard:0";
  const meta = (attachment: Attachment) => attachment.meta as { sessionId?: string };

  it("of the previous release keep their mood, and are not sent a state twice", async () => {
    const house = new Deployment(1);
    const socket = await house.connect("connected", "gratitude");
    const watcher = await connect(house.stub(SHARD), "/ws/moods");
    const { rows, sockets } = recorded("moods");
    await replaceMemory(house.stub(SHARD), {
      rows,
      attachmentOf: (one) => sockets[meta(one).sessionId ?? "watcher"],
    });
    for (const one of [socket, watcher]) one.skip();
    expect((await house.state()).count).toBe(132);
    await house.heartbeat("new", "connection");
    for (const one of [socket, watcher]) {
      const { moods } = await one.event("mood.state");
      expect(moods).toEqual({ gratitude: 1, presence: 130, release: 1, connection: 1 });
    }
    await socket.close();
    expect((await house.state()).moods.release).toBe(0);
  });

  it("that belong to the total of the previous release are sent no state", async () => {
    const house = new Deployment(1);
    const socket = await house.connect("session");
    const total = await connect(house.stub(SHARD), "/ws/moods");
    const { witness } = recorded("shard").sockets;
    await replaceMemory(house.stub(SHARD), {
      attachmentOf: (one) => (meta(one).sessionId ? undefined : witness),
    });
    await total.caughtUp();
    total.skip();
    await house.heartbeat("new");
    await socket.event("mood.state", ({ count }) => count === 2);
    await total.caughtUp();
    expect(total.events.filter((event) => event === "mood.state")).toHaveLength(1);
  });

  it("of a next release keep their mood and their unknown fields", async () => {
    const house = new Deployment(1);
    const socket = await house.connect("connected", "gratitude");
    const { connected } = recorded("moods").sockets;
    await replaceMemory(house.stub(SHARD), { attachmentOf: () => nextAttachment(connected) });
    expect((await house.state()).moods.release).toBe(1);
    await socket.ask("mood.set", { mood: "presence" });
    const [attachment] = await attachmentsOf(house.stub(SHARD));
    expect(attachment).toMatchObject({
      ...LATER,
      rollcall: 99,
      meta: { mood: "presence", ...LATER },
    });
  });

  it("with garbage attachments are closed with 1011 or kept, and all others stay", async () => {
    const house = new Deployment(1);
    const garbage = garbageFor(recorded("moods").sockets.connected);
    const other = await house.connect("other", "release");
    const broken = await Promise.all(
      garbage.map((_, i) => house.connect(`broken-${i}`, "gratitude")),
    );
    // A state that is still to be sent would be noted in the attachment, over the garbage.
    for (const socket of [other, ...broken]) {
      await socket.event("mood.state", ({ count }) => count === garbage.length + 1);
    }
    await replaceMemory(house.stub(SHARD), {
      attachmentOf: (one) => garbage[Number(meta(one).sessionId?.split("-")[1])],
    });
    const { count, moods } = await house.state();
    expect(moods.release).toBeGreaterThanOrEqual(1);
    expect(count).toBe(Object.values(moods).reduce((sum, n) => sum + n, 0));
    await other.ask("mood.set", { mood: "connection" });
    const after = await house.heartbeat("new", "connection");
    expect(after.moods.connection - moods.connection).toBe(2);
    const closed = () => broken.filter((socket) => socket.closed);
    await vi.waitFor(() => expect(closed().length).toBeGreaterThan(GARBAGE.length));
    for (const socket of closed()) expect(socket.closed?.code).toBe(1011);
  });
});

describe("streams of a device room", () => {
  for (const [release, change] of [
    ["the previous release", (attachment: unknown) => attachment],
    ["a next release", nextAttachment],
  ] as const) {
    it(`of ${release} go on`, async () => {
      const sent = beatOf();
      await beat(sent);
      const stream = await Stream.open(sent.user_id);
      const { sockets } = recorded("devices", { name: sent.user_id });
      await replaceMemory(env.DEVICES.getByName(sent.user_id), {
        attachmentOf: () => change(sockets.stream),
      });
      await beat({ ...sent, seq: 2 });
      await stream.next(({ seq }) => seq === 2);
      await stream.cancel();
    });
  }
});
