// @module-tag slow
/** Users in many rooms at once, on the server that `npm start` starts: revoking tokens, watching who is online. */
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { SignJWT } from "jose";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { WebSocket } from "ws";
import { type PresenceEvents, VeraniClient } from "../../client/client.ts";
import { FanoutClient } from "../../client/fanout.ts";
import { readDevVars } from "../../scripts/dev-vars.ts";
import type { Inspection } from "../../src/actor/call.ts";
import { PING, PROBE } from "../../src/wire/frames.ts";
import { starvedMs } from "../kit/pressure.ts";
import { IMPATIENT, PlainWebSocket } from "../kit/sockets.ts";
import { type Server, startServer } from "./server.ts";

const SECRET = readDevVars().JWT_SECRET ?? "";
/** 7 s after a join an actor wakes to see who pings, and it sleeps 10 s after that. */
const ASLEEP_MS = 21_000;
/** A room sweeps at most once in 5 s, a join included. */
const SWEPT_MS = 5_500;
const SOON_MS = 1_000;
/** At most so much of the time in which processes waited for a CPU is left out. */
const STARVED_MS = 3_000;

let server: Server;
beforeAll(async () => {
  server = await startServer();
});
/** Ends what the tests opened. */
const endings: (() => void)[] = [];
afterAll(async () => {
  for (const end of endings) end();
  await server?.stop();
});

const nowS = () => Math.floor(Date.now() / 1_000);

function sign(userId: string, iat: number, claims: object = {}): Promise<string> {
  return new SignJWT({ userId, iat, exp: nowS() + 3_600, ...claims })
    .setProtectedHeader({ alg: "HS256" })
    .sign(new TextEncoder().encode(SECRET));
}

interface Asked {
  token?: string;
  body?: unknown;
}

function ask(route: string, { token = "user:backend", body }: Asked = {}): Promise<Response> {
  const [method = "", path] = route.split(" ");
  return fetch(server.url + path, {
    method,
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    ...(method !== "GET" && { body: JSON.stringify(body ?? {}) }),
  });
}

async function inspect(actor: string): Promise<Inspection> {
  return (await (await ask(`GET /debug/actors/${actor}`)).json()) as Inspection;
}

/** The time since it was made, and how long that may be where a second is allowed. */
class Stopwatch {
  readonly #fromMs = performance.now();
  readonly #fromStarvedMs = starvedMs();

  get nowMs(): number {
    return performance.now() - this.#fromMs;
  }

  /** A second, and the time for which processes waited for a CPU. */
  get mostMs(): number {
    return SOON_MS + Math.min(STARVED_MS, starvedMs() - this.#fromStarvedMs);
  }
}

/** A connection that the server is to close. */
interface Connection {
  name: string;
  /** Resolves with the code, or `end` for a stream. */
  closed: Promise<number | "end">;
}

/** A socket without a client library, which pings. */
async function openRaw(path: string, token: string): Promise<WebSocket> {
  const socket = new PlainWebSocket(`${server.wsUrl}${path}&token=${token}`);
  socket.on("error", () => {});
  await once(socket, "open");
  // The development proxy keeps a connection open after its close whose client has never sent a frame.
  const ping = path.startsWith("/ws/presence") ? PING : "ping";
  socket.send(ping);
  const pings = setInterval(() => socket.send(ping), 4_000);
  socket.once("close", () => clearInterval(pings));
  endings.push(() => socket.terminate());
  return socket;
}

function connectionOf(name: string, socket: WebSocket): Connection {
  return { name, closed: once(socket, "close").then(([code]) => code as number) };
}

async function rawConnection(path: string, token: string): Promise<Connection> {
  return connectionOf(path, await openRaw(path, token));
}

async function streamConnection(path: string, token: string): Promise<Connection> {
  const controller = new AbortController();
  endings.push(() => controller.abort());
  const response = await fetch(server.url + path, {
    headers: { Authorization: `Bearer ${token}` },
    signal: controller.signal,
  });
  expect([path, response.status]).toEqual([path, 200]);
  const reader = response.body?.getReader();
  if (!reader) throw new Error("no stream");
  await reader.read();
  const read = async () => {
    while (!(await reader.read()).done);
    return "end" as const;
  };
  return { name: path, closed: read() };
}

/** The real client, and its first close. */
async function joinAs(
  room: string,
  token: () => string | Promise<string>,
): Promise<Connection & { client: VeraniClient<PresenceEvents> }> {
  const url = `${server.wsUrl}/ws/presence?room=${room}`;
  const client = new VeraniClient<PresenceEvents>(url, {
    token,
    reconnection: IMPATIENT.reconnection,
  });
  endings.push(() => client.close());
  await client.waitForConnection();
  const closed = new Promise<number>((resolve) => client.onClose(({ code }) => resolve(code)));
  return { name: `client in ${room}`, closed, client };
}

/** Another user in a room: what came of the numbered events, and of the others' coming and going. */
class Bystander {
  readonly room: string;
  readonly numbers: number[] = [];
  readonly events: string[] = [];
  closes = 0;
  published = 0;

  private constructor(room: string, client: VeraniClient<PresenceEvents>) {
    this.room = room;
    client.onClose(() => {
      this.closes += 1;
    });
    client.on("n" as never, ({ n }: { n: number }) => this.numbers.push(n));
    for (const event of ["online", "offline", "update", "status"] as const) {
      client.on(`presence.${event}`, (data) => {
        const { userId, reason } = data as { userId: string; reason?: string };
        this.events.push([event, userId, reason].filter(Boolean).join(" "));
      });
    }
  }

  static async join(room: string): Promise<Bystander> {
    const { client } = await joinAs(room, () => "user:ben");
    return new Bystander(room, client);
  }

  async publish(): Promise<void> {
    this.published += 1;
    const body = { event: "n", data: { n: this.published } };
    const answer = await ask(`POST /api/v1/rooms/${this.room}/events`, { body });
    expect(answer.status).toBe(200);
    await answer.arrayBuffer();
  }

  get missed(): number {
    const isInOrder = this.numbers.every((n, i) => n === i + 1);
    return isInOrder ? this.published - this.numbers.length : Number.NaN;
  }
}

/** Routes that a token is refused by once it was revoked. Of the first few, a good one gets the answer. */
const ROUTES: readonly (readonly [route: string, status?: number])[] = [
  ["GET /api/v1/presence?room=revoke-0", 200],
  ["GET /api/v1/rooms/revoke-0?users=1", 200],
  ["GET /api/v1/rooms/revoke-0/stream", 200],
  ["GET /fanout/stream?type=a", 200],
  ["GET /api/v1/users/ann", 200],
  // No webhook selects the room.
  ["GET /api/v1/rooms/revoke-0/changes", 404],
  ["POST /api/v1/rooms/revoke-0/events"],
  ["POST /publish"],
  ["DELETE /api/v1/rooms/revoke-0/users/ben"],
  ["POST /api/v1/users/ann/revoke"],
  ["POST /api/v1/users/ann/disconnect"],
];
const SOCKETS = ["/ws/presence?room=revoke-0", "/ws/fanout?x", "/ws/people?x", "/?x"];

async function statusOf(route: string, token: string): Promise<number> {
  const { status, body } = await ask(route, { token, body: { event: "n", userId: "ann" } });
  await body?.cancel();
  return status;
}

/** 50 connections of a user, over all ways that there are. */
class Everywhere {
  readonly connections: Connection[] = [];
  /** Clients that get the newest token for each connection, and those that keep theirs. */
  readonly returning: VeraniClient<PresenceEvents>[] = [];
  readonly stubborn: VeraniClient<PresenceEvents>[] = [];
  /** A socket in each room. */
  readonly sockets: WebSocket[] = [];
  readonly fanout: FanoutClient;
  readonly #old: string;
  #newest: string | Promise<string>;

  private constructor(old: string) {
    this.#old = old;
    this.#newest = old;
    let close: (code: number) => void;
    const closed = new Promise<number>((resolve) => {
      close = resolve;
    });
    this.fanout = new FanoutClient(server.url, {
      token: () => this.#newest,
      onClose: ({ code }) => close(code),
    });
    endings.push(() => this.fanout.disconnect());
    this.connections.push({ name: "client of the fan-out", closed });
  }

  static async connect(rooms: readonly string[], old: string): Promise<Everywhere> {
    const all = new Everywhere(old);
    await expect.poll(() => all.fanout.state).toBe("connected");
    await all.#connect(rooms);
    return all;
  }

  async #connect(rooms: readonly string[]): Promise<void> {
    const { connections } = this;
    const old = this.#old;
    for (const [i, room] of rooms.entries()) {
      const socket = await openRaw(`/ws/presence?room=${room}&v=3&probe=1`, old);
      this.sockets.push(socket);
      connections.push(connectionOf(`socket in ${room}`, socket));
      if (i % 5 >= 3) continue;
      connections.push(await streamConnection(`/api/v1/rooms/${room}/stream`, old));
      const keeps = i % 2 === 0;
      const joined = await joinAs(room, () => (keeps ? old : this.#newest));
      (keeps ? this.stubborn : this.returning).push(joined.client);
      connections.push(joined);
    }
    for (const room of rooms.slice(-2)) {
      connections.push(await rawConnection(`/ws/presence?room=${room}`, old));
    }
    connections.push(await rawConnection("/ws/fanout?x", old));
    connections.push(await rawConnection("/ws/people?x", old));
    connections.push(await streamConnection("/fanout/stream?type=a", old));
  }

  /** From now on clients that come back wait for this token. */
  renew(token: Promise<string>): void {
    this.#newest = token;
  }

  /** Waits until all are closed. @returns with what, and when since `watch` began */
  async closes(watch: Stopwatch): Promise<{ name: string; code: number | "end"; ms: number }[]> {
    const closed = new Map<Connection, { name: string; code: number | "end"; ms: number }>();
    for (const connection of this.connections) {
      const { name } = connection;
      void connection.closed.then((code) => {
        closed.set(connection, { name, code, ms: watch.nowMs });
      });
    }
    const open = () =>
      this.connections.filter((connection) => !closed.has(connection)).map(({ name }) => name);
    await expect.poll(open, { timeout: 15_000, interval: 10 }).toEqual([]);
    return [...closed.values()];
  }
}

describe("revoking a user's tokens", () => {
  test("closes 50 connections in 20 rooms, half of them asleep, within a second; the old token is refused everywhere, a new one is not, and others notice the leave only", {
    timeout: 180_000,
  }, async () => {
    const rooms = Array.from({ length: 20 }, (_, i) => `revoke-${i}`);
    // In the others somebody publishes all the time.
    const asleep = rooms.slice(0, 10);
    const bystanders = await Promise.all(rooms.map((room) => Bystander.join(room)));
    const old = await sign("ann", nowS() - 5);
    const ann = await Everywhere.connect(rooms, old);
    expect(ann.connections).toHaveLength(50);
    for (const bystander of bystanders) await bystander.publish();
    // From here on no client asks for a sweep of those rooms for 35 s.
    await sleep(SWEPT_MS);
    for (const socket of ann.sockets.slice(0, asleep.length)) socket.send(PROBE);
    await sleep(100);
    const actors = [...asleep.map((room) => `presence/${room}`), "fanout/ann"];
    const before = await Promise.all(actors.map(inspect));
    const talking = { isOver: false };
    const talk = (async () => {
      while (!talking.isOver) {
        await Promise.all(bystanders.slice(asleep.length).map((bystander) => bystander.publish()));
        await sleep(100);
      }
    })();
    await sleep(ASLEEP_MS);
    for (const bystander of bystanders) bystander.events.length = 0;

    const { promise: fresh, resolve: issue } = Promise.withResolvers<string>();
    ann.renew(fresh);
    const watch = new Stopwatch();
    const [closes, answer] = await Promise.all([
      ann.closes(watch),
      ask("POST /api/v1/users/ann/revoke").then((response) => response.json()),
    ]);
    const { mostMs } = watch;
    const longestMs = Math.max(...closes.map(({ ms }) => ms));
    process.stdout.write(
      `50 connections of a user in 20 rooms were closed within ${Math.round(longestMs)} ms\n`,
    );
    for (const { name, code } of closes) {
      expect([name, code]).toEqual([name, name.includes("/stream") ? "end" : 4401]);
    }
    expect(longestMs).toBeLessThan(mostMs);
    expect(answer).toEqual({ sessions: 50, issuedBefore: expect.any(Number) });
    const after = await Promise.all(actors.map(inspect));
    for (const [i, { starts, wakeUps }] of after.entries()) {
      // Nothing but the revocation has woken it.
      expect([actors[i], starts]).toEqual([actors[i], Number(before[i]?.starts) + 1]);
      expect(wakeUps.alarm + wakeUps.fetch).toBe(0);
    }

    for (const [route] of ROUTES) expect([route, await statusOf(route, old)]).toEqual([route, 401]);
    for (const path of SOCKETS) {
      const socket = new PlainWebSocket(`${server.wsUrl}${path}&token=${old}`);
      const [error] = (await once(socket, "error")) as [Error];
      expect([path, error.message]).toEqual([path, expect.stringContaining("401")]);
      const { closed } = await rawConnection(`${path}&v=3`, old);
      expect([path, await closed]).toEqual([path, 4401]);
    }
    await expect
      .poll(() => ann.stubborn.map((client) => client.getState()), { timeout: 15_000 })
      .toEqual(ann.stubborn.map(() => "disconnected"));

    while (nowS() <= answer.issuedBefore) await sleep(50);
    const token = await sign("ann", nowS());
    issue(token);
    for (const [route, status] of ROUTES) {
      if (status) expect([route, await statusOf(route, token)]).toEqual([route, status]);
    }
    const again = await Promise.all(SOCKETS.map((path) => openRaw(`${path}&v=3`, token)));
    await expect
      .poll(() => ann.returning.map((client) => client.getState()), { timeout: 15_000 })
      .toEqual(ann.returning.map(() => "connected"));
    await expect.poll(() => ann.fanout.state, { timeout: 15_000 }).toBe("connected");
    for (const socket of again) expect(socket.readyState).toBe(socket.OPEN);

    talking.isOver = true;
    await talk;
    for (const bystander of bystanders) await bystander.publish();
    await expect
      .poll(() => bystanders.map(({ missed }) => missed), { timeout: 10_000 })
      .toEqual(rooms.map(() => 0));
    for (const { room, closes, events } of bystanders) {
      // In some rooms she is back by now.
      const [first, ...later] = events;
      expect([room, closes, first]).toEqual([room, 0, "offline ann expired"]);
      expect([room, later.filter((event) => !/^(online|update) ann$/.test(event))]).toEqual([
        room,
        [],
      ]);
    }
    const { rooms: where } = await (await ask("GET /api/v1/users/ann")).json();
    expect(where).toHaveLength(ann.returning.length + 1);
  });
});

/** A socket of `/ws/people`, and what came but for pongs. */
class Watcher {
  readonly texts: string[] = [];
  /** When each came, by `performance.now()`. */
  readonly atMs: number[] = [];
  readonly #socket: WebSocket;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on("message", (data) => {
      if (String(data) === "pong") return;
      this.texts.push(String(data));
      this.atMs.push(performance.now());
    });
  }

  static async open(token: string): Promise<Watcher> {
    return new Watcher(await openRaw("/ws/people?x", token));
  }

  /** @returns the answer's bytes */
  async watch(ids: readonly string[]): Promise<string> {
    const from = this.texts.length;
    this.#socket.send(JSON.stringify({ type: "watch", ids }));
    await expect.poll(() => this.texts.length, { timeout: 60_000 }).toBeGreaterThan(from);
    return this.texts[from] as string;
  }

  async until(count: number): Promise<void> {
    await expect.poll(() => this.texts.length, { timeout: 20_000, interval: 5 }).toBe(count);
  }
}

describe("a socket that watches 500 users", () => {
  test("gets the same bytes for 50 whom it may not see, online or not; a change comes within a second after both sides slept, by one call for each watching actor", {
    timeout: 180_000,
  }, async () => {
    const seen = Array.from({ length: 450 }, (_, i) => `seen-${String(i).padStart(3, "0")}`);
    const veiled = Array.from({ length: 50 }, (_, i) => `veil-${String(i).padStart(3, "0")}`);
    const ids = Array.from({ length: 10 }, (_, i) => [
      ...seen.slice(45 * i, 45 * (i + 1)),
      ...veiled.slice(5 * i, 5 * (i + 1)),
    ]).flat();
    const cap = { "user:seen-*": ["presence"] };
    const join = (room: string, user: string) =>
      openRaw(`/ws/presence?room=${room}&detail=none`, `user:${user}`);
    const online = ["seen-001", "seen-100"];
    const [here] = await Promise.all(online.map((user) => join("people", user)));
    const sockets = await Promise.all(veiled.map((user) => join("veiled", user)));
    for (const user of [...online, "veil-007", "veil-049"]) {
      const where = (await (await ask(`GET /api/v1/users/${user}`)).json()) as { online: boolean };
      expect([user, where.online]).toEqual([user, true]);
    }

    // Each of the veiled is in there as anybody who is offline, to the byte.
    const vera = await Watcher.open(await sign("vera", nowS(), { cap }));
    expect(await vera.watch(ids)).toBe(
      JSON.stringify({
        type: "people.sync",
        users: ids.map((userId) => ({ userId, online: online.includes(userId) })),
      }),
    );
    // Another socket of the same user, another user, and one who may see all: one call for each actor.
    const few = ["seen-200", ...veiled];
    const second = await Watcher.open(await sign("vera", nowS(), { cap }));
    const vito = await Watcher.open(await sign("vito", nowS(), { cap }));
    for (const watcher of [second, vito]) expect(await watcher.watch(few)).not.toContain("true");
    const olga = await Watcher.open("user:olga");
    expect((await olga.watch(few)).match(/true/g)).toHaveLength(50);
    const watchers = [vera, second, vito, olga];
    const until = (count: number, ofOlga: number) =>
      Promise.all(watchers.map((watcher) => watcher.until(watcher === olga ? ofOlga : count)));

    // Half of them leave: only the one who may see them notices.
    for (const socket of sockets.splice(0, 25)) socket.close();
    await until(1, 26);
    const actors = ["fanout/vera", "fanout/vito", "fanout/olga", "fanout/seen-200"];
    const before = await Promise.all(actors.map(inspect));
    await sleep(ASLEEP_MS);

    const watch = new Stopwatch();
    const fromMs = performance.now();
    const joined = await join("people", "seen-200");
    await until(2, 27);
    const { mostMs } = watch;
    const longestMs = Math.max(...watchers.map(({ atMs }) => (atMs.at(-1) ?? 0) - fromMs));
    process.stdout.write(
      `A change reached 4 sockets of 3 users within ${Math.round(longestMs)} ms, after all had slept\n`,
    );
    const update = (online: boolean) =>
      JSON.stringify({ type: "people.update", userId: "seen-200", online });
    for (const { texts } of watchers) expect(texts.at(-1)).toBe(update(true));
    expect(longestMs).toBeLessThan(mostMs);

    const after = await Promise.all(actors.map(inspect));
    for (const [i, { starts, wakeUps }] of after.entries()) {
      // It slept, and then one call came.
      expect([actors[i], starts]).toEqual([actors[i], Number(before[i]?.starts) + 1]);
      expect([actors[i], wakeUps]).toEqual([
        actors[i],
        { fetch: 0, message: 0, close: 0, alarm: 0, rpc: 1 },
      ]);
    }

    // At most one change for a user and second.
    await sleep(1_100);
    joined.close();
    await until(3, 28);
    for (const { texts } of watchers) expect(texts.at(-1)).toBe(update(false));
    // The veiled cost those who may not see them no call.
    for (const socket of sockets) socket.close();
    await until(3, 53);
    const last = await Promise.all(actors.slice(0, 3).map(inspect));
    expect(last.map(({ wakeUps }) => wakeUps.rpc)).toEqual([2, 2, 27]);
    here?.close();
    await vera.until(4);
    expect(vera.texts.at(-1)).toContain("seen-001");
    expect([second, vito].map(({ texts }) => texts.length)).toEqual([3, 3]);
    for (const { texts } of [vera, second, vito]) {
      expect(texts.slice(1).join()).not.toContain("veil");
    }
  });
});
