/**
 * Hostile members: valid tokens of several users, used as no client of ours would. Each campaign is
 * what one member does over some connections.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { STATUSES } from "../../rooms/presence/roster.ts";
import { beatOf } from "../kit/devices.ts";
import { post } from "../kit/http.ts";
import type { Random } from "../kit/random.ts";
import { signUser } from "../kit/stage.ts";
import { Stream } from "../kit/streams.ts";
import { HostileSocket } from "./sockets.ts";
import { type Case, judgeStatus, SHARED_ROOM, type Target } from "./target.ts";

const ORDINARY = Array.from({ length: 8 }, (_, i) => `member-${i}`);
/** Ids that a token may carry, though no user should have them. */
const ODD_IDS: readonly unknown[] = [
  ...["", " ", "__proto__", "constructor", "toString", "*", "<self>", "\ud800", "a\udc00b", "\0"],
  ...["default", SHARED_ROOM, "../..", "x".repeat(256), "x".repeat(257), "🙈".repeat(200)],
  ...[0, -0, 1.5, Number.MAX_SAFE_INTEGER, null, true, {}, ["member-0"], { toString: 1 }],
];
const ODD_NUMBERS: readonly unknown[] = [
  ...[0, -1, 0.5, 1e308, -1e308, Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER + 2],
  ...[null, "NaN", "0", "1e400", "", [], {}, true],
];
const OWNERS = ["a1", "b2", "c3"].map((end) => `0f0e0d0c-0b0a-4908-8706-0504030200${end}`);
/** Above the bytes of a frame that the server accepts. */
const FRAME_BYTES = 70_000;
/** All connections of a user have ended so long after a kick or a revocation, on a machine that stalls. */
const ENDED_MS = 10_000;

interface Member {
  target: Target;
  random: Random;
  userId: string;
  token: string;
}

function textOf(random: Random): string {
  return random.pick([
    ...["", "__proto__", "\ud800", "\udfff\ud800", "\0", "constructor", "⁂".repeat(50)],
    ...["k".repeat(255), "k".repeat(1_025), "x".repeat(9_000), String(random.int(0, 9))],
  ]);
}

/** `v` and, sometimes, what a client of another version would add. */
function presenceUrl({ target, random, userId }: Member, room: string): string {
  target.visited.rooms.add(room);
  target.visited.users.add(userId);
  const v = random.pick(["1", "2", "3"]);
  return `${target.stage.wsUrl}/ws/presence?${new URLSearchParams({ room, v })}`;
}

function fanoutUrl({ target, random, userId }: Member): string {
  target.visited.users.add(userId);
  return `${target.stage.wsUrl}/ws/fanout?v=${random.pick(["1", "3"])}`;
}

/** Lists, statuses and probes as fast as possible, then an end without a close. */
async function storm(member: Member): Promise<Case> {
  const { random, target, token } = member;
  const room = random.pick([SHARED_ROOM, "storm"]);
  const socket = await HostileSocket.open(presenceUrl(member, room), token);
  const kind = random.pick(["presence.list", "presence.status", "probe", "auth", "mixed"]);
  const frames = random.int(100, 600);
  for (let i = 0; i < frames; i++) {
    const type = kind === "mixed" ? random.pick(["presence.list", "presence.status"]) : kind;
    const id = random.pick([undefined, "same", `${i}`, textOf(random)]);
    const data =
      type === "auth" ? { token } : { status: random.pick([...STATUSES, textOf(random)]) };
    socket.send({ type, id, data });
  }
  await sleep(random.int(50, 500));
  socket.end(random, target.marker);
  return { what: `${frames} × ${kind} in ${room}`, fault: socket.fault };
}

/** A reader that stops reading, while much is sent to it. */
async function slowReader(member: Member): Promise<Case> {
  const { random, target, token, userId } = member;
  const bySocket = random.chance(0.5);
  const url = bySocket ? fanoutUrl(member) : presenceUrl(member, SHARED_ROOM);
  const reader = await HostileSocket.open(url, token);
  if (bySocket) reader.send({ type: "subscribe", filters: [{ type: "flood" }] });
  await sleep(50);
  reader.raw?.pause();
  const writer = await HostileSocket.open(presenceUrl(member, SHARED_ROOM), token);
  let fault: string | undefined;
  for (let i = 0; i < 40; i++) {
    writer.send({ type: "presence.status", data: { status: random.pick(STATUSES) } });
    if (!bySocket) continue;
    const body = { userId, type: "flood", payload: "x".repeat(30_000), ackTimeoutMs: 0 };
    const { status, text } = await post(`${target.stage.url}/publish`, body, { token });
    fault ??= judgeStatus(status, "/publish", text);
  }
  await sleep(random.int(0, 3_000));
  if (random.chance(0.5)) reader.raw?.resume();
  reader.end(random, target.marker);
  writer.end(random, target.marker);
  const what = `a slow reader of ${bySocket ? "its fan-out" : SHARED_ROOM}`;
  return { what, fault: fault ?? reader.fault ?? writer.fault };
}

/** Filters, cursors and acks of every size. */
async function filters(member: Member): Promise<Case> {
  const { random, target, token, userId } = member;
  const socket = await HostileSocket.open(fanoutUrl(member), token);
  const since = [":", "x:1", `${"0".repeat(32)}:${Number.MAX_SAFE_INTEGER}`, textOf(random), 5];
  for (let i = random.int(1, 14); i > 0; i--) {
    const list = Array.from({ length: random.int(0, 60) }, () => ({
      type: random.pick(["own", textOf(random)]),
      [textOf(random)]: random.pick<unknown>([textOf(random), 1, null]),
    }));
    socket.send({
      type: random.pick(["subscribe", "subscribe", "unsubscribe"]),
      filters: random.pick<unknown>([list, list, {}, "all", [[[]]], [null]]),
      ...(random.chance(0.3) && { since: random.pick<unknown>(since) }),
    });
  }
  socket.send({ type: "subscribe", filters: [{ type: "own" }] });
  socket.socket.on("message", (data) => {
    const { envelopeId } = /^\{/.test(String(data)) ? JSON.parse(String(data)) : {};
    if (!envelopeId) return;
    const results = [textOf(random), null, 1e308, { __proto__: 1 }, "r".repeat(FRAME_BYTES)];
    for (let i = 0; i < 3; i++) {
      socket.send({ type: "ack", envelopeId, result: random.pick<unknown>(results) });
    }
  });
  const body = { userId, type: "own", payload: { [textOf(random)]: textOf(random) } };
  const { status, text } = await post(`${target.stage.url}/publish`, body, { token });
  socket.end(random, target.marker);
  const fault = socket.fault ?? judgeStatus(status, "/publish", text);
  return { what: `filters and acks of ${userId}`, fault };
}

/** Heartbeats of many devices with extreme clocks and sequences. */
async function clocks({ random, target }: Member): Promise<Case> {
  const { url, ingestToken: token } = target.stage;
  const user_id = random.pick(OWNERS);
  target.visited.owners.add(user_id);
  const isValid = random.chance(0.5);
  const heartbeats = Array.from({ length: random.pick([1, 20, 150, 500, 501]) }, (_, i) => {
    const device_id = `${user_id.slice(0, -4)}${(i + 4_096).toString(16)}`;
    const beat = beatOf({ user_id, device_id, seq: random.int(0, 9), ttl_ms: 1_000 });
    if (isValid) return beat;
    const field = random.pick(["sent_at_ms", "seq", "ttl_ms", "source", "device_id", "status"]);
    const value = random.pick<unknown>([
      ...ODD_NUMBERS,
      ...ODD_IDS,
      ...[86_400_000, 86_500_000, -86_500_000].map((ms) => Date.now() + ms),
    ]);
    return { ...beat, [field]: value };
  });
  const path = "/api/v1/daemon/presence/heartbeats";
  const { status, text } = await post(url + path, { heartbeats }, { token });
  const results = status === 200 ? (JSON.parse(text).results as { status: number }[]) : [];
  const worst = Math.max(status, ...results.map((result) => result.status));
  const what = `${heartbeats.length} heartbeats of ${user_id}, ${isValid ? "valid" : "odd"}`;
  return { what, fault: judgeStatus(worst, path, text) };
}

/** A token that the server's key signed, with claims that no backend should write. */
async function claims(member: Member): Promise<Case> {
  const { random, target } = member;
  const { stage } = target;
  const now = Math.floor(Date.now() / 1_000);
  const extreme: Record<string, unknown> = {};
  for (const claim of ["exp", "iat", "nbf"]) {
    if (random.chance(0.5)) continue;
    extreme[claim] = random.pick<unknown>([...ODD_NUMBERS, now + 1, now - 1, now + 4e9, now + 0.3]);
  }
  const odd: Record<string, () => unknown> = {
    sub: () => random.pick(ODD_IDS),
    username: () => random.pick<unknown>([...ODD_IDS, "n".repeat(4_000)]),
    scope: () => random.pick<unknown>([...ODD_IDS, ["publish"], Array(500).fill("publish")]),
    workspaces: () =>
      random.pick<unknown>([...ODD_IDS, [null], [{ id: "fuzz" }], Array(300).fill({ id: "w" })]),
    workspaceClaimsVersion: () => random.pick(ODD_NUMBERS),
    cap: () => random.pick<unknown>([...ODD_IDS, { "*": ["*"] }, { __proto__: [] }]),
  };
  for (const [claim, value] of Object.entries(odd)) {
    if (random.chance(0.3)) extreme[claim] = value();
  }
  const id = random.chance(0.5) ? random.pick(ODD_IDS) : random.pick(ORDINARY);
  const token = await signUser(stage.jwtSecret, id, extreme);
  if (typeof id === "string") target.visited.users.add(id);
  if (typeof extreme.sub === "string") target.visited.users.add(extreme.sub);
  const what = `a token with ${JSON.stringify({ userId: id, ...extreme }).slice(0, 600)}`;
  for (const url of [presenceUrl(member, SHARED_ROOM), `${stage.wsUrl}/ws/fanout?v=3`]) {
    const socket = await HostileSocket.open(url, token);
    socket.send({ type: "presence.status", id: "1", data: { status: "busy" } });
    socket.send({ type: "subscribe", filters: [{ type: "own" }] });
    await sleep(random.int(0, 400));
    socket.end(random, target.marker);
    if (socket.fault) return { what, fault: socket.fault };
  }
  const body = { userId: "member-0", type: "own", ackTimeoutMs: 0 };
  const { status, text } = await post(`${stage.url}/publish`, body, { token });
  return { what, fault: judgeStatus(status, "/publish", text) };
}

/** One idempotency key many times at once: the same body must always have the same answer. */
async function keys({ random, target, token, userId }: Member): Promise<Case> {
  const isRoom = random.chance(0.5);
  const path = isRoom ? `/api/v1/rooms/${SHARED_ROOM}/events` : "/publish";
  const url = target.stage.url + path;
  const key = random.pick([
    `k${random.int(0, 1e9)}`,
    "k".repeat(256),
    `__proto__${random.int(0, 9)}`,
  ]);
  const bodies = [1, 2].map((n) =>
    isRoom
      ? { event: "keyed", data: { n } }
      : { userId, type: "keyed", payload: { n }, ackTimeoutMs: 0 },
  );
  const count = random.int(2, 12);
  const isBatch = random.chance(0.5);
  const what = `${count} publishes to ${path} under ${key.slice(0, 40)}${isBatch ? " in a batch" : ""}`;
  if (isBatch) {
    const messages = Array.from({ length: count }, () => ({
      ...random.pick(bodies),
      idempotencyKey: key,
    }));
    const { status, text } = await post(`${url}/batch`, { messages }, { token });
    return { what, fault: judgeStatus(status, path, text) };
  }
  const isSame = random.chance(0.5);
  const answers = await Promise.all(
    Array.from({ length: count }, async (_, i) => {
      const response = await fetch(url, {
        method: "POST",
        headers: {
          Authorization: `Bearer ${token}`,
          "Content-Type": "application/json",
          "Idempotency-Key": key,
        },
        body: JSON.stringify(bodies[isSame ? 0 : i % 2]),
      });
      return { status: response.status, text: await response.text() };
    }),
  );
  const fault = answers.map(({ status, text }) => judgeStatus(status, path, text)).find(Boolean);
  const distinct = new Set(answers.filter(({ status }) => status === 200).map(({ text }) => text));
  if (distinct.size > 1) return { what, fault: `${distinct.size} answers to one key` };
  return { what, fault };
}

/** Many connections of one user, resumed by two sockets at once and by another user. */
async function reconnects(member: Member): Promise<Case> {
  const { random, target, token, userId } = member;
  const url = `${target.stage.wsUrl}/ws/presence?room=${SHARED_ROOM}&v=3`;
  target.visited.rooms.add(SHARED_ROOM);
  const first = await HostileSocket.open(url, token);
  for (let i = 0; i < 50 && first.received.length === 0 && first.isOpen; i++) await sleep(20);
  const hello = /"session":"([^"]+)","epoch":"([^"]+)","seq":(\d+)/.exec(first.received[0] ?? "");
  const [, session, epoch, seq] = hello ?? [];
  first.end(random, target.marker);
  const what = `${userId} resumes many times`;
  if (!session || !epoch) return { what, fault: first.fault };
  const cursors = [seq, "0", String(Number.MAX_SAFE_INTEGER), "-1", "1.5", "NaN", undefined];
  const resume = () =>
    encodeURIComponent([session, epoch, random.pick(cursors)].filter(Boolean).join(":"));
  const other = ORDINARY.find((id) => id !== userId) as string;
  const stranger = await signUser(target.stage.jwtSecret, other);
  const stolen = await HostileSocket.open(`${url}&resume=${resume()}`, stranger);
  const own = await Promise.all(
    Array.from({ length: random.int(1, 12) }, () =>
      HostileSocket.open(`${url}&resume=${resume()}`, token),
    ),
  );
  await sleep(random.int(50, 300));
  for (const socket of [stolen, ...own]) socket.end(random, target.marker);
  const wasStolen = stolen.received.some((text) => /"resumed":true/.test(text));
  if (wasStolen) return { what, fault: "another user resumed the session" };
  return { what, fault: [stolen, ...own].map(({ fault }) => fault).find(Boolean) };
}

/** One anonymous session over many sockets and heartbeats at once. */
async function visits({ random, target }: Member): Promise<Case> {
  const { url, wsUrl } = target.stage;
  const sessionId = `fuzz-visit-${random.int(0, 20)}`;
  const sockets = await Promise.all(
    Array.from({ length: random.int(1, 6) }, () =>
      HostileSocket.open(`${wsUrl}/ws/moods?sessionId=${sessionId}&mood=release`),
    ),
  );
  const beat = { sessionId, mood: random.pick<unknown>(["release", "joy", 1, textOf(random)]) };
  const answers = await Promise.all(
    Array.from({ length: random.int(1, 8) }, () => {
      return post(`${url}/api/${random.pick(["heartbeat", "leave"])}`, beat);
    }),
  );
  for (const socket of sockets) {
    for (let i = random.int(0, 80); i > 0; i--) {
      socket.send({ type: "mood.set", id: "1", data: { mood: random.pick(["presence", "x"]) } });
    }
  }
  await sleep(random.int(0, 200));
  for (const socket of sockets) socket.end(random, target.marker);
  const refused = answers.map(({ status, text }) => judgeStatus(status, "/api", text));
  const fault = [...sockets.map((socket) => socket.fault), ...refused].find(Boolean);
  return { what: `visits of ${sessionId}`, fault };
}

/** Streams that are opened and dropped at once, with cursors that nobody gave. */
async function streams({ random, target, token, userId }: Member): Promise<Case> {
  target.visited.users.add(userId);
  const opened = Array.from({ length: random.int(1, 15) }, () => {
    const query = new URLSearchParams({ type: "own", token });
    if (random.chance(0.5)) query.set("lastEventId", textOf(random).toWellFormed());
    if (random.chance(0.3)) query.set("detail", random.pick(["count", "none", "roster", "x"]));
    if (random.chance(0.3)) query.append("watch", textOf(random).toWellFormed());
    const path = random.pick(["/fanout/stream", `/api/v1/rooms/${SHARED_ROOM}/stream`]);
    return new Stream(`${target.stage.url}${path}?${query}`, { onData() {} });
  });
  await sleep(random.int(0, 300));
  for (const stream of opened) stream.close();
  return { what: `${opened.length} streams of ${userId}` };
}

/** Lists of people of every size, as fast as possible, while the user comes and goes. */
async function watches(member: Member): Promise<Case> {
  const { random, target, token, userId } = member;
  target.visited.users.add(userId);
  const url = `${target.stage.wsUrl}/ws/people?v=${random.pick(["1", "3"])}`;
  const sockets = await Promise.all(
    Array.from({ length: random.int(1, 4) }, () => HostileSocket.open(url, token)),
  );
  const frames = random.int(1, 80);
  for (let i = 0; i < frames; i++) {
    const ids = Array.from({ length: random.pick([0, 1, 20, 500, 501]) }, () =>
      random.pick<unknown>([...ORDINARY, "ann", "bob", userId, textOf(random), `p${i}`]),
    );
    const odd: readonly unknown[] = [ids, ids, ids, ODD_IDS, "ann", {}, null, [[]], [null]];
    const type = random.pick(["watch", "watch", "unwatch", "subscribe", "people.sync"]);
    random.pick(sockets).send({ type, ids: random.pick<unknown>(odd) });
    if (random.chance(0.1)) {
      const own = await HostileSocket.open(presenceUrl(member, SHARED_ROOM), token);
      own.end(random, target.marker);
    }
  }
  await sleep(random.int(0, 300));
  for (const socket of sockets) socket.end(random, target.marker);
  const fault = sockets.map((socket) => socket.fault).find(Boolean);
  return { what: `${userId} watches people, ${frames} frames`, fault };
}

/** Everything of a user ends by a kick or a revocation, which comes while more of it begins. */
async function ends({ random, target }: Member): Promise<Case> {
  const { stage } = target;
  const userId = `ended-${random.int(0, 1e6)}`;
  const member = { random, target, userId, token: await signUser(stage.jwtSecret, userId) };
  const { token } = member;
  const isKick = random.chance(0.4);
  const room = random.pick(["fuzz-ends", SHARED_ROOM]);
  const open = () => {
    const urls = [presenceUrl(member, room)];
    if (!isKick) urls.push(fanoutUrl(member), `${stage.wsUrl}/ws/people`);
    return HostileSocket.open(random.pick(urls), token);
  };
  const early = await Promise.all(Array.from({ length: random.int(1, 6) }, open));
  const late = Array.from({ length: random.int(0, 6) }, open);
  const path = isKick
    ? `/api/v1/rooms/${room}/users/${userId}?blockMs=${random.pick([1, 60_000, 2_592_000_000])}`
    : `/api/v1/users/${userId}/revoke`;
  const answers = await Promise.all(
    Array.from({ length: random.int(1, 5) }, async () => {
      const response = await fetch(stage.url + path, {
        method: isKick ? "DELETE" : "POST",
        headers: { Authorization: `Bearer ${await signUser(stage.jwtSecret, "backend")}` },
      });
      return judgeStatus(response.status, path, await response.text());
    }),
  );
  // A kick that lets the user in again at once ends only those that it has met.
  const all = [...early, ...(await Promise.all(late))];
  const met = path.endsWith("=1") ? early : all;
  const giveUpAtMs = performance.now() + ENDED_MS;
  while (met.some(({ isOpen }) => isOpen) && performance.now() < giveUpAtMs) await sleep(20);
  const left = met.filter(({ isOpen }) => isOpen).length;
  const what = `${userId} ends in ${room} by ${path}`;
  const fault = left > 0 ? `${left} of ${met.length} connections go on` : answers.find(Boolean);
  for (const socket of all) socket.end(random, target.marker);
  return { what, fault: fault ?? all.map((socket) => socket.fault).find(Boolean) };
}

const CAMPAIGNS = [
  ...[storm, slowReader, filters, clocks, claims, claims],
  ...[keys, reconnects, visits, streams],
  ...[keys, watches, ends, ends],
];

export async function fuzzMember(target: Target, random: Random): Promise<Case> {
  const campaign = random.pick(CAMPAIGNS);
  const userId = random.pick(ORDINARY);
  const token = await signUser(target.stage.jwtSecret, userId);
  const { what, fault } = await campaign({ target, random, userId, token });
  return { what: `member: ${what}`, fault };
}
