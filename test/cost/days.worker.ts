/**
 * The Worker that `npm run cost` runs, one instance for each day: `GET /<day>` plays it and answers
 * with its counters.
 */
// First: what is imported after it finds the clock replaced.
import "./clock.worker.ts";
import { SignJWT } from "jose";
import { mintPresenceToken } from "../../rooms/devices/token.ts";
import { issueSession } from "../../rooms/moods/access.ts";
import { MOODS } from "../../rooms/moods/tally.ts";
import * as rollcall from "../../src/server/worker.ts";
import { added, type Counters, scaled } from "./bill.ts";
import { type Client, Day, type Fetch, type Ping, perUser, serveDays } from "./day.worker.ts";
import { metered, override } from "./meter.worker.ts";
import { ACK_MS, MINT_TOKEN, MODEL, PINGS } from "./model.ts";
import * as hand from "./replaced.worker.ts";

export class PresenceRoom extends metered("PRESENCE", rollcall.PresenceRoom) {}
export class FanoutRoom extends metered("FANOUT", rollcall.FanoutRoom) {}
export class DeviceRoom extends metered("DEVICES", rollcall.DeviceRoom) {}
export class MoodRoom extends metered("MOODS", rollcall.MoodRoom) {}
export class PingedRoom extends metered("PINGED", hand.PingedRoom) {}
export class WokenRoom extends metered("WOKEN", hand.WokenRoom) {}
export class SseDevices extends metered("SSE", hand.SseDevices) {}

type CostEnv = Env & hand.ReplacedEnv;

const app: Fetch<CostEnv> = (request, env) =>
  rollcall.default.fetch(request, env, { waitUntil() {}, passThroughOnException() {} } as never);
const PING = '{"type":"ping"}';
const BY_HAND: Ping = { text: PING, everyMs: PINGS.replaced, wakes: true };
/** Designs whose sockets ping their actor awake. */
const SOCKETS_BY_HAND = ["pinged", "woken"] as const;

function tokenFor(
  env: CostEnv,
  userId: string,
  lifeMs: number,
  claims: object = {},
): Promise<string> {
  return new SignJWT({ userId, ...claims })
    .setProtectedHeader({ alg: "HS256" })
    .setExpirationTime(Math.floor((Date.now() + lifeMs) / 1000))
    .sign(new TextEncoder().encode(env.JWT_SECRET));
}

/** A user whose cost does not depend on others, in designs where one day is like another. */
const ALONE = 1;

const json = (body: unknown, headers: Record<string, string> = {}): RequestInit => ({
  method: "POST",
  headers: { "Content-Type": "application/json", ...headers },
  body: JSON.stringify(body),
});

// ── Presence ────────────────────────────────────────────────────────────────────────────────────

function presenceDay(env: CostEnv, design: "rollcall" | (typeof SOCKETS_BY_HAND)[number]) {
  const isOurs = design === "rollcall";
  const day = new Day(isOurs ? app : hand.replaced, env);
  const { cohort, roomUsers, sessions, sessionMs, statusChanges, tokenMs } = MODEL.presence;
  const statuses = ["busy", "away", "online"];

  async function connect(user: number): Promise<Client> {
    const room = `room-${Math.floor(user / roomUsers)}`;
    if (!isOurs) return day.connect(`/${design}/${room}`, BY_HAND);
    const token = await tokenFor(env, `user-${user}`, tokenMs);
    const ping = { text: PING, everyMs: PINGS.presence, wakes: false };
    return day.connect(`/ws/presence?v=3&probe=1&room=${room}&token=${token}`, ping);
  }

  for (let user = 0; user < cohort; user++) {
    for (let session = 0; session < sessions; session++) {
      const from = day.wakingTime(sessionMs);
      day.at(from, async () => {
        const client = await connect(user);
        for (let change = 0; change < statusChanges / sessions; change++) {
          const data = { status: statuses[change % statuses.length] };
          const text = JSON.stringify({ type: "presence.status", data });
          const when = from + day.random.unit() * (sessionMs - 1_000);
          day.at(when, () => client.tell(text));
        }
        day.at(from + sessionMs, () => client.end(day.random.unit()));
      });
    }
  }
  return day.play();
}

// ── Devices ─────────────────────────────────────────────────────────────────────────────────────

type DevicesDesign = "socket" | "rollcall" | "kv" | "sse";

function devicesDay(env: CostEnv, design: DevicesDesign, cohort: number) {
  const isOurs = design === "socket" || design === "rollcall";
  const day = new Day(isOurs ? app : hand.replaced, env);
  const model = MODEL.devices;
  const bearer = { Authorization: `Bearer ${env.PRESENCE_DO_INGEST_TOKEN}` };
  const minter = { Authorization: `Bearer ${MINT_TOKEN}` };

  const beatOf = (user_id: string, device_id: string, seq: number, status: string) => ({
    ...{ schema_version: 1, source: "daemon", user_id, device_id },
    ...{ status, sent_at_ms: Date.now(), seq, ttl_ms: model.ttlMs },
  });

  function beat(user_id: string, device_id: string, seq: number, status: string): Promise<void> {
    const body = beatOf(user_id, device_id, seq, status);
    if (design === "rollcall") {
      return day.ask("/api/v1/daemon/presence/heartbeat", json(body, bearer));
    }
    return day.ask(`/${design === "kv" ? "kv-devices" : `sse/${user_id}`}`, json(body));
  }

  function runDevice(user: string): void {
    const device = crypto.randomUUID();
    const from = day.wakingTime(model.awakeMs);
    const part = model.awakeMs / (model.breaks + 1);
    const breaks = Array.from({ length: model.breaks }, (_, i) => from + (i + 1) * part);
    let seq = 0;
    if (design === "socket") {
      const tell = (client: Client, status: string): Promise<void> =>
        client.tell(JSON.stringify(beatOf(user, device, ++seq, status)));
      day.at(from, async () => {
        const path = `/ws/devices/beat?user_id=${user}&device_id=${device}`;
        const ping = { text: PING, everyMs: model.beatMs, wakes: false };
        const client = await day.connect(path, ping, bearer);
        await tell(client, "online");
        for (const start of breaks) {
          day.at(start, () => tell(client, "offline"));
          day.at(start + model.breakMs, () => tell(client, "online"));
        }
        day.at(from + model.awakeMs, () => client.end(day.random.unit()));
      });
      return;
    }
    for (let at = from; at < from + model.awakeMs; at += model.beatMs) {
      const pause = breaks.find((start) => at >= start && at < start + model.breakMs);
      if (pause === undefined) day.at(at + day.late(), () => beat(user, device, ++seq, "online"));
      else if (at - pause < model.beatMs) {
        day.at(at + day.late(), () => beat(user, device, ++seq, "offline"));
      }
    }
  }

  /** A phone watches: by a stream for as long as its token holds, then by the next; or by polling. */
  function runPhone(user: string): void {
    const from = day.wakingTime(model.watchMs);
    const until = from + model.watchMs;
    if (design === "kv") {
      for (let at = from; at < until; at += model.pollMs) {
        day.at(at, () => day.ask(`/kv-devices/${user}`));
      }
      return;
    }
    for (let at = from; at < until; at += model.tokenMs) {
      day.at(at, async () => {
        let path = `/sse/${user}`;
        if (isOurs) {
          await day.ask(
            "/api/v1/presence/tokens",
            json({ user_id: user, device_id: crypto.randomUUID() }, minter),
          );
          const grant = { user_id: user, device_id: crypto.randomUUID(), ttlMs: model.tokenMs };
          const { token } = await mintPresenceToken(grant, env.PRESENCE_DO_TOKEN_SIGNING_KEY);
          path = `/api/v1/mobile/presence/stream?user_id=${user}&token=${token}`;
        }
        const leave = await day.stream(path);
        day.at(Math.min(at + model.tokenMs, until) - 1, leave);
      });
    }
  }

  for (let user = 0; user < cohort; user++) {
    const id = crypto.randomUUID();
    for (let device = 0; device < model.devices; device++) runDevice(id);
    runPhone(id);
  }
  return day.play();
}

// ── Fan-out ─────────────────────────────────────────────────────────────────────────────────────

async function fanoutDay(
  env: CostEnv,
  design: "rollcall" | (typeof SOCKETS_BY_HAND)[number],
  cohort: number,
) {
  const isOurs = design === "rollcall";
  const day = new Day(isOurs ? app : hand.replaced, env);
  const model = MODEL.fanout;
  const publisher = {
    Authorization: `Bearer ${await tokenFor(env, "backend", 48 * 3_600_000, { scope: "publish" })}`,
  };
  const filters = Array.from({ length: model.filters }, (_, i) => ({ type: `type-${i}` }));

  async function connect(user: string): Promise<void> {
    const token = await tokenFor(env, user, model.tokenMs);
    const client = await (isOurs
      ? day.connect(`/?v=3&token=${token}`, { text: "ping", everyMs: PINGS.fanout, wakes: false })
      : day.connect(`/${design}/${user}`, BY_HAND));
    client.onMessage = (text) => {
      if (!text.startsWith("{")) return;
      const { envelopeId, id = envelopeId } = JSON.parse(text) as Record<string, string>;
      if (!envelopeId) return;
      day.at(day.nowMs + ACK_MS + day.late(), () =>
        client.tell(JSON.stringify({ type: "ack", envelopeId, id, result: "read" })),
      );
    };
    await client.tell(JSON.stringify({ type: "subscribe", filters }));
    day.at(day.nowMs + model.socketMs, () => client.end(day.random.unit()));
  }

  function publish(userId: string): Promise<void> {
    const type = `type-${day.random.int(0, model.filters - 1)}`;
    const body = { userId, type, payload: { text: "hello" } };
    const headers = { ...publisher, "Idempotency-Key": crypto.randomUUID() };
    return isOurs
      ? day.ask("/publish", json(body, headers))
      : day.ask(`/${design}/${userId}`, json(body));
  }

  for (let user = 0; user < cohort; user++) {
    const id = `user-${user}`;
    for (let socket = 0; socket < model.sockets; socket++) {
      day.at(day.wakingTime(model.socketMs), () => connect(id));
    }
    for (let i = 0; i < model.publishes; i++) {
      day.at(day.wakingTime(), () => day.meanwhile(publish(id)));
    }
  }
  return day.play();
}

// ── Moods ───────────────────────────────────────────────────────────────────────────────────────

const DAY_MS = 24 * 3_600_000;
/** Sessions beat so often in what is played of a day … */
const BEATS = 3_000;
/** … after a time in which the room fills and settles, which does not count. */
const SETTLING_MS = 12_000;
/** Shards that are played in full; the others are like them. */
const PLAYED_SHARDS = 2;

/**
 * A part of the day in a room as full as it is: users come, stay and go at an even rate. Counted is
 * what comes after the room has filled; the rest of the day, and the shards that are not played, are
 * like it.
 */
async function moodsDay(env: CostEnv, users: 1_000 | 100_000, by: "socket" | "polling") {
  const { visits, visitMs, pollMs, shards: shardsOf } = MODEL.moods;
  const shards = shardsOf[users];
  const played = Math.min(shards, PLAYED_SHARDS);
  override({ MOOD_SHARDS: `${played}` });
  const day = new Day(app, env);
  const share = played / shards;
  const visitsPerMs = (users * visits * share) / DAY_MS;
  const present = visitsPerMs * visitMs;
  const windowMs = Math.min(Math.max((BEATS / present) * pollMs, 10_000), DAY_MS / 4);
  const endMs = SETTLING_MS + windowMs;

  /** One visit, from its beginning, or from somewhere in its middle, on. */
  async function visit(leftMs: number): Promise<void> {
    // The day counts requests and does not hand out answers.
    await day.ask("/api/session", json({}));
    const sessionId = await issueSession(env);
    const until = day.nowMs + leftMs;
    const changes = day.nowMs + day.random.unit() * visitMs;
    let mood = day.random.pick(MOODS);
    day.at(until, () => day.ask("/api/leave", json({ sessionId })));
    if (by === "polling") {
      const beat = (): Promise<void> => day.ask("/api/heartbeat", json({ sessionId, mood }));
      const next = (): void =>
        day.at(day.nowMs + pollMs, async () => {
          if (day.nowMs >= until) return;
          next();
          await beat();
        });
      next();
      await beat();
      day.at(Math.min(changes, endMs + 1), () => {
        mood = day.random.pick(MOODS);
      });
      return;
    }
    const ping = { text: PING, everyMs: PINGS.moods, wakes: false };
    const query = new URLSearchParams({ sessionId, mood, v: "2" });
    const client = await day.connect(`/ws/moods?${query}`, ping);
    if (changes >= until) return;
    day.at(changes, async () => {
      const data = { mood: day.random.pick(MOODS) };
      await client.tell(JSON.stringify({ type: "mood.set", data }));
    });
  }

  for (let i = 0; i < present; i++) {
    day.at(day.random.unit() * pollMs, () => visit(day.random.unit() * visitMs));
  }
  for (let at = pollMs + 1 / visitsPerMs; at < endMs; at += 1 / visitsPerMs) {
    day.at(at, () => visit(visitMs));
  }
  const total = (key: string): boolean => key === "MOODS/total";
  const look = () => [day.counters((key) => !total(key)), day.counters(total)] as const;
  await day.play(SETTLING_MS);
  const [shardsBefore, totalBefore] = look();
  await day.play(endMs);
  const [shardsAfter, totalAfter] = look();

  const wholeDay = DAY_MS / windowMs;
  const ofShards = scaled(added(shardsAfter, scaled(shardsBefore, -1)), wholeDay / share);
  const ofTotal = scaled(added(totalAfter, scaled(totalBefore, -1)), wholeDay);
  // There is one total, which is never awake twice at once; but all shards call it.
  const callsOfOthers = ofTotal.actorCalls * (1 / share - 1);
  return added(ofShards, { ...ofTotal, actorCalls: ofTotal.actorCalls + callsOfOthers });
}

function kvMoodsDay(env: CostEnv) {
  const day = new Day(hand.replaced, env);
  const { visits, visitMs, pollMs } = MODEL.moods;
  for (let user = 0; user < ALONE; user++) {
    for (let visit = 0; visit < visits; visit++) {
      const sessionId = crypto.randomUUID();
      const from = day.random.unit() * (DAY_MS - visitMs - 1);
      for (let at = from; at < from + visitMs; at += pollMs) {
        const mood = day.random.pick(MOODS);
        day.at(at, () => day.ask("/kv-moods", json({ sessionId, mood })));
      }
      day.at(from + visitMs, () => day.ask("/kv-moods", json({ sessionId })));
    }
  }
  return day.play();
}

// ── All ─────────────────────────────────────────────────────────────────────────────────────────

const DAYS: Record<string, (env: CostEnv) => Promise<Counters>> = {
  "moods/kv": (env) => perUser(kvMoodsDay(env), ALONE),
};
for (const design of ["rollcall", ...SOCKETS_BY_HAND] as const) {
  DAYS[`presence/${design}`] = (env) => perUser(presenceDay(env, design), MODEL.presence.cohort);
  const cohort = design === "rollcall" ? MODEL.fanout.cohort : ALONE;
  DAYS[`fanout/${design}`] = (env) => perUser(fanoutDay(env, design, cohort), cohort);
}
for (const design of ["socket", "rollcall", "kv", "sse"] as const) {
  const isOurs = design === "socket" || design === "rollcall";
  const cohort = isOurs ? MODEL.devices.cohort[design] : ALONE;
  DAYS[`devices/${design}`] = (env) => perUser(devicesDay(env, design, cohort), cohort);
}
// As many users on each shard: a million differ from 100 000 in the number of shards only.
for (const users of [1_000, 100_000] as const) {
  for (const by of ["socket", "polling"] as const) {
    DAYS[`moods/${by}-${users}`] = (env) => perUser(moodsDay(env, users, by), users);
  }
}

/** KV as far as it is used here: it costs what it is asked, wherever it keeps that. */
class MemoryKv {
  readonly #values = new Map<string, string>();

  async get(key: string): Promise<unknown> {
    return JSON.parse(this.#values.get(key) ?? "null");
  }

  async put(key: string, value: string): Promise<void> {
    this.#values.set(key, value);
  }

  getWithMetadata(): never {
    throw new Error("Nobody asks for this");
  }
}

export default serveDays<CostEnv>(DAYS, (env) => ({ ...env, KV: new MemoryKv() as never }));
