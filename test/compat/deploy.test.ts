import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { ask, ingestToken, Socket, Stream, sign, watchToken } from "./client.ts";
import { Deployment, type Release } from "./deployment.ts";

const COMBINATIONS: { front: Release; rooms: Release }[] = [
  { front: "previous", rooms: "current" },
  { front: "current", rooms: "previous" },
];

interface Heartbeat {
  user_id: string;
  device_id: string;
  status: "online" | "offline";
  sent_at_ms: number;
  seq: number;
  ttl_ms: number;
}

function heartbeatOf(changes: Partial<Heartbeat> = {}): Heartbeat & Record<string, unknown> {
  return {
    schema_version: 1,
    user_id: crypto.randomUUID(),
    device_id: crypto.randomUUID(),
    status: "online",
    source: "daemon-do",
    sent_at_ms: Date.now(),
    seq: 1,
    ttl_ms: 3_600_000,
    ...changes,
  };
}

const beat = (deployment: Deployment, body: object) =>
  ask(deployment, "/api/v1/daemon/presence/heartbeat", { token: ingestToken, body });

async function devicesOf(deployment: Deployment, userId: string): Promise<Heartbeat[]> {
  const token = await watchToken(deployment, userId);
  const path = `/api/v1/mobile/presence?user_id=${userId}`;
  return (await ask(deployment, path, { token })).body.devices;
}

async function publish(deployment: Deployment, body: object, key?: string) {
  const headers: Record<string, string> = key === undefined ? {} : { "Idempotency-Key": key };
  return ask(deployment, "/publish", { token: await sign({ userId: "backend" }), body, headers });
}

const moodBeat = (deployment: Deployment, sessionId: string, mood?: string) =>
  ask(deployment, "/api/heartbeat", { body: { sessionId, mood } });

const moodState = (moods: Record<string, number>) => ({
  count: Object.values(moods).reduce((sum, n) => sum + n, 0),
  moods: { gratitude: 0, presence: 0, release: 0, connection: 0, ...moods },
  timestamp: expect.any(Number),
});

describe.each(COMBINATIONS)("the $front Worker in front of the $rooms rooms", (releases) => {
  let deployment: Deployment;
  beforeAll(async () => {
    deployment = await Deployment.start(releases);
  });
  afterAll(() => deployment.stop());

  test("shows who is in a presence room, with devices and statuses", async () => {
    const path = (token: string, version: number) =>
      `/ws/presence?room=people&v=${version}&token=${token}`;
    const anna = await Socket.open(deployment, path("user:anna", 2));
    expect(await anna.next("hello")).toMatchObject({ data: { protocol: 2, pingMs: 5_000 } });
    const own = { userId: "anna", username: "anna", devices: 1, status: "online" };
    expect(await anna.next("presence.sync")).toMatchObject({ users: [own], totalUsers: 1 });

    const jwt = await sign({ userId: "berta", username: "Berta" });
    const berta = await Socket.open(deployment, path(jwt, 1));
    const other = { userId: "berta", username: "Berta", devices: 1, status: "online" };
    expect((await berta.next("presence.sync")).users).toEqual([own, other]);
    expect(await anna.next("presence.diff")).toMatchObject({ joins: [other] });

    berta.send({ type: "presence.status", data: { status: "busy" } });
    for (const socket of [anna, berta]) {
      expect(await socket.next("presence.status")).toMatchObject({
        userId: "berta",
        username: "Berta",
        status: "busy",
      });
    }
    berta.send({ type: "presence.status", data: { status: "asleep" } });
    expect(await berta.next("error")).toMatchObject({ message: "Invalid status" });
    expect(await anna.ask("presence.status", { status: "away" })).toBeNull();

    const phone = await Socket.open(deployment, path("user:anna", 1));
    expect(await berta.next("presence.update")).toMatchObject({ userId: "anna", devices: 2 });
    const roster = await ask(deployment, "/api/v1/presence?room=people", { token: "user:dora" });
    expect(roster).toMatchObject({
      status: 200,
      body: {
        users: [
          { ...own, devices: 2, status: "away" },
          { ...other, status: "busy" },
        ],
        totalUsers: 2,
        totalConnections: 3,
      },
    });
    for (const socket of [anna, phone]) {
      socket.send('{"type":"ping"}');
      await socket.next("pong");
      await socket.close();
    }
    await berta.next("presence.offline", ({ userId }) => userId === "anna");
    await berta.close();
  });

  test.skipIf(releases.front === "previous")(
    "lets clients in whose token is a subprotocol, and selects it",
    async () => {
      const anna = await Socket.open(deployment, "/ws/presence?room=sub&v=3", "user:anna");
      expect(await anna.next("presence.sync")).toMatchObject({ users: [{ userId: "anna" }] });
      await anna.close();
      const fanout = await Socket.open(deployment, "/ws/fanout", await sign({ userId: "anna" }));
      fanout.send(" ping ");
      await fanout.next("pong");
      await fanout.close();
    },
  );

  test("refuses a presence room without a token, and a bad room name", async () => {
    expect((await ask(deployment, "/api/v1/presence")).status).toBe(401);
    const bad = await ask(deployment, "/api/v1/presence?room=a/b", { token: "user:anna" });
    expect(bad.status).toBe(400);
  });

  test("takes heartbeats and shows devices over HTTP and in a stream", async () => {
    const sent = heartbeatOf();
    const { user_id } = sent;
    expect(await beat(deployment, sent)).toEqual({ status: 204, body: null });
    expect(await beat(deployment, sent)).toMatchObject({
      status: 409,
      body: { error: "invalid_payload", details: "Non-monotonic seq" },
    });

    const token = await watchToken(deployment, user_id);
    const path = `/api/v1/mobile/presence/stream?user_id=${user_id}`;
    const stream = await Stream.open(deployment, path, token);
    onTestFinished(() => stream.leave());
    expect(await stream.next(({ device_id }) => device_id === sent.device_id)).toEqual(sent);

    const another = heartbeatOf({ user_id, ttl_ms: 500 });
    const stranger = heartbeatOf();
    const heartbeats = [{ ...sent, seq: 2 }, { ...sent, seq: 1 }, another, stranger, { bad: 1 }];
    const batch = await ask(deployment, "/api/v1/daemon/presence/heartbeats", {
      token: ingestToken,
      body: { heartbeats },
    });
    expect(batch).toMatchObject({
      status: 200,
      body: { results: [204, 409, 204, 204, 400].map((status) => ({ status })) },
    });
    await stream.next(({ device_id, seq }) => device_id === sent.device_id && seq === 2);
    // By the actor's own alarm.
    const isGone = (event: Heartbeat) =>
      event.device_id === another.device_id && event.status === "offline";
    expect((await stream.next(isGone)).seq).toBe(1);

    expect(await devicesOf(deployment, user_id)).toMatchObject([
      { ...sent, seq: 2 },
      { device_id: another.device_id, status: "offline" },
    ]);
    expect(await devicesOf(deployment, stranger.user_id)).toEqual([stranger]);
    const inspected = await ask(deployment, `/debug/presence?user_id=${user_id}`);
    expect(inspected.body).toMatchObject({
      active_streams: 1,
      records: { [`device:${sent.device_id}`]: { last_offline_ms: null } },
    });
  });

  test("refuses devices without a token, and those of another user", async () => {
    const userId = crypto.randomUUID();
    const path = `/api/v1/mobile/presence?user_id=${userId}`;
    expect((await ask(deployment, path)).status).toBe(401);
    const token = await watchToken(deployment, crypto.randomUUID());
    expect((await ask(deployment, path, { token })).status).toBe(403);
    expect((await ask(deployment, "/api/v1/daemon/presence/heartbeat", { body: {} })).status).toBe(
      401,
    );
  });

  test("delivers an envelope to its subscribers, and gives the publisher their acks", async () => {
    const token = await sign({ userId: "alice" });
    const socket = await Socket.open(deployment, `/?token=${token}`);
    const filters = [{ type: "chat", questId: "q1" }, { type: "news" }];
    socket.send({ type: "subscribe", filters });
    socket.send(" ping ");
    await socket.next("pong");
    const stream = await Stream.open(deployment, "/fanout/stream?type=chat", token);
    onTestFinished(() => stream.leave());

    const payload = { questId: "q1", text: "hi" };
    const answer = publish(deployment, { userId: "alice", type: "chat", payload });
    const envelope = await socket.next("chat");
    expect(envelope).toMatchObject({ userId: "alice", payload });
    socket.send({ type: "ack", envelopeId: envelope.envelopeId, result: { read: true } });
    expect(await answer).toMatchObject({
      status: 200,
      body: { clientCount: 2, results: [{ read: true }] },
    });
    expect(await stream.next(({ type }) => type === "chat")).toEqual(envelope);

    socket.send({ type: "unsubscribe", filters: [filters[1]] });
    socket.send(" ping ");
    await socket.next("pong");
    const unheard = await publish(deployment, { userId: "alice", type: "news" });
    expect(unheard.body).toMatchObject({ clientCount: 0, results: [] });
    await socket.close();
  });

  test("delivers once under an idempotency key, alone and in a batch", async () => {
    const token = await sign({ userId: "bob" });
    const socket = await Socket.open(deployment, `/ws/fanout?token=${token}`);
    socket.send({ type: "subscribe", filters: [{ type: "order" }] });
    socket.send(" ping ");
    await socket.next("pong");

    const order = { userId: "bob", type: "order", payload: { n: 1 } };
    const first = publish(deployment, order, "once");
    const { envelopeId } = await socket.next("order");
    socket.send({ type: "ack", envelopeId, result: "taken" });
    const answer = { clientCount: 1, results: ["taken"] };
    expect(await first).toMatchObject({ status: 200, body: answer });
    expect(await publish(deployment, order, "once")).toMatchObject({ status: 200, body: answer });
    const other = { ...order, payload: { n: 2 } };
    expect((await publish(deployment, other, "once")).status).toBe(422);

    const messages = [
      { ...order, idempotencyKey: "once" },
      { ...other, idempotencyKey: "once" },
      { ...other, ackTimeoutMs: 0, idempotencyKey: "twice" },
      { type: "order" },
    ];
    // Keys belong to their publisher.
    const backend = await sign({ userId: "backend" });
    const batch = await ask(deployment, "/publish/batch", { token: backend, body: { messages } });
    expect(batch.body.results).toMatchObject([
      { status: 200, ...answer },
      { status: 422 },
      { status: 200, clientCount: 1, results: [] },
      { status: 400, error: "userId is required" },
    ]);
    expect((await socket.next("order")).payload).toEqual({ n: 2 });
    expect(socket.count("order")).toBe(2);
    await socket.close();
  });

  test("refuses to publish without a token or without a user", async () => {
    const body = { userId: "alice" };
    expect(await ask(deployment, "/publish", { body })).toEqual({
      status: 401,
      body: { error: "Unauthorized" },
    });
    expect(await publish(deployment, {})).toEqual({
      status: 400,
      body: { error: "userId is required" },
    });
  });
});

describe.each(
  COMBINATIONS.flatMap((releases) => [1, 4].map((shards) => ({ ...releases, shards }))),
)("the $front Worker in front of the $rooms rooms, $shards of them for moods", (options) => {
  let deployment: Deployment;
  beforeAll(async () => {
    const vars = { MOOD_SHARDS: `${options.shards}` };
    deployment = await Deployment.start({ ...options, vars });
  });
  afterAll(() => deployment.stop());

  test("counts sessions and their moods until they leave", async () => {
    const stream = await Stream.open(deployment, "/api/presence/stream");
    onTestFinished(() => stream.leave());
    await stream.next(({ count }) => count === 0);
    const first = await moodBeat(deployment, "a", "gratitude");
    expect(first).toMatchObject({ status: 200, body: { moods: { gratitude: 1 } } });
    await Promise.all(["b", "c", "d", "e"].map((id) => moodBeat(deployment, id)));
    await stream.next(({ count }) => count === 5);

    const socket = await Socket.open(deployment, "/ws/moods?sessionId=f&mood=release&v=2");
    await socket.next("mood.state", ({ count }) => count === 6);
    expect(await stream.next(({ count }) => count === 6)).toEqual(
      moodState({ gratitude: 1, presence: 4, release: 1 }),
    );
    await socket.ask("mood.set", { mood: "connection" });
    await moodBeat(deployment, "b", "gratitude");
    const all = moodState({ gratitude: 2, presence: 3, connection: 1 });
    const isAll = ({ moods }: { moods: object }) =>
      JSON.stringify(moods) === JSON.stringify(all.moods);
    expect(await stream.next(isAll)).toEqual(all);
    await socket.next("mood.state", isAll);
    expect((await ask(deployment, "/api/presence")).body).toEqual(all);

    const left = await ask(deployment, "/api/leave", { body: { sessionId: "a" } });
    expect(left).toEqual({ status: 200, body: { success: true } });
    await ask(deployment, "/api/leave", { body: { sessionId: "f" } });
    expect(await socket.ended()).toBe(1000);
    expect(await stream.next(({ count }) => count === 4)).toEqual(
      moodState({ gratitude: 1, presence: 3 }),
    );
  });

  test("refuses an unknown mood, and a session without an id", async () => {
    const body = { sessionId: "a", mood: "rage" };
    expect((await ask(deployment, "/api/heartbeat", { body })).status).toBe(400);
    expect((await ask(deployment, "/api/heartbeat", { body: {} })).body.error).toContain(
      "sessionId",
    );
  });
});

describe("storage", () => {
  test("of each release is served by the other, over a deploy and a rollback", async () => {
    const persistTo = mkdtempSync(join(tmpdir(), "rollcall-compat-"));
    onTestFinished(() => rmSync(persistTo, { recursive: true, force: true, maxRetries: 5 }));
    const user_id = crypto.randomUUID();
    const [first, second, third] = [1, 2, 3].map(() => heartbeatOf({ user_id }));
    const order = (n: number) => ({ userId: "alice", type: "order", payload: { n } });
    const NOBODY = { status: 200, body: { clientCount: 0, results: [] } };
    const TAKEN = { status: 200, body: { clientCount: 1, results: ["taken"] } };
    /** Publishes under `key` to a subscriber that acks. */
    const publishTo = async (deployment: Deployment, n: number, key: string) => {
      const token = await sign({ userId: "alice" });
      const socket = await Socket.open(deployment, `/ws/fanout?token=${token}`);
      socket.send({ type: "subscribe", filters: [{ type: "order" }] });
      socket.send(" ping ");
      await socket.next("pong");
      const answer = publish(deployment, order(n), key);
      const { envelopeId } = await socket.next("order");
      socket.send({ type: "ack", envelopeId, result: "taken" });
      expect(await answer).toMatchObject(TAKEN);
      await socket.close();
    };

    const before = await Deployment.start({ front: "previous", rooms: "previous", persistTo });
    try {
      await beat(before, first as object);
      await beat(before, { ...second, status: "offline" });
      await publishTo(before, 1, "first");
      await publish(before, order(2), "second");
      await moodBeat(before, "a", "gratitude");
      await moodBeat(before, "b");
    } finally {
      await before.stop();
    }

    const deployed = await Deployment.start({ front: "current", rooms: "current", persistTo });
    try {
      expect(await devicesOf(deployed, user_id)).toEqual(
        expect.arrayContaining([first, { ...second, status: "offline" }]),
      );
      expect((await beat(deployed, first as object)).status).toBe(409);
      expect(await publish(deployed, order(1), "first")).toMatchObject(TAKEN);
      expect(await publish(deployed, order(2), "second")).toEqual(NOBODY);
      expect((await publish(deployed, order(3), "second")).status).toBe(422);
      expect((await ask(deployed, "/api/presence")).body).toEqual(
        moodState({ gratitude: 1, presence: 1 }),
      );

      await beat(deployed, { ...first, seq: 2 });
      await beat(deployed, { ...second, seq: 2 });
      await beat(deployed, third as object);
      await publishTo(deployed, 3, "third");
      await moodBeat(deployed, "b", "release");
      await moodBeat(deployed, "c");
      await ask(deployed, "/api/leave", { body: { sessionId: "a" } });
    } finally {
      await deployed.stop();
    }

    const after = await Deployment.start({ front: "previous", rooms: "previous", persistTo });
    try {
      const devices = await devicesOf(after, user_id);
      expect(devices).toHaveLength(3);
      expect(devices).toEqual(
        expect.arrayContaining([{ ...first, seq: 2 }, { ...second, seq: 2 }, third]),
      );
      expect((await beat(after, { ...second, seq: 2 })).status).toBe(409);
      expect((await beat(after, { ...second, seq: 3, status: "offline" })).status).toBe(204);
      expect(await publish(after, order(1), "first")).toMatchObject(TAKEN);
      expect(await publish(after, order(3), "third")).toMatchObject(TAKEN);
      expect((await publish(after, order(4), "third")).status).toBe(422);
      expect((await ask(after, "/api/presence")).body).toEqual(
        moodState({ release: 1, presence: 1 }),
      );
      expect((await moodBeat(after, "d")).body.count).toBe(3);
    } finally {
      await after.stop();
    }
  });
});
