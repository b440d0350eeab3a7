/**
 * `node test/compat/record.ts`: what the previous release writes, in previous/rows.json. Its own
 * Worker, previous/worker.js, runs in workerd; clients use it, then storage and attachments are read.
 *
 * Made once, for each release that becomes the previous one: a change to rows.json is a change to
 * what the tests promise.
 */
import { writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { ask, ingestToken, Socket, Stream, sign, watchToken } from "./client.ts";
import { Deployment } from "./deployment.ts";
import { encode, type Recorded } from "./rows.ts";

/** Adds to each class a method that gives out what it has stored. */
const RECORDER = `
import * as release from "./worker.js";
const recording = (Room) => class extends Room {
  record() {
    return {
      rows: [...this.ctx.storage.kv.list()],
      sockets: this.ctx.getWebSockets().map((ws) => ws.deserializeAttachment()),
    };
  }
};
export const PresenceRoom = recording(release.PresenceRoom);
export const FanoutRoom = recording(release.FanoutRoom);
export const DeviceRoom = recording(release.DeviceRoom);
export const MoodRoom = recording(release.MoodRoom);
export default release.default;
`;

interface Recording {
  rows: [string, unknown][];
  sockets: Attachment[];
}
interface Attachment {
  id: string;
  meta?: Record<string, unknown>;
}
interface Recorder {
  getByName(name: string): { record(): Promise<Recording> };
}

const actors: Record<string, unknown> = {};

/** Reads an actor; `nameOf` gives each socket the name by which tests find it. */
async function record(
  deployment: Deployment,
  as: string,
  binding: string,
  name: string,
  nameOf: (attachment: Attachment, rows: Map<string, unknown>) => string,
): Promise<void> {
  const namespace = await deployment.runtime.getDurableObjectNamespace(binding, "rooms");
  const { rows, sockets } = await (namespace as unknown as Recorder).getByName(name).record();
  const stored = new Map(rows);
  const actor: Recorded = {
    name,
    rows: Object.fromEntries(rows),
    sockets: Object.fromEntries(sockets.map((one) => [nameOf(one, stored), one])),
  };
  actors[as] = encode(actor, Date.now());
}

const previous = { front: "previous", rooms: "previous", wrapper: RECORDER } as const;

// ── Devices: two online, one of them with an unsaved keep-alive, one offline; a stream that watches ──
{
  const deployment = await Deployment.start(previous);
  const user_id = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";
  const beat = {
    ...{ schema_version: 1, user_id, status: "online", source: "daemon-do" },
    ...{ seq: 1, ttl_ms: 60_000 },
  };
  const send = (device: number, changes: object = {}) => {
    const device_id = `00000000-0000-4000-8000-00000000000${device}`;
    const body = { ...beat, device_id, sent_at_ms: Date.now(), ...changes };
    return ask(deployment, "/api/v1/daemon/presence/heartbeat", { token: ingestToken, body });
  };
  const token = await watchToken(deployment, user_id);
  const stream = await Stream.open(
    deployment,
    `/api/v1/mobile/presence/stream?user_id=${user_id}`,
    token,
  );
  await send(1);
  await send(1, { seq: 2 });
  await send(2);
  await send(3, { status: "offline" });
  await record(deployment, "devices", "DEVICES", user_id, () => "stream");
  stream.leave();
  await deployment.stop();
}

// ── Fan-out: answers in one row and in several, filters beside a socket and in storage ─────────────
{
  const deployment = await Deployment.start(previous);
  const userId = "user_123";
  const token = await sign({ userId });
  const connect = () => Socket.open(deployment, `/ws/fanout?token=${token}`);
  const publish = (key: string, body: object) =>
    ask(deployment, "/publish", { token, body, headers: { "Idempotency-Key": key } });
  /** Subscribes, and waits until that is done. */
  const subscribe = async (socket: Socket, ...filters: object[]) => {
    socket.send({ type: "subscribe", filters });
    socket.send(" ping ");
    await socket.next("pong");
  };
  /** Acks the next envelope of each socket with `result`. */
  const answer = async (sockets: Socket[], type: string, result: unknown) => {
    for (const socket of sockets) {
      const { envelopeId } = await socket.next(type);
      socket.send({ type: "ack", envelopeId, result });
    }
  };

  const some = await connect();
  await subscribe(some, { type: "chat", questId: "q1" }, { type: "news" });
  // Too large for an attachment.
  const many = await connect();
  await subscribe(many, { type: "large", quest: "q".repeat(17_000) }, { type: "chat", n: "2" });
  const stream = await Stream.open(deployment, "/fanout/stream?type=chat&questId=q2", token);

  const asked = { userId, type: "news", payload: { text: "hello" } };
  const answering = answer([some], "news", { read: true });
  await publish("one-row", asked);
  await answering;

  const crowd = await Promise.all(Array.from({ length: 15 }, connect));
  for (const socket of crowd) await subscribe(socket, { type: "crowd" });
  const crowded = answer(crowd, "crowd", "y".repeat(62_000));
  await publish("two-rows", { userId, type: "crowd" });
  await crowded;
  await Promise.all(crowd.map((socket) => socket.close()));

  await record(deployment, "fanout", "FANOUT", userId, ({ meta, id }, rows) => {
    const { filters, answers } = (meta ?? rows.get(`rollcall:session:${id}`)) as {
      filters: Set<string>;
      answers: boolean;
    };
    if (!answers) return "stream";
    return [...filters].some((filter) => filter.includes("large")) ? "many" : "some";
  });
  stream.leave();
  await deployment.stop();
}

// ── Presence: statuses, protocols 1 and 2, a client that probes, one that has sent nothing yet ─────
{
  const deployment = await Deployment.start(previous);
  const room = "lobby";
  const connect = async (token: string, version: number, more = "") => {
    const path = `/ws/presence?token=${token}&room=${room}&v=${version}${more}`;
    const socket = await Socket.open(deployment, path);
    await socket.next("presence.sync");
    return socket;
  };
  const exp = Math.floor(Date.now() / 1_000) + 3_600;
  const anna = await connect("user:anna", 2, "&look=1");
  const berta = await connect("user:berta", 1);
  await connect(await sign({ userId: "carla", username: "Carla", exp }), 2);
  anna.send({ type: "presence.status", data: { status: "busy" } });
  await berta.next("presence.status", ({ userId }) => userId === "anna");
  berta.send({ type: "presence.status", data: { status: "away" } });
  await anna.next("presence.status", ({ userId }) => userId === "berta");
  await record(deployment, "presence", "PRESENCE", room, ({ meta }) => `${meta?.userId}`);
  await deployment.stop();
}

// ── Moods: two segments, one session that left, one with a socket, one socket that only watches ────
{
  const deployment = await Deployment.start(previous);
  const beat = (sessionId: string, mood: string) =>
    ask(deployment, "/api/heartbeat", { body: { sessionId, mood } });
  // 128 entries seal a segment.
  await Promise.all(Array.from({ length: 130 }, (_, i) => beat(`s${i}`, "presence")));
  await beat("late", "gratitude");
  await beat("gone", "gratitude");
  await ask(deployment, "/api/leave", { body: { sessionId: "gone" } });
  const socket = await Socket.open(deployment, "/ws/moods?sessionId=connected&mood=connection&v=2");
  await socket.ask("mood.set", { mood: "release" });
  await socket.next("mood.state", ({ moods }) => moods.release === 1);
  const watcher = await Stream.open(deployment, "/api/presence/stream");
  await watcher.next(({ count }) => count === 132);
  const nameOf = ({ meta }: Attachment) => `${meta?.sessionId ?? "watcher"}`;
  await record(deployment, "moods", "MOODS", "shard:0", nameOf);
  watcher.leave();
  await deployment.stop();
}

// ── A shard of several: a segment that announces unsaved heartbeats, and the socket of the total ───
{
  const deployment = await Deployment.start({ ...previous, vars: { MOOD_SHARDS: "2" } });
  // Of the two shards, the second counts `b`.
  const socket = await Socket.open(deployment, "/ws/moods?sessionId=b&mood=gratitude&v=2");
  await socket.next("mood.state", ({ count }) => count === 1);
  for (let i = 0; i < 25; i++) {
    await ask(deployment, "/api/heartbeat", { body: { sessionId: "b" } });
  }
  // The total connects by itself.
  const isComplete = () => Object.keys((actors.shard as Recorded).sockets).length === 2;
  const nameOf = ({ meta }: Attachment) => `${meta?.sessionId ?? "witness"}`;
  do {
    await sleep(50);
    await record(deployment, "shard", "MOODS", "shard:1", nameOf);
  } while (!isComplete());
  await deployment.stop();
}

writeFileSync(
  new URL("previous/rows.json", import.meta.url),
  `${JSON.stringify(actors, null, 1)}\n`,
);
