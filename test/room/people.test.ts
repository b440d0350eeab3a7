import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { env, exports } from "cloudflare:workers";
import { describe, expect, it, vi } from "vitest";
import type { Untyped } from "../../src/wire/frames.ts";
import { connect, freshName, type TestSocket } from "./socket.ts";
import { signedToken } from "./tokens.ts";

const worker = exports.default as { fetch(url: string, init: RequestInit): Promise<Response> };
const nowS = () => Math.floor(Date.now() / 1_000);

async function ask(path: string, token = "user:backend", method = "GET", body?: unknown) {
  const response = await worker.fetch(`https://rollcall.test/api/v1/users/${path}`, {
    method,
    headers: { Authorization: `Bearer ${token}` },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  return { status: response.status, body: (await response.json()) as Untyped };
}

function enter(room: string, token: string, query = "v=3"): Promise<TestSocket> {
  return connect(null, `/ws/presence?room=${room}&${query}&token=${token}`);
}

const actorOf = (user: string) => env.FANOUT.getByName(user);

/** What the actor of a user has stored of where the user is. */
function stored(user: string): Promise<Untyped> {
  return runInDurableObject(actorOf(user) as never, (_, { storage }: DurableObjectState) =>
    storage.kv.get("person"),
  );
}

/** Has the next calls of a method of an actor's storage fail. @returns how many have */
async function failNext(
  stub: unknown,
  times: number,
  pick: (storage: DurableObjectStorage) => object,
  method: string,
): Promise<() => number> {
  let failed = 0;
  await runInDurableObject(stub as never, (_, { storage }: DurableObjectState) => {
    const target = pick(storage) as Record<string, (...args: unknown[]) => unknown>;
    const run = target[method] as (...args: unknown[]) => unknown;
    target[method] = (...args) => {
      if (failed < times) {
        failed += 1;
        throw new Error("Not now");
      }
      return run.apply(target, args);
    };
  });
  return () => failed;
}

/** Has an actor's answers to calls take longer. */
async function answerLate(stub: unknown, ms: number): Promise<void> {
  await runInDurableObject(stub as never, (instance: object) => {
    const usual = Object.getPrototypeOf(instance) as { ingest(...args: unknown[]): unknown };
    const late = Object.create(usual);
    late.ingest = async function ingest(...args: unknown[]) {
      const answer = await usual.ingest.apply(this, args);
      await scheduler.wait(ms);
      return answer;
    };
    Object.setPrototypeOf(instance, late);
  });
}

/** Users whose row a room has. */
function members(room: string): Promise<string[]> {
  return runInDurableObject(
    env.PRESENCE.getByName(room) as never,
    (_, { storage }: DurableObjectState) =>
      [...storage.kv.list({ prefix: "member:" })].map(([key]) => key.slice("member:".length)),
  );
}

/** A client of `/ws/people`, which has a wire of its own. */
class Watcher {
  readonly messages: Untyped[] = [];
  readonly texts: string[] = [];
  closed: number | undefined;
  readonly #ws: WebSocket;
  #notify = () => {};

  constructor(ws: WebSocket) {
    this.#ws = ws;
    ws.addEventListener("message", ({ data }) => {
      this.texts.push(String(data));
      if (data !== "pong") this.messages.push(JSON.parse(String(data)));
      this.#notify();
    });
    ws.addEventListener("close", ({ code }) => {
      this.closed = code;
      this.#notify();
    });
    ws.accept();
  }

  static async connect(token: string): Promise<Watcher> {
    const response = await worker.fetch(`https://rollcall.test/ws/people?token=${token}`, {
      headers: { Upgrade: "websocket" },
    });
    if (!response.webSocket) throw new Error(`no upgrade: ${response.status}`);
    return new Watcher(response.webSocket);
  }

  send(message: unknown): void {
    this.#ws.send(JSON.stringify(message));
  }

  async until(holds: () => boolean): Promise<void> {
    const deadline = AbortSignal.timeout(8_000);
    while (!holds()) {
      if (deadline.aborted) throw new Error(`did not come: ${JSON.stringify(this.messages)}`);
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#notify = resolve;
      deadline.addEventListener("abort", () => resolve(), { once: true });
      await promise;
    }
  }

  /** Watches, and waits for the answer. */
  async watch(ids: string[]): Promise<Untyped> {
    const from = this.messages.length;
    this.send({ type: "watch", ids });
    await this.until(() => this.messages.length > from);
    return this.messages[from];
  }

  async update(userId: string, online: boolean): Promise<void> {
    await this.until(() =>
      this.messages.some(
        (one) => one.type === "people.update" && one.userId === userId && one.online === online,
      ),
    );
  }
}

describe("where a user is", () => {
  it("has the rooms with devices and status, and when the user was last seen", async () => {
    const [ann, room, other] = [freshName(), freshName(), freshName()];
    expect((await ask(ann)).body).toEqual({
      online: false,
      lastSeenMs: null,
      rooms: [],
      devices: [],
    });
    const sockets = [await enter(room, `user:${ann}`), await enter(room, `user:${ann}`)];
    const last = await enter(other, `user:${ann}`);
    last.emit("presence.status", { status: "busy" });
    await last.caughtUp();
    await vi.waitFor(async () => expect((await ask(ann)).body.rooms).toHaveLength(2));
    const { body } = await ask(ann);
    expect(body).toMatchObject({ online: true, devices: [] });
    expect(Math.abs(body.lastSeenMs - Date.now())).toBeLessThan(2_000);
    expect(body.rooms.toSorted((a: Untyped, b: Untyped) => b.devices - a.devices)).toEqual([
      { room, devices: 2, status: "online" },
      { room: other, devices: 1, status: "busy" },
    ]);
    for (const socket of [...sockets, last]) await socket.close();
    await vi.waitFor(async () => expect((await ask(ann)).body.online).toBe(false));
    const after = (await ask(ann)).body;
    expect(after.rooms).toEqual([]);
    expect(Math.abs(after.lastSeenMs - Date.now())).toBeLessThan(5_000);
  });

  it("has the devices that send heartbeats, of a user whose id they know", async () => {
    const userId = crypto.randomUUID();
    const beat = {
      ...{ schema_version: 1, user_id: userId, device_id: crypto.randomUUID(), status: "online" },
      ...{ source: "test", sent_at_ms: Date.now(), seq: 1, ttl_ms: 35_000 },
    };
    await worker.fetch("https://rollcall.test/api/v1/daemon/presence/heartbeat", {
      method: "POST",
      headers: {
        Authorization: `Bearer ${env.PRESENCE_DO_INGEST_TOKEN}`,
        "Content-Type": "application/json",
      },
      body: JSON.stringify(beat),
    });
    expect((await ask(userId)).body.devices).toMatchObject([{ device_id: beat.device_id }]);
  });

  it("is for those with the grant only, and does not show where somebody is unlisted", async () => {
    const [ann, room] = [freshName(), freshName()];
    await enter(room, `user:${ann}`, "v=3&listed=0");
    await vi.waitFor(async () => expect((await stored(ann))?.rooms).toHaveLength(1));
    const { body } = await ask(ann);
    expect(body).toMatchObject({ online: false, rooms: [] });
    const own = await signedToken({ userId: ann, cap: { "user:<self>": ["presence"] } });
    expect((await ask(ann, own)).status).toBe(200);
    expect((await ask("somebody", own)).status).toBe(403);
    expect((await ask("%20")).status).toBe(400);
  });

  it("is right after a crash of the room: users without a new connection are gone", async () => {
    const [ann, ben, room] = [freshName(), freshName(), freshName()];
    await enter(room, `user:${ann}`);
    await enter(room, `user:${ben}`);
    await vi.waitFor(async () => expect((await members(room)).length).toBe(2));
    await vi.waitFor(async () => expect((await stored(ben))?.rooms).toHaveLength(1));
    await evictDurableObject(env.PRESENCE.getByName(room), { webSockets: "close" });
    const back = await enter(room, `user:${ben}`);
    await vi.waitFor(async () => expect((await stored(ann)).rooms).toEqual([]));
    expect(await members(room)).toEqual([ben]);
    expect((await ask(ann)).body.online).toBe(false);
    expect((await ask(ben)).body.online).toBe(true);
    expect(back.closed).toBeNull();
  });

  it("is right at once when it is asked for, though the room has not woken since its crash", async () => {
    const [ann, room] = [freshName(), freshName()];
    await enter(room, `user:${ann}`);
    await vi.waitFor(async () => expect((await stored(ann))?.rooms).toHaveLength(1));
    await evictDurableObject(env.PRESENCE.getByName(room), { webSockets: "close" });
    expect((await ask(ann)).body).toMatchObject({ online: false, rooms: [] });
  });

  it("survives sleeps of the room and of the user's actor without another report", async () => {
    const [ann, room] = [freshName(), freshName()];
    const socket = await enter(room, `user:${ann}`);
    await vi.waitFor(async () => expect((await stored(ann))?.rooms).toHaveLength(1));
    const before = await stored(ann);
    await evictDurableObject(env.PRESENCE.getByName(room));
    await evictDurableObject(actorOf(ann));
    await socket.caughtUp();
    expect((await ask(ann)).body.online).toBe(true);
    expect(await stored(ann)).toEqual(before);
    await evictDurableObject(env.PRESENCE.getByName(room));
    await socket.close();
    await vi.waitFor(async () => expect((await stored(ann)).rooms).toEqual([]));
    expect(await members(room)).toEqual([]);
  });

  it("is reported again until the user's actor has it", async () => {
    const [ann, room] = [freshName(), freshName()];
    const failures = await failNext(actorOf(ann), 2, (storage) => storage.kv, "put");
    await enter(room, `user:${ann}`);
    await vi.waitFor(async () => expect((await stored(ann))?.rooms).toHaveLength(1), 15_000);
    expect(failures()).toBe(2);
  });

  it("is known although somebody unlisted comes back while the end before is still being reported", async () => {
    const [ann, room] = [freshName(), freshName()];
    const token = await signedToken({ userId: ann, iat: nowS() - 5 });
    const first = await enter(room, token, "v=3&listed=0");
    await vi.waitFor(async () => expect((await stored(ann))?.rooms).toHaveLength(1));
    await answerLate(actorOf(ann), 400);
    await first.close();
    await vi.waitFor(async () => expect((await stored(ann)).rooms).toHaveLength(0));
    const again = await enter(room, token, "v=3&listed=0");
    await vi.waitFor(async () => expect((await stored(ann)).rooms).toHaveLength(1), 3_000);
    expect((await ask(`${ann}/revoke`, undefined, "POST")).body.sessions).toBe(1);
    expect((await again.ended()).code).toBe(4401);
  });

  it("is known after a crash that came between the report of an end and the deletion of its row", async () => {
    const [ann, room] = [freshName(), freshName()];
    await enter(room, `user:${ann}`);
    await vi.waitFor(async () => expect((await stored(ann))?.rooms).toHaveLength(1));
    await evictDurableObject(env.PRESENCE.getByName(room), { webSockets: "close" });
    await runInDurableObject(actorOf(ann) as never, (_, { storage }: DurableObjectState) => {
      storage.kv.put("person", { v: 1, rooms: [], seq: 2, isShown: false });
    });
    await evictDurableObject(actorOf(ann));
    expect(await members(room)).toEqual([ann]);
    await enter(room, `user:${ann}`);
    await vi.waitFor(async () => expect((await stored(ann)).rooms).toHaveLength(1));
  });

  it("ends in a hundred rooms: the next one closes with 4403", async () => {
    const ann = freshName();
    const rooms = Array.from({ length: 100 }, () => ({
      ...{ binding: "PRESENCE", room: freshName(), atMs: 1, isListed: true },
    }));
    await runInDurableObject(actorOf(ann) as never, (_, { storage }: DurableObjectState) => {
      storage.kv.put("person", { v: 1, rooms, seq: 1, isShown: true });
    });
    await evictDurableObject(actorOf(ann));
    const socket = await enter(freshName(), `user:${ann}`);
    expect((await socket.ended()).code).toBe(4403);
  });
});

describe("revoking a user's tokens", () => {
  it("closes the sessions everywhere with 4401, asleep or not, and refuses the old token at once", async () => {
    const ann = freshName();
    const old = await signedToken({ userId: ann, iat: nowS() - 5 });
    const rooms = [freshName(), freshName(), freshName()];
    const sockets: TestSocket[] = [];
    for (const room of rooms)
      for (const v of [1, 3]) sockets.push(await enter(room, old, `v=${v}`));
    const inbox = await connect(null, `/ws/fanout?token=${old}`);
    const people = await Watcher.connect(old);
    const ben = await enter(rooms[0] as string, "user:ben");
    await vi.waitFor(async () => expect((await stored(ann))?.rooms).toHaveLength(3));
    await evictDurableObject(env.PRESENCE.getByName(rooms[0] as string));
    await evictDurableObject(actorOf(ann));
    const { status, body } = await ask(`${ann}/revoke`, undefined, "POST");
    expect([status, body]).toEqual([200, { sessions: 8, issuedBefore: expect.any(Number) }]);
    for (const socket of [...sockets, inbox]) expect((await socket.ended()).code).toBe(4401);
    await people.until(() => people.closed === 4401);
    const diff = await ben.event("presence.diff", ({ leaves }) => leaves.length > 0);
    expect(diff.leaves).toMatchObject([{ userId: ann, reason: "expired" }]);
    expect(ben.closed).toBeNull();
    for (const path of [`/ws/presence?room=${rooms[0]}`, "/ws/fanout?", "/ws/people?"]) {
      const answer = await worker.fetch(`https://rollcall.test${path}&token=${old}`, {
        headers: { Upgrade: "websocket" },
      });
      expect([path, answer.status]).toEqual([path, 401]);
    }
    expect((await ask(ann, old)).status).toBe(401);
    const fresh = await signedToken({ userId: ann, iat: nowS() + 2 });
    const again = await enter(rooms[0] as string, fresh);
    await again.event("presence.sync");
    await again.caughtUp();
    expect(again.closed).toBeNull();
  });

  it("is known to the actors although the Worker does not know of it yet, also to a join in flight", async () => {
    const [ann, room] = [freshName(), freshName()];
    // As it is where KV has not spread it: the Worker passes the token.
    await runInDurableObject(actorOf(ann) as never, (_, { storage }: DurableObjectState) => {
      storage.kv.put("person", { v: 1, rooms: [], seq: 0, isShown: false, floorS: nowS() });
    });
    await evictDurableObject(actorOf(ann));
    const old = await signedToken({ userId: ann, iat: nowS() - 5 });
    const joined = await enter(room, old);
    expect((await joined.ended()).code).toBe(4401);
    const unnamed = await enter(room, await signedToken({ userId: ann }));
    expect((await unnamed.ended()).code).toBe(4401);
    const inbox = await connect(null, `/ws/fanout?v=3&token=${old}`);
    expect((await inbox.ended()).code).toBe(4401);
    // The room knows from the first session of the new token on.
    const fresh = await enter(room, await signedToken({ userId: ann, iat: nowS() + 5 }));
    await fresh.event("presence.sync");
    await vi.waitFor(async () => expect(await members(room)).toEqual([ann]));
    await vi.waitFor(async () => {
      const late = await enter(room, old);
      expect((await late.ended()).code).toBe(4401);
    });
    expect(fresh.closed).toBeNull();
  });

  it("ends sessions that are lost and could be resumed, and those that a refresh keeps alive", async () => {
    const [ann, room] = [freshName(), freshName()];
    const old = await signedToken({ userId: ann, iat: nowS() - 5, exp: nowS() + 600 });
    const away = await enter(room, old);
    const hello = await away.event("hello");
    await away.close(4000);
    const kept = await enter(room, old);
    const fresh = await signedToken({ userId: ann, iat: nowS() + 3, exp: nowS() + 600 });
    expect((await kept.ask("auth", { token: fresh })).type).toBe("ack");
    await vi.waitFor(async () => expect((await stored(ann))?.rooms).toHaveLength(1));
    const { body } = await ask(`${ann}/revoke`, undefined, "POST");
    expect(body.sessions).toBe(1);
    const resume = `v=3&resume=${hello.session}:${hello.epoch}:${hello.seq}`;
    const again = await enter(room, fresh, resume);
    expect(await again.event("hello")).toMatchObject({ resumed: false });
    await kept.caughtUp();
    expect(kept.closed).toBeNull();
    expect((await kept.ask("auth", { token: old })).type).toBe("nack");
  });

  it("is known to sessions of newer tokens, which take no revoked one, although the Worker would", async () => {
    const [ann, room] = [freshName(), freshName()];
    await runInDurableObject(actorOf(ann) as never, (_, { storage }: DurableObjectState) => {
      storage.kv.put("person", { v: 1, rooms: [], seq: 0, isShown: false, floorS: nowS() });
    });
    await evictDurableObject(actorOf(ann));
    const exp = nowS() + 600;
    const old = await signedToken({ userId: ann, iat: nowS() - 5, exp });
    const fresh = await signedToken({ userId: ann, iat: nowS() + 5, exp });
    const inRoom = await enter(room, fresh);
    await vi.waitFor(async () => {
      const late = await enter(room, old);
      expect((await late.ended()).code).toBe(4401);
    });
    expect((await inRoom.ask("auth", { token: old })).type).toBe("nack");
    expect((await inRoom.ask("auth", { token: fresh })).type).toBe("ack");
    const people = await Watcher.connect(fresh);
    for (const [n, token] of [old, fresh].entries()) {
      people.send({ type: "auth", id: `${n}`, data: { token } });
      await people.until(() => people.messages.length > n);
    }
    expect(people.messages.map(({ type }) => type)).toEqual(["nack", "ack"]);
  });

  it("spares tokens that were issued after the second that it names, and refuses one in the future", async () => {
    const [ann, room] = [freshName(), freshName()];
    const old = await enter(room, await signedToken({ userId: ann, iat: nowS() - 100 }));
    const newer = await enter(room, await signedToken({ userId: ann, iat: nowS() - 50 }));
    await vi.waitFor(async () => expect((await stored(ann))?.rooms).toHaveLength(1));
    const issuedBefore = nowS() - 60;
    const { body } = await ask(`${ann}/revoke`, undefined, "POST", { issuedBefore });
    expect(body).toEqual({ sessions: 1, issuedBefore });
    expect((await old.ended()).code).toBe(4401);
    await newer.caughtUp();
    expect(newer.closed).toBeNull();
    for (const bad of [nowS() + 600, "now", -1]) {
      const refused = await ask(`${ann}/revoke`, undefined, "POST", { issuedBefore: bad });
      expect(refused.status).toBe(400);
    }
  });

  it("up to an earlier second does not give back the tokens of a later one, in the Worker either", async () => {
    const ann = freshName();
    const old = await signedToken({ userId: ann, iat: nowS() - 100 });
    const statusOf = async (token: string) => {
      const headers = { Authorization: `Bearer ${token}` };
      return (await worker.fetch("https://rollcall.test/api/v1/presence", { headers })).status;
    };
    for (const issuedBefore of [nowS() - 60, nowS() - 1_000]) {
      await ask(`${ann}/revoke`, undefined, "POST", { issuedBefore });
      expect(await statusOf(old)).toBe(401);
    }
    expect(await statusOf(await signedToken({ userId: ann, iat: nowS() - 10 }))).toBe(200);
  });

  it("reaches a room that could not be reached at first", async () => {
    const [ann, room] = [freshName(), freshName()];
    const old = await signedToken({ userId: ann, iat: nowS() - 5 });
    const socket = await enter(room, old);
    await vi.waitFor(async () => expect((await stored(ann))?.rooms).toHaveLength(1));
    const failures = await failNext(
      env.PRESENCE.getByName(room),
      1,
      (storage) => storage.kv,
      "put",
    );
    expect((await ask(`${ann}/revoke`, undefined, "POST")).body.sessions).toBe(0);
    expect(failures()).toBe(1);
    expect((await socket.ended()).code).toBe(4401);
  });

  it("needs its grant; a disconnect closes the connections and leaves the tokens as they are", async () => {
    const [ann, room] = [freshName(), freshName()];
    const token = await signedToken({ userId: ann, iat: nowS() });
    const socket = await enter(room, token);
    await vi.waitFor(async () => expect((await stored(ann))?.rooms).toHaveLength(1));
    const weak = await signedToken({ userId: "b", cap: { "user:*": ["presence", "publish"] } });
    for (const what of ["revoke", "disconnect"]) {
      expect((await ask(`${ann}/${what}`, weak, "POST")).status).toBe(403);
    }
    const { body } = await ask(`${ann}/disconnect`, undefined, "POST");
    expect(body).toEqual({ sessions: 1 });
    expect((await socket.ended()).code).toBe(4401);
    const again = await enter(room, token);
    await again.event("presence.sync");
    await again.caughtUp();
    expect(again.closed).toBeNull();
  });
});

describe("a socket that watches people", () => {
  it("receives how they are, and then each change within a second", async () => {
    const [viewer, ann, ben, room] = [freshName(), freshName(), freshName(), freshName()];
    const online = await enter(room, `user:${ann}`);
    await vi.waitFor(async () => expect((await stored(ann))?.rooms).toHaveLength(1));
    const watcher = await Watcher.connect(`user:${viewer}`);
    expect(await watcher.watch([ann, ben])).toEqual({
      type: "people.sync",
      users: [
        { userId: ann, online: true },
        { userId: ben, online: false },
      ],
    });
    await enter(room, `user:${ben}`);
    await watcher.update(ben, true);
    await online.close();
    await watcher.update(ann, false);
    expect(watcher.messages.slice(1).map(({ type, ...rest }) => rest)).toEqual([
      { userId: ben, online: true },
      { userId: ann, online: false },
    ]);
  });

  it("receives changes also if both actors have slept", async () => {
    const [viewer, ann, room] = [freshName(), freshName(), freshName()];
    const watcher = await Watcher.connect(`user:${viewer}`);
    await watcher.watch([ann]);
    for (const user of [viewer, ann]) await evictDurableObject(actorOf(user));
    const socket = await enter(room, `user:${ann}`);
    await watcher.update(ann, true);
    for (const user of [viewer, ann]) await evictDurableObject(actorOf(user));
    await evictDurableObject(env.PRESENCE.getByName(room));
    await socket.close();
    await watcher.update(ann, false);
    expect(watcher.messages).toHaveLength(3);
  });

  it("costs one call for each watching actor and change, however many sockets it has", async () => {
    const [viewer, other, ann, room] = [freshName(), freshName(), freshName(), freshName()];
    const watchers: Watcher[] = [];
    for (const user of [viewer, viewer, viewer, other]) {
      const watcher = await Watcher.connect(`user:${user}`);
      await watcher.watch([ann]);
      watchers.push(watcher);
    }
    const calls = async (user: string) => (await actorOf(user).inspect()).wakeUps.rpc;
    const before = [await calls(viewer), await calls(other)];
    await enter(room, `user:${ann}`);
    for (const watcher of watchers) await watcher.update(ann, true);
    expect([await calls(viewer), await calls(other)]).toEqual(before.map((n) => n + 1));
  });

  it("receives at most one change for a user and second, and the last one in the end", async () => {
    const [viewer, ann, room] = [freshName(), freshName(), freshName()];
    const watcher = await Watcher.connect(`user:${viewer}`);
    await watcher.watch([ann]);
    const times: number[] = [];
    const begun = Date.now();
    for (let i = 0; i < 6; i++) {
      const socket = await enter(room, `user:${ann}`);
      await socket.event("presence.sync");
      await scheduler.wait(60);
      await socket.close();
      await scheduler.wait(60);
      times.push(Date.now());
    }
    await vi.waitFor(async () => expect((await stored(ann)).rooms).toEqual([]));
    await vi.waitFor(async () => expect((await stored(ann)).isShown).toBe(false), 5_000);
    const updates = watcher.messages.filter(({ type }) => type === "people.update");
    const seconds = (Date.now() - begun) / 1_000;
    expect(updates.length).toBeLessThanOrEqual(Math.ceil(seconds) + 1);
    expect(updates.at(-1)).toEqual({ type: "people.update", userId: ann, online: false });
  });

  it("cannot distinguish 50 users whom it may not see, online, among 500 from users who are offline", async () => {
    const [viewer, room] = [freshName(), freshName()];
    const ids = Array.from({ length: 500 }, (_, i) => `${viewer}-${i}`);
    const visible = ids.slice(0, 450);
    const cap = Object.fromEntries(
      [0, 1, 2, 3, 4].map((n) => [`user:${viewer}-${n}*`, ["presence"]]),
    );
    // Those that begin with 5 to 9 are hidden, but for what the list below allows.
    const hidden = ids.filter((id) => !/-[0-4]\d*$/.test(id));
    const token = await signedToken({ userId: viewer, cap });
    const seen = hidden[0] as string;
    for (const id of hidden.slice(0, 25)) await enter(room, `user:${id}`, "v=3&detail=none");
    const watcher = await Watcher.connect(token);
    const sync = await watcher.watch(ids);
    expect(sync.users).toEqual(ids.map((userId) => ({ userId, online: false })));
    const late = await enter(room, `user:${hidden.at(-1)}`, "v=3&detail=none");
    const shown = await enter(room, `user:${visible[1]}`, "v=3&detail=none");
    await watcher.update(visible[1] as string, true);
    await late.close();
    await shown.close();
    await watcher.update(visible[1] as string, false);
    expect(watcher.texts.slice(1).join()).not.toContain(seen);
    expect(watcher.messages.slice(1).map(({ userId }) => userId)).toEqual([visible[1], visible[1]]);
    // Each entry is as long as that of any offline user with an id of this length.
    const text = watcher.texts[0] as string;
    for (const id of hidden) expect(text).toContain(`{"userId":"${id}","online":false}`);
    // A hidden user's actor is not even called.
    expect(await stored(hidden.at(-2) as string)).toBeUndefined();
  });

  it("watches at most 500 users, can stop watching, and gets coded errors", async () => {
    const [viewer, ann, ben, room] = [freshName(), freshName(), freshName(), freshName()];
    const watcher = await Watcher.connect(`user:${viewer}`);
    const error = async (message: unknown) => {
      const from = watcher.messages.length;
      watcher.send(message);
      await watcher.until(() => watcher.messages.length > from);
      return watcher.messages[from];
    };
    const many = Array.from({ length: 501 }, (_, i) => `u${i}`);
    expect(await error({ type: "watch", ids: many })).toMatchObject({ code: "invalid_data" });
    expect(await error({ type: "watch", ids: [1] })).toMatchObject({ code: "invalid_data" });
    expect(await error({ type: "watch" })).toMatchObject({ code: "invalid_data" });
    await watcher.watch(many.slice(0, 498).map((id) => `${viewer}${id}`));
    expect(await error({ type: "watch", ids: ["x", "y", "z"] })).toMatchObject({
      code: "unprocessable",
    });
    expect(await error({ type: "subscribe", filters: [{ type: "x" }] })).toMatchObject({
      code: "forbidden",
    });
    await watcher.watch([ann, ben]);
    watcher.send({ type: "unwatch", ids: [ann] });
    await watcher.watch([ben]);
    await enter(room, `user:${ann}`);
    await enter(room, `user:${ben}`);
    await watcher.update(ben, true);
    expect(JSON.stringify(watcher.messages.slice(-1))).not.toContain(ann);
  });

  it("may not have actors called without end", async () => {
    const watcher = await Watcher.connect(`user:${freshName()}`);
    for (let i = 0; i < 40; i++) watcher.send({ type: "watch", ids: [`nobody-${i}`] });
    await watcher.until(() => watcher.messages.length === 40);
    const limited = watcher.messages.filter(({ code }) => code === "rate_limited");
    expect(limited.length).toBeGreaterThanOrEqual(5);
  });

  it("ends its lease at the next change once nobody watches any more", async () => {
    const [viewer, ann, room] = [freshName(), freshName(), freshName()];
    const watcher = await Watcher.connect(`user:${viewer}`);
    await watcher.watch([ann]);
    watcher.send({ type: "unwatch", ids: [ann] });
    const leases = () =>
      runInDurableObject(actorOf(ann) as never, (_, { storage }: DurableObjectState) =>
        [...storage.kv.list({ prefix: "watcher:" })].map(([key]) => key),
      );
    expect(await leases()).toEqual([`watcher:${viewer}`]);
    await enter(room, `user:${ann}`);
    await vi.waitFor(async () => expect(await leases()).toEqual([]));
  });

  it("goes by the grant of the newest token: it closes where others may be seen than before", async () => {
    const [viewer, ann, ben] = [freshName(), freshName(), freshName()];
    const token = (...seen: string[]) =>
      signedToken({
        userId: viewer,
        exp: nowS() + 600,
        cap: Object.fromEntries(seen.map((id) => [`user:${id}`, ["presence"]])),
      });
    const show = async (watcher: Watcher, text: string) => {
      const from = watcher.messages.length;
      watcher.send({ type: "auth", id: "1", data: { token: text } });
      await watcher.until(() => watcher.messages.length > from || watcher.closed !== undefined);
      return watcher.closed ?? watcher.messages[from].type;
    };
    for (const [more, outcome] of [
      [[ann, "somebody"], "ack"],
      [[ann, ben], 1001],
      [[], 1001],
    ] as const) {
      const watcher = await Watcher.connect(await token(ann));
      await watcher.watch([ann, ben]);
      expect([more, await show(watcher, await token(...more))]).toEqual([more, outcome]);
    }
  });

  it("renews its leases, and closes where somebody may not be seen any more", async () => {
    const [viewer, ann] = [freshName(), freshName()];
    const watcher = await Watcher.connect(`user:${viewer}`);
    await watcher.watch([ann]);
    const lease = () =>
      runInDurableObject(
        actorOf(ann) as never,
        (_, { storage }: DurableObjectState) =>
          (storage.kv.get(`watcher:${viewer}`) as { untilMs: number } | undefined)?.untilMs,
      );
    // Twelve hours later, as far as the rows show.
    await runInDurableObject(actorOf(ann) as never, (_, { storage }: DurableObjectState) => {
      storage.kv.put(`watcher:${viewer}`, { v: 1, untilMs: Date.now() + 3_600_000 });
    });
    await evictDurableObject(actorOf(ann));
    await evictDurableObject(actorOf(viewer));
    await runInDurableObject(
      actorOf(viewer) as never,
      async (_, { storage }: DurableObjectState) => {
        storage.kv.put("rollcall:timers", { renewal: Date.now() });
        await storage.setAlarm(Date.now());
      },
    );
    await evictDurableObject(actorOf(viewer));
    await vi.waitFor(async () => {
      await actorOf(viewer).inspect();
      expect(await lease()).toBeGreaterThan(Date.now() + 12 * 3_600_000);
    }, 5_000);
    expect(watcher.messages).toHaveLength(1);
  });
});
