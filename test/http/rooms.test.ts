import { evictDurableObject } from "cloudflare:test";
import { env, exports } from "cloudflare:workers";
import { describe, expect, it, onTestFinished } from "vitest";
import type { Untyped } from "../../src/wire/frames.ts";
import { connect, freshName, type TestSocket } from "../room/socket.ts";
import { signedToken } from "../room/tokens.ts";

const worker = exports.default as { fetch(url: string, init: RequestInit): Promise<Response> };
const API = "https://rollcall.test/api/v1/rooms";

interface Options {
  method?: string;
  token?: string;
  body?: unknown;
  headers?: Record<string, string>;
}

async function ask(path: string, { method = "GET", token, body, headers }: Options = {}) {
  const response = await worker.fetch(`${API}/${path}`, {
    method,
    headers: {
      Authorization: `Bearer ${token ?? "user:backend"}`,
      ...(body !== undefined && { "Content-Type": "application/json" }),
      ...headers,
    },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  return { status: response.status, body: (await response.json()) as Untyped, response };
}

function publish(room: string, body: unknown, options: Options = {}) {
  return ask(`${room}/events`, { method: "POST", body, ...options });
}

function enter(room: string, user: string, query = "v=3"): Promise<TestSocket> {
  return connect(null, `/ws/presence?token=user:${user}&room=${room}&${query}`);
}

const granted = (room: string, ...operations: string[]) =>
  signedToken({ userId: "backend", cap: { [`room:${room}`]: operations } });

/** A room as server-sent events. */
async function openStream(path: string, headers: Record<string, string> = {}) {
  const controller = new AbortController();
  const response = await worker.fetch(`${API}/${path}`, {
    headers: { Authorization: "Bearer user:reader", ...headers },
    signal: controller.signal,
  });
  onTestFinished(() => controller.abort());
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let isDone = false;
  const events = () =>
    text
      .split("\n\n")
      .slice(0, -1)
      .filter((block) => /^(id|data|event):/m.test(block))
      .map((block) => {
        const field = (name: string) => new RegExp(`^${name}: (.*)$`, "m").exec(block)?.[1];
        return { id: field("id"), name: field("event"), data: JSON.parse(field("data") ?? "null") };
      });
  const more = async () => {
    const { value, done } = (await reader?.read()) ?? { done: true };
    text += value ?? "";
    isDone ||= done === true;
  };
  return {
    response,
    events,
    async next(matches: (event: Untyped) => boolean): Promise<ReturnType<typeof events>[number]> {
      for (;;) {
        const found = events().find(matches);
        if (found) return found;
        if (isDone) throw new Error(`The stream ended: ${text}`);
        await more();
      }
    },
    async ended(): Promise<void> {
      while (!isDone) await more();
    },
    close: () => controller.abort(),
  };
}
const named = (name: string) => (event: Untyped) => event.data?.event === name;

describe("an event that is published to a room over HTTP", () => {
  it("reaches all in the room, of every protocol, with its verified publisher", async () => {
    const room = freshName();
    const sockets = [await enter(room, "anna", "v=1"), await enter(room, "berta", "v=2")];
    sockets.push(await enter(room, "carla"));
    const body = { event: "news", data: { text: "Hello", publisher: "somebody else" } };
    const { status, body: answer } = await publish(room, body);
    expect([status, answer]).toEqual([200, { recipients: 3, cursor: expect.any(String) }]);
    for (const socket of sockets) {
      expect(await socket.event("news")).toEqual({
        ...{ type: "news", text: "Hello", publisher: "backend" },
      });
    }
  });

  it("leaves out the session that it names, and goes to one channel only", async () => {
    const room = freshName();
    const anna = await enter(room, "anna");
    const { session } = await anna.event("hello");
    const berta = await enter(room, "berta");
    const first = await publish(room, { event: "one", except: session });
    expect(first.body.recipients).toBe(1);
    expect((await publish(room, { event: "two", channel: "elsewhere" })).body.recipients).toBe(0);
    await berta.event("one");
    await anna.caughtUp();
    expect(anna.events).not.toContain("one");
    expect(berta.events).not.toContain("two");
  });

  it("is sent once for an idempotency key, also after a sleep; another body gets 422", async () => {
    const room = freshName();
    const anna = await enter(room, "anna");
    const headers = { "Idempotency-Key": "k1" };
    const first = await publish(room, { event: "once", data: { n: 1 } }, { headers });
    await evictDurableObject(env.PRESENCE.getByName(room));
    const second = await publish(room, { event: "once", data: { n: 1 } }, { headers });
    expect(second.body).toEqual(first.body);
    const other = await publish(room, { event: "once", data: { n: 2 } }, { headers });
    expect([other.status, other.body.error]).toEqual([422, "unprocessable"]);
    // Another publisher's key is another key.
    const more = { headers, token: "user:other" };
    expect((await publish(room, { event: "once", data: { n: 3 } }, more)).status).toBe(200);
    await anna.event("once", ({ n }) => n === 3);
    expect(anna.received.filter(({ event }) => event === "once")).toHaveLength(2);
  });

  it("may come in a batch, of which a bad message affects no other", async () => {
    const room = freshName();
    const anna = await enter(room, "anna");
    const messages = [
      { event: "a" },
      { event: "presence.sync" },
      { event: "b", data: { n: 1 }, idempotencyKey: "b" },
      { event: "b", data: { n: 2 }, idempotencyKey: "b" },
      "rubbish",
      { event: "c", data: [1] },
    ];
    const { status, body } = await ask(`${room}/events/batch`, {
      ...{ method: "POST", body: { messages } },
    });
    expect(status).toBe(200);
    expect(body.results.map((one: Untyped) => one.status)).toEqual([200, 400, 200, 422, 400, 400]);
    expect(body.results[2]).toEqual({ status: 200, recipients: 1, cursor: expect.any(String) });
    expect(await anna.event("b")).toMatchObject({ n: 1 });
    const many = { messages: Array.from({ length: 101 }, () => ({ event: "x" })) };
    const refused = await ask(`${room}/events/batch`, { method: "POST", body: many });
    expect(refused.status).toBe(400);
  });

  it.each([
    [{ data: {} }, "event"],
    [{ event: "" }, "event"],
    [{ event: "x".repeat(257) }, "event"],
    [{ event: "presence.diff" }, "event"],
    [{ event: "error" }, "event"],
    [{ event: "x", data: "text" }, "data"],
    [{ event: "x", channel: 1 }, "channel"],
    [null, ""],
  ])("is refused with 400 as %j", async (body, _) => {
    const { status, body: answer } = await publish(freshName(), body);
    expect([status, answer.error]).toEqual([400, "bad_request"]);
  });

  it("is refused with 400 where its name is the protocol's and its data has a type, also in an empty room, and affects no other of its batch", async () => {
    const room = freshName();
    const bad = { event: "hello", data: { type: "x" } };
    expect(await publish(room, bad)).toMatchObject({ status: 400, body: { error: "bad_frame" } });
    const anna = await enter(room, "anna");
    const { status, body } = await ask(`${room}/events/batch`, {
      ...{ method: "POST", body: { messages: [{ event: "a" }, bad, { event: "b" }] } },
    });
    expect(status).toBe(200);
    expect(body.results.map((one: Untyped) => one.status)).toEqual([200, 400, 200]);
    await anna.event("a");
    await anna.event("b");
  });

  it("is refused with 400 where it nests deeper than the wire allows, alone and in a batch", async () => {
    const room = freshName();
    const anna = await enter(room, "anna");
    const deep = `{"event":"x","data":{"a":${"[".repeat(100_000)}${"]".repeat(100_000)}}}`;
    const send = (path: string, body: string) =>
      worker.fetch(`${API}/${room}/${path}`, {
        method: "POST",
        headers: { Authorization: "Bearer user:backend", "Content-Type": "application/json" },
        body,
      });
    const alone = await send("events", deep);
    expect([alone.status, await alone.json()]).toMatchObject([400, { error: "bad_request" }]);
    const batch = await send("events/batch", `{"messages":[${deep},{"event":"y"}]}`);
    expect(await batch.json()).toMatchObject({ results: [{ status: 400 }, { status: 200 }] });
    await anna.event("y");
  });

  it("is refused as another type than JSON, with more than 256 KiB, and to a room with no such name", async () => {
    const room = freshName();
    const text = await publish(room, { event: "x" }, { headers: { "Content-Type": "text/plain" } });
    expect(text.status).toBe(415);
    const large = await publish(room, { event: "x", data: { text: "x".repeat(262_144) } });
    expect(large.status).toBe(413);
    expect((await publish("no%20room", { event: "x" })).status).toBe(400);
  });

  it("needs a grant to publish to this room", async () => {
    const room = freshName();
    const allowed = await publish(room, { event: "x" }, { token: await granted(room, "publish") });
    expect(allowed.status).toBe(200);
    for (const token of [await granted(room, "join", "watch"), await granted("other", "publish")]) {
      expect((await publish(room, { event: "x" }, { token })).status).toBe(403);
    }
    const members = await publish("workspace:w1", { event: "x" }, { token: "user:backend" });
    expect(members.status).toBe(401);
    const cap = { "room:*": ["publish"] };
    const stranger = await signedToken({
      userId: "b",
      cap,
      workspaces: [{ id: "w2", role: "owner" }],
    });
    expect((await publish("workspace:w1", { event: "x" }, { token: stranger })).status).toBe(403);
    const member = await signedToken({
      userId: "b",
      cap,
      workspaces: [{ id: "w1", role: "owner" }],
    });
    expect((await publish("workspace:w1", { event: "x" }, { token: member })).status).toBe(200);
  });
});

describe("a room's totals over HTTP", () => {
  it("come with pages of the users where they are asked for", async () => {
    const room = freshName();
    for (const user of ["anna", "anna", "berta"]) await enter(room, user);
    const totals = { room, totalUsers: 2, totalConnections: 3 };
    expect((await ask(room)).body).toEqual(totals);
    const page = await ask(`${room}?users=1`);
    expect(page.body).toMatchObject({
      ...totals,
      users: [
        { userId: "anna", devices: 2 },
        { userId: "berta", devices: 1 },
      ],
      next: null,
    });
    const rest = await ask(`${room}?users=1&after=anna`);
    expect(rest.body.users).toMatchObject([{ userId: "berta" }]);
  });

  it("need a grant to join or to watch", async () => {
    const room = freshName();
    for (const operation of ["join", "watch"]) {
      expect((await ask(room, { token: await granted(room, operation) })).status).toBe(200);
    }
    expect((await ask(room, { token: await granted(room, "publish") })).status).toBe(403);
  });
});

describe("a user who is kicked", () => {
  it("is closed with 4404 everywhere in the room, cannot resume, and leaves as kicked", async () => {
    const room = freshName();
    const berta = await enter(room, "berta");
    const anna = [await enter(room, "anna"), await enter(room, "anna", "v=1")];
    const away = await enter(room, "anna");
    const hello = await away.event("hello");
    await away.close(4000);
    const { status, body } = await ask(`${room}/users/anna`, { method: "DELETE" });
    expect([status, body]).toEqual([200, { sessions: 3 }]);
    for (const socket of anna) expect((await socket.ended()).code).toBe(4404);
    const diff = await berta.event("presence.diff", ({ leaves }) => leaves.length > 0);
    expect(diff.leaves).toEqual([{ userId: "anna", username: "anna", reason: "kicked" }]);
    const resume = `v=3&resume=${hello.session}:${hello.epoch}:${hello.seq}`;
    const again = await enter(room, "anna", resume);
    expect(await again.event("hello")).toMatchObject({ resumed: false });
  });

  it("may be kept out for a time, also after a sleep", async () => {
    const room = freshName();
    const anna = await enter(room, "anna");
    await ask(`${room}/users/anna?blockMs=60000`, { method: "DELETE" });
    await anna.ended();
    await evictDurableObject(env.PRESENCE.getByName(room));
    const again = await enter(room, "anna");
    expect((await again.ended()).code).toBe(4403);
    await enter(room, "berta");
    await ask(`${room}/users/anna?blockMs=1`, { method: "DELETE" });
    await scheduler.wait(5);
    const late = await enter(room, "anna");
    await late.event("presence.sync");
    expect(late.closed).toBeNull();
  });

  it("is kicked with the grant to kick only, for at most 30 days", async () => {
    const room = freshName();
    const anna = await enter(room, "anna");
    const weak = await granted(room, "publish", "join", "watch");
    const refused = await ask(`${room}/users/anna`, { method: "DELETE", token: weak });
    expect(refused.status).toBe(403);
    for (const blockMs of ["0", "x", "2592000001", "1.5"]) {
      const answer = await ask(`${room}/users/anna?blockMs=${blockMs}`, { method: "DELETE" });
      expect(answer.status).toBe(400);
    }
    await anna.caughtUp();
    expect(anna.closed).toBeNull();
    const token = await granted(room, "kick");
    expect((await ask(`${room}/users/anna`, { method: "DELETE", token })).status).toBe(200);
  });
});

describe("a room as a stream", () => {
  it("begins with the roster, has every event with its cursor, and shows nobody", async () => {
    const room = freshName();
    const anna = await enter(room, "anna");
    const stream = await openStream(`${room}/stream`);
    expect(stream.response.headers.get("Content-Type")).toBe("text/event-stream");
    const sync = await stream.next(named("presence.sync"));
    expect(sync.data).toMatchObject({
      channel: "default",
      data: { totalUsers: 1, users: [{ userId: "anna" }] },
    });
    const { body } = await publish(room, { event: "news", data: { n: 1 } });
    const event = await stream.next(named("news"));
    expect(event).toEqual({
      id: body.cursor,
      name: undefined,
      data: { event: "news", channel: "default", data: { n: 1, publisher: "backend" } },
    });
    await enter(room, "berta");
    const diff = await stream.next(named("presence.diff"));
    expect(diff.data.data.joins).toMatchObject([{ userId: "berta" }]);
    await anna.caughtUp();
    expect([...anna.roster.keys()].sort()).toEqual(["anna", "berta"]);
  });

  it("goes on after Last-Event-ID, and leaves out and repeats nothing", async () => {
    const room = freshName();
    await enter(room, "anna");
    const stream = await openStream(`${room}/stream`);
    await stream.next(named("presence.sync"));
    await publish(room, { event: "n", data: { n: 1 } });
    const { id = "" } = await stream.next(named("n"));
    stream.close();
    for (const n of [2, 3]) await publish(room, { event: "n", data: { n } });
    const again = await openStream(`${room}/stream`, { "Last-Event-ID": id });
    await again.next(named("presence.sync"));
    await publish(room, { event: "n", data: { n: 4 } });
    await again.next((event) => event.data?.data?.n === 4);
    const all = again.events().filter(named("n"));
    expect(all.map(({ data }) => data.data.n)).toEqual([2, 3, 4]);
    expect(again.events().some(({ name }) => name === "gap")).toBe(false);
  });

  it("misses nothing either if the room slept while the reader was away", async () => {
    const room = freshName();
    const stub = env.PRESENCE.getByName(room);
    await enter(room, "anna", "v=1");
    const stream = await openStream(`${room}/stream`);
    await stream.next(named("presence.sync"));
    await publish(room, { event: "n", data: { n: 1 } });
    const { id = "" } = await stream.next(named("n"));
    stream.close();
    // The room knows that the reader is gone once the diff of nobody … is sent.
    await expect.poll(async () => (await stub.inspect()).sessions, { timeout: 5_000 }).toBe(1);
    await publish(room, { event: "n", data: { n: 2 } });
    await evictDurableObject(stub);
    const again = await openStream(`${room}/stream`, { "Last-Event-ID": id });
    await again.next(named("presence.sync"));
    const all = again.events().filter(named("n"));
    expect(all.map(({ data }) => data.data.n)).toEqual([2]);
  });

  it("sends a gap where the cursor is not known, and begins anew", async () => {
    const room = freshName();
    await enter(room, "anna");
    for (const cursor of ["rubbish", "00000000:5", "x".repeat(5_000)]) {
      const stream = await openStream(`${room}/stream`, { "Last-Event-ID": cursor });
      const gap = await stream.next(({ name }) => name === "gap");
      expect(gap.data).toEqual({
        ...{ type: "gap", reason: expect.any(String), cursor: expect.any(String) },
      });
      expect(gap.id).toBe(gap.data.cursor);
      await stream.next(named("presence.sync"));
      stream.close();
    }
  });

  it("lets the actor sleep, and goes on afterwards", async () => {
    const room = freshName();
    const stub = env.PRESENCE.getByName(room);
    const stream = await openStream(`${room}/stream`);
    await stream.next(named("presence.sync"));
    await evictDurableObject(stub);
    const { body } = await publish(room, { event: "late" });
    expect(body.recipients).toBe(1);
    expect((await stream.next(named("late"))).id).toBe(body.cursor);
  });

  it("needs a grant to watch, and ends when its user is kicked", async () => {
    const room = freshName();
    const joiner = await granted(room, "join");
    const refused = await ask(`${room}/stream`, { token: joiner });
    expect(refused.status).toBe(403);
    const stream = await openStream(`${room}/stream`);
    await stream.next(named("presence.sync"));
    await ask(`${room}/users/reader`, { method: "DELETE" });
    await stream.ended();
  });

  it("shows earlier events to nobody that may only join", async () => {
    const room = freshName();
    const anna = await enter(room, "anna");
    await publish(room, { event: "secret" });
    await anna.event("secret");
    const token = await granted(room, "join");
    const path = `/ws/presence?room=${room}&v=3&stream=1&after=0:0&token=${token}`;
    const joiner = await connect(null, path);
    await joiner.event("presence.sync");
    await joiner.caughtUp();
    expect(joiner.events).not.toContain("secret");
    expect(joiner.events).not.toContain("stream.cursor");
  });
});
