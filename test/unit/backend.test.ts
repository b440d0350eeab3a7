import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { build } from "esbuild";
import { Webhook } from "standardwebhooks";
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from "vitest";
import {
  type BackendOptions,
  type Change,
  RollcallError,
  rollcall,
  type StreamItem,
  verifyWebhook,
} from "../../src/server/backend.ts";

interface Sent {
  method: string;
  url: string;
  headers: Headers;
  body: unknown;
}

type Answer = Response | Error | (() => Response | Promise<Response>);

/** A server that gives these answers in turn, the last one for ever, and keeps what it was sent. */
function answering(...answers: Answer[]) {
  const sent: Sent[] = [];
  const send = (async (url: string, init: RequestInit) => {
    const { method = "", headers, body } = init;
    sent.push({
      method,
      url,
      headers: new Headers(headers),
      body: typeof body === "string" ? JSON.parse(body) : undefined,
    });
    const answer = answers[Math.min(sent.length, answers.length) - 1];
    if (answer instanceof Error) throw answer;
    return typeof answer === "function" ? answer() : (answer?.clone() as Response);
  }) as unknown as typeof fetch;
  return { sent, fetch: send };
}

const connect = (server: { fetch: typeof fetch }, more: Partial<BackendOptions> = {}) =>
  rollcall("https://test.example/live/", { token: "t", fetch: server.fetch, ...more });

const cut = () => new TypeError("fetch failed");
const refusal = (status: number, body: object, headers = {}) =>
  Response.json(body, { status, headers });
const emitted = Response.json({ recipients: 2, cursor: "e:7" });

/** Settles a call while timers run. @returns what it resolved to or rejected with, and after how long */
async function settle(call: Promise<unknown>): Promise<{ outcome: unknown; afterMs: number }> {
  const startedAt = Date.now();
  let afterMs = -1;
  const done = call.then(
    (value) => {
      afterMs = Date.now() - startedAt;
      return value;
    },
    (error: unknown) => {
      afterMs = Date.now() - startedAt;
      return error;
    },
  );
  for (let passed = 0; afterMs < 0 && passed < 60_000; passed += 50) {
    await vi.advanceTimersByTimeAsync(50);
  }
  return { outcome: await done, afterMs };
}

/** A real HTTP server on a free port, which ends with the test. @returns its URL */
async function listen(
  handle: (request: IncomingMessage, response: ServerResponse) => void,
): Promise<string> {
  const server = createServer(handle);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

describe("the client of backends", () => {
  it("sends an emit with its token and a key, and resolves to the answer", async () => {
    const server = answering(emitted);
    const room = connect(server).room("team-42");
    const answer = await room.emit("paid", { id: 7 }, { channel: "money", except: "s1" });
    expect(answer).toEqual({ recipients: 2, cursor: "e:7" });
    expect(server.sent).toMatchObject([
      {
        method: "POST",
        url: "https://test.example/live/api/v1/rooms/team-42/events",
        body: { event: "paid", data: { id: 7 }, channel: "money", except: "s1" },
      },
    ]);
    const { headers } = server.sent[0] as Sent;
    expect(headers.get("Authorization")).toBe("Bearer t");
    expect(headers.get("Content-Type")).toBe("application/json");
    expect(headers.get("Idempotency-Key")).toMatch(/^[0-9a-f-]{36}$/);
  });

  it("sends each request of its methods as the contract has it", async () => {
    const server = answering(() => Response.json({}));
    const { room, user } = {
      room: connect(server).room("r"),
      user: connect(server).user("ann"),
    };
    await room.info();
    await room.users();
    await room.users({ after: "bob & co" });
    await room.kick("bob");
    await room.kick("bob", { blockMs: 60_000 });
    await room.changes();
    await room.changes("e1:12");
    await user.whereabouts();
    await user.publish({ type: "note", payload: [1], ackTimeoutMs: 0, idempotencyKey: "k" });
    await user.revoke();
    await user.revoke({ issuedBefore: 1_700_000_000 });
    await user.disconnect();
    const base = "https://test.example/live";
    expect(
      server.sent.map(({ method, url, body }) => [method, url.slice(base.length), body]),
    ).toEqual([
      ["GET", "/api/v1/rooms/r", undefined],
      ["GET", "/api/v1/rooms/r?users=1", undefined],
      ["GET", "/api/v1/rooms/r?users=1&after=bob+%26+co", undefined],
      ["DELETE", "/api/v1/rooms/r/users/bob", undefined],
      ["DELETE", "/api/v1/rooms/r/users/bob?blockMs=60000", undefined],
      ["GET", "/api/v1/rooms/r/changes", undefined],
      ["GET", "/api/v1/rooms/r/changes?after=e1%3A12", undefined],
      ["GET", "/api/v1/users/ann", undefined],
      ["POST", "/publish", { userId: "ann", type: "note", payload: [1], ackTimeoutMs: 0 }],
      ["POST", "/api/v1/users/ann/revoke", undefined],
      ["POST", "/api/v1/users/ann/revoke", { issuedBefore: 1_700_000_000 }],
      ["POST", "/api/v1/users/ann/disconnect", undefined],
    ]);
    expect(server.sent[8]?.headers.get("Idempotency-Key")).toBe("k");
  });

  it("encodes names of rooms and ids of users, so that none names another path", async () => {
    const server = answering(() => Response.json({}));
    await connect(server).room("a/b?c#d%2e é").info();
    await connect(server).room("r").kick("../x");
    await connect(server).user("auth0|7/revoke").whereabouts();
    expect(server.sent.map(({ url }) => new URL(url).pathname)).toEqual([
      "/live/api/v1/rooms/a%2Fb%3Fc%23d%252e%20%C3%A9",
      "/live/api/v1/rooms/r/users/..%2Fx",
      "/live/api/v1/users/auth0%7C7%2Frevoke",
    ]);
  });

  it.each(["", ".", "..", "\ud800"])("refuses the id %j, which no path can name", async (id) => {
    const server = answering(() => Response.json({}));
    const code = expect.objectContaining({ code: "bad_request", status: 400 });
    expect(() => connect(server).room(id)).toThrow(code);
    expect(() => connect(server).user(id)).toThrow(code);
    await expect(connect(server).room("r").kick(id)).rejects.toEqual(code);
    expect(server.sent).toEqual([]);
  });

  it.each(["example.com", "localhost:8787", "wss://test.example"])(
    "refuses %s, which is no URL of http",
    (url) => {
      expect(() => rollcall(url, { token: "t" })).toThrow(TypeError);
    },
  );

  it("refuses data that JSON would change, and sends nothing", async () => {
    const server = answering(emitted);
    const room = connect(server).room("r");
    await expect(room.emit("e", { at: Number.NaN })).rejects.toThrow("The data.at is NaN");
    await expect(room.emitMany([{ event: "e", data: new Map() }])).rejects.toThrow(TypeError);
    const user = connect(server).user("ann");
    await expect(user.publish({ payload: 1n })).rejects.toThrow("The payload is a bigint");
    expect(server.sent).toEqual([]);
  });

  it("emits a batch with a key for each message, and resolves to a result for each", async () => {
    const results = [
      { status: 200, recipients: 1, cursor: "e:1" },
      { status: 422, error: "unprocessable", details: "Another body" },
    ];
    const server = answering(Response.json({ results }));
    const room = connect(server).room("r");
    const messages = [
      { event: "a", data: { x: 1 } },
      { event: "b", idempotencyKey: "mine", except: "s1" },
      { event: "c", idempotencyKey: null },
    ];
    expect(await room.emitMany(messages)).toEqual(results);
    expect(server.sent[0]?.url).toMatch(/\/api\/v1\/rooms\/r\/events\/batch$/);
    expect(server.sent[0]?.body).toEqual({
      messages: [
        { event: "a", data: { x: 1 }, idempotencyKey: expect.stringMatching(/^[0-9a-f-]{36}$/) },
        { event: "b", except: "s1", idempotencyKey: "mine" },
        { event: "c" },
      ],
    });
  });

  it("goes through all users of a room, page by page", async () => {
    const page = (names: string[], next: string | null) =>
      Response.json({ users: names.map((userId) => ({ userId })), next });
    const server = answering(page(["a", "b"], "b"), page(["c"], "c"), page([], null));
    const ids: string[] = [];
    for await (const { userId } of connect(server).room("r").allUsers()) ids.push(userId);
    expect(ids).toEqual(["a", "b", "c"]);
    expect(server.sent.map(({ url }) => new URL(url).search)).toEqual([
      "?users=1",
      "?users=1&after=b",
      "?users=1&after=c",
    ]);
  });

  describe("when a request fails", () => {
    beforeEach(() => {
      vi.useFakeTimers();
    });
    afterEach(() => {
      vi.useRealTimers();
    });

    it.each<[string, Answer]>([
      ["a failed connection", cut()],
      ["503", refusal(503, { error: "unavailable", details: "Restarting" })],
      ["429", refusal(429, { error: "rate_limited", details: "Slow down" })],
      [
        "an answer that breaks off",
        () =>
          new Response(
            new ReadableStream({
              start: (controller) => controller.error(new TypeError("terminated")),
            }),
          ),
      ],
    ])(
      "sends an emit again after %s, with the same key and a token of its own",
      async (_, first) => {
        let tokens = 0;
        const server = answering(first, emitted);
        const room = connect(server, { token: async () => `t${++tokens}` }).room("r");
        const { outcome, afterMs } = await settle(room.emit("e"));
        expect(outcome).toEqual({ recipients: 2, cursor: "e:7" });
        const [one, two] = server.sent.map(({ headers }) => headers);
        expect(server.sent).toHaveLength(2);
        expect(two?.get("Idempotency-Key")).toBe(one?.get("Idempotency-Key"));
        expect([one, two].map((headers) => headers?.get("Authorization"))).toEqual([
          "Bearer t1",
          "Bearer t2",
        ]);
        expect(afterMs).toBeGreaterThanOrEqual(250);
        expect(afterMs).toBeLessThanOrEqual(550);
      },
    );

    it("gives each emit a key of its own", async () => {
      const server = answering(emitted);
      await connect(server).room("r").emit("e");
      await connect(server).room("r").emit("e");
      const keys = server.sent.map(({ headers }) => headers.get("Idempotency-Key"));
      expect(new Set(keys).size).toBe(2);
    });

    it.each([
      ["emit", (b: Backend) => b.room("r").emit("e")],
      ["emitMany", (b: Backend) => b.room("r").emitMany([{ event: "e" }])],
      ["publish", (b: Backend) => b.user("ann").publish()],
      ["info", (b: Backend) => b.room("r").info()],
      ["kick", (b: Backend) => b.room("r").kick("bob")],
      ["changes", (b: Backend) => b.room("r").changes()],
      ["whereabouts", (b: Backend) => b.user("ann").whereabouts()],
      ["revoke", (b: Backend) => b.user("ann").revoke()],
      ["disconnect", (b: Backend) => b.user("ann").disconnect()],
    ])("%s gives up after three attempts", async (_, call) => {
      const cause = cut();
      const server = answering(cause);
      const { outcome } = await settle(call(connect(server)));
      expect(outcome).toBeInstanceOf(RollcallError);
      expect(outcome).toMatchObject({ code: "disconnected", status: 503, cause });
      expect(server.sent).toHaveLength(3);
    });

    it.each([
      ["emit", (b: Backend) => b.room("r").emit("e", {}, { idempotencyKey: null })],
      [
        "emitMany",
        (b: Backend) =>
          b.room("r").emitMany([{ event: "e" }, { event: "f", idempotencyKey: null }]),
      ],
      ["publish", (b: Backend) => b.user("ann").publish({ idempotencyKey: null })],
    ])("never repeats %s without a key", async (_, call) => {
      for (const answer of [cut(), refusal(503, {}), refusal(429, {})]) {
        const server = answering(answer);
        const { outcome } = await settle(call(connect(server)));
        expect(outcome).toBeInstanceOf(RollcallError);
        expect(server.sent).toHaveLength(1);
        expect(server.sent[0]?.headers.has("Idempotency-Key")).toBe(false);
      }
    });

    it("waits for as long as Retry-After asks", async () => {
      const server = answering(refusal(429, {}, { "Retry-After": "10" }), emitted);
      const { outcome, afterMs } = await settle(connect(server).room("r").emit("e"));
      expect(outcome).toEqual({ recipients: 2, cursor: "e:7" });
      expect(afterMs).toBeGreaterThanOrEqual(10_000);
      expect(afterMs).toBeLessThanOrEqual(10_100);
    });

    it("does not wait where Retry-After asks for more than 10 s", async () => {
      const server = answering(refusal(503, {}, { "Retry-After": "11" }));
      const { outcome, afterMs } = await settle(connect(server).room("r").info());
      expect(outcome).toMatchObject({ code: "unavailable", status: 503 });
      expect(server.sent).toHaveLength(1);
      expect(afterMs).toBeLessThanOrEqual(50);
    });

    it.each([400, 401, 403, 404, 409, 422, 500, 502])(
      "does not repeat after %i",
      async (status) => {
        const server = answering(refusal(status, {}));
        const { outcome } = await settle(connect(server).room("r").info());
        expect(outcome).toMatchObject({ status });
        expect(server.sent).toHaveLength(1);
      },
    );
  });

  it.each<[string, Response, object]>([
    [
      "the server's code",
      refusal(401, { error: "token_expired", details: "The token has expired" }),
      { code: "token_expired", status: 401, message: "The token has expired" },
    ],
    [
      "a code of the app's own",
      refusal(423, { error: "expendable", details: "Stay" }),
      { code: "expendable", status: 423, message: "Stay" },
    ],
    [
      "the answer's status where its code is known by another",
      refusal(404, { error: "unavailable", details: "Route not found" }),
      { code: "unavailable", status: 404, message: "Route not found" },
    ],
    [
      "a code for the status where fan-out names none",
      refusal(422, { error: "This idempotency key came with another body" }),
      {
        code: "unprocessable",
        status: 422,
        message: "This idempotency key came with another body",
      },
    ],
    [
      "a code for the status of a proxy's page",
      new Response("<h1>Bad gateway</h1>", { status: 502 }),
      { code: "internal", status: 502, message: "The server answered 502" },
    ],
    [
      "internal where an answer of 200 is not JSON",
      new Response("<h1>Welcome</h1>"),
      { code: "internal", status: 200, message: "The answer is not JSON" },
    ],
    [
      "a code of its own for a name that only looks like one",
      refusal(403, { error: "toString" }),
      { code: "forbidden", status: 403, message: "toString" },
    ],
  ])("rejects with %s", async (_, answer, expected) => {
    const call = connect(answering(answer)).room("r").info();
    await expect(call).rejects.toBeInstanceOf(RollcallError);
    await expect(call).rejects.toMatchObject(expected);
  });

  it("rejects with the error of the token function, and sends nothing", async () => {
    const server = answering(emitted);
    const token = () => Promise.reject(new Error("No key"));
    await expect(connect(server, { token }).room("r").emit("e")).rejects.toThrow("No key");
    expect(server.sent).toEqual([]);
  });

  it("rejects after timeoutMs where no answer comes, or none to its end, and does not repeat", async () => {
    let requests = 0;
    const url = await listen((request, response) => {
      requests += 1;
      if (request.url?.includes("half")) response.write(`{"room":`);
    });
    const server = rollcall(url, { token: "t", timeoutMs: 200 });
    const timedOut = { code: "timeout", status: 504 };
    await expect(server.room("none").info()).rejects.toMatchObject(timedOut);
    await expect(server.room("half").info()).rejects.toMatchObject(timedOut);
    expect(requests).toBe(2);
  });

  it("takes a redirect for an error, since it would turn a POST into a GET", async () => {
    const methods: string[] = [];
    const url = await listen((request, response) => {
      methods.push(request.method ?? "");
      response.writeHead(302, { Location: "/elsewhere" }).end();
    });
    const call = rollcall(url, { token: "t" }).room("r").emit("e");
    await expect(call).rejects.toMatchObject({ code: "bad_request", status: 302 });
    expect(methods).toEqual(["POST"]);
  });

  it("repeats a request over a real connection that the server cuts", async () => {
    const keys: unknown[] = [];
    const url = await listen((request, response) => {
      keys.push(request.headers["idempotency-key"]);
      if (keys.length === 1) request.socket.destroy();
      else response.end(`{"recipients":1,"cursor":"e:1"}`);
    });
    const answer = await rollcall(url, { token: "t" }).room("r").emit("e");
    expect(answer).toEqual({ recipients: 1, cursor: "e:1" });
    expect(keys).toEqual([keys[0], keys[0]]);
  });

  it("imports nothing but src/wire, so that it runs without other packages", async () => {
    const { metafile } = await build({
      entryPoints: ["src/server/backend.ts"],
      bundle: true,
      format: "esm",
      platform: "neutral",
      packages: "external",
      external: ["cloudflare:*", "node:*"],
      write: false,
      metafile: true,
    });
    const inputs = Object.entries(metafile.inputs);
    expect(inputs.length).toBeGreaterThan(1);
    const outside = inputs.filter(([path]) => !path.startsWith("src/wire/")).map(([path]) => path);
    expect(outside).toEqual(["src/server/backend.ts"]);
    const external = inputs.flatMap(([, { imports }]) => imports.filter((each) => each.external));
    expect(external).toEqual([]);
  });
});

type Backend = ReturnType<typeof rollcall>;

describe("a stream of a room", () => {
  const event = (cursor: string, name: string, data: object = {}) =>
    `id: ${cursor}\ndata: ${JSON.stringify({ event: name, channel: "default", data })}\n\n`;
  const streamOf = (response: ServerResponse) =>
    response.writeHead(200, { "Content-Type": "text/event-stream" });

  async function take(items: AsyncIterable<StreamItem>, count: number): Promise<StreamItem[]> {
    const taken: StreamItem[] = [];
    for await (const item of items) {
      taken.push(item);
      if (taken.length === count) break;
    }
    return taken;
  }

  it("gives events with their cursors, whatever pieces they arrive in", async () => {
    const requests: IncomingMessage[] = [];
    let closed = 0;
    const url = await listen(async (request, response) => {
      requests.push(request);
      request.once("close", () => {
        closed += 1;
      });
      streamOf(response);
      const text = `: connected\n\n${event("e:1", "presence.sync", { users: [] })}id: e:2\n\n${event("e:3", "said", { text: "é:\n x" }).replaceAll("\n", "\r\n")}event: later\ndata: {}\n\nevent: gap\nid: e:9\ndata: {"type":"gap",\ndata: "reason":"trimmed","cursor":"e:9"}\n\n`;
      for (const byte of Buffer.from(text)) {
        response.write(Buffer.of(byte));
        await new Promise((resolve) => setImmediate(resolve));
      }
    });
    const room = rollcall(url, { token: "t" }).room("r");
    expect(await take(room.stream({ since: "e:0" }), 3)).toEqual([
      {
        type: "event",
        event: "presence.sync",
        channel: "default",
        data: { users: [] },
        cursor: "e:1",
      },
      {
        type: "event",
        event: "said",
        channel: "default",
        data: { text: "é:\n x" },
        cursor: "e:3",
      },
      { type: "gap", reason: "trimmed", cursor: "e:9" },
    ]);
    expect(requests).toHaveLength(1);
    expect(requests[0]?.url).toBe("/api/v1/rooms/r/stream");
    expect(requests[0]?.headers).toMatchObject({
      authorization: "Bearer t",
      "last-event-id": "e:0",
    });
    // The loop was left, and the connection with it.
    await vi.waitFor(() => expect(closed).toBe(1));
  });

  it("continues after the last cursor when the connection is lost", async () => {
    const since: unknown[] = [];
    const url = await listen((request, response) => {
      since.push(request.headers["last-event-id"]);
      streamOf(response).write(event(`e:${since.length}`, "n"));
      // The cursor of a message without an event counts as well.
      if (since.length === 1) response.write("id: e:1b\n\n", () => response.destroy());
      if (since.length === 2) response.end();
    });
    const items = await take(rollcall(url, { token: "t" }).room("r").stream(), 3);
    expect(items.map(({ cursor }) => cursor)).toEqual(["e:1", "e:2", "e:3"]);
    expect(since).toEqual([undefined, "e:1b", "e:2"]);
  });

  it("ends when its signal aborts, while it waits for an event and between attempts", async () => {
    let requests = 0;
    const url = await listen((_, response) => {
      requests += 1;
      if (requests === 1) streamOf(response).write(event("e:1", "n"));
      else response.writeHead(503, { "Retry-After": "30" }).end();
    });
    for (const expected of [1, 0]) {
      const aborting = new AbortController();
      const items: StreamItem[] = [];
      const { signal } = aborting;
      const ended = (async () => {
        for await (const item of rollcall(url, { token: "t" }).room("r").stream({ signal })) {
          items.push(item);
        }
      })();
      await vi.waitFor(() => expect([items.length, requests]).toEqual([expected, 2 - expected]));
      aborting.abort();
      await ended;
    }
  });

  it("throws where the server refuses it, and where what it opens is no stream", async () => {
    let answer = refusal(403, { error: "forbidden", details: "The token does not allow it" });
    const server = answering(() => answer);
    const room = connect(server).room("r");
    await expect(take(room.stream(), 1)).rejects.toMatchObject({ code: "forbidden", status: 403 });
    answer = new Response("<h1>Welcome</h1>", { headers: { "Content-Type": "text/html" } });
    await expect(take(room.stream(), 1)).rejects.toMatchObject({ code: "internal", status: 200 });
    expect(server.sent).toHaveLength(2);
  });

  describe("with time", () => {
    beforeEach(() => {
      vi.useFakeTimers();
    });
    afterEach(() => {
      vi.useRealTimers();
    });

    it("throws when it cannot be opened in three attempts", async () => {
      const server = answering(cut());
      const { outcome } = await settle(take(connect(server).room("r").stream(), 1));
      expect(outcome).toMatchObject({ code: "disconnected" });
      expect(server.sent).toHaveLength(3);
    });

    it("once it was open, opens it again after more than three attempts that failed", async () => {
      const headers = { "Content-Type": "text/event-stream" };
      const open = (cursor: string) => () => new Response(event(cursor, "n"), { headers });
      const server = answering(open("e:1"), cut(), cut(), refusal(503, {}), cut(), open("e:2"));
      const { outcome, afterMs } = await settle(take(connect(server).room("r").stream(), 2));
      expect(outcome).toMatchObject([{ cursor: "e:1" }, { cursor: "e:2" }]);
      expect(server.sent).toHaveLength(6);
      // 500 + 1000 + 2000 + 4000 + 8000 ms at most, half of that at least.
      expect(afterMs).toBeGreaterThanOrEqual(7_750);
      expect(afterMs).toBeLessThanOrEqual(15_600);
    });

    it("opens a connection again that is silent for 20 s, but not one that sends comments", async () => {
      const encoder = new TextEncoder();
      let comments: ReturnType<typeof setInterval> | undefined;
      const signals: AbortSignal[] = [];
      /** A body that fails as that of a fetch does when its signal aborts. */
      const open = (first: string): Response => {
        const body = new ReadableStream<Uint8Array>({
          start(controller) {
            controller.enqueue(encoder.encode(first));
            signals.at(-1)?.addEventListener("abort", () => controller.error(new Error("Aborted")));
            const comment = () => controller.enqueue(encoder.encode(": keep-alive\n\n"));
            if (signals.length === 1) comments = setInterval(comment, 7_000);
          },
        });
        return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
      };
      const send = (async (_: string, { signal }: RequestInit) => {
        signals.push(signal as AbortSignal);
        return open(event(`e:${signals.length}`, "n"));
      }) as unknown as typeof fetch;
      const taken = settle(take(connect({ fetch: send }).room("r").stream(), 2));
      await vi.advanceTimersByTimeAsync(35_000);
      expect(signals).toHaveLength(1);
      clearInterval(comments);
      const { outcome } = await taken;
      expect(outcome).toMatchObject([{ cursor: "e:1" }, { cursor: "e:2" }]);
      expect(signals).toHaveLength(2);
    });
  });
});

describe("verifyWebhook", () => {
  const secret = `whsec_${btoa("0123456789abcdef0123456789abcdef")}`;
  const other = `whsec_${btoa("fedcba9876543210fedcba9876543210")}`;
  const changes: Change[] = [
    { room: "r", epoch: "e1", offset: 1, type: "room.occupied", sessions: 1, at: 5 },
    { room: "r", epoch: "e1", offset: 2, type: "user.joined", userId: "zoë", sessions: 1, at: 5 },
    {
      room: "r",
      epoch: "e1",
      offset: 3,
      type: "user.left",
      userId: "zoë",
      sessions: 0,
      reason: "lost",
      at: 9,
    },
  ];
  const text = JSON.stringify(changes);

  interface Options {
    id?: string;
    signedAt?: Date;
    signature?: string;
    body?: string;
    drop?: string;
  }

  /** A webhook as the package `standardwebhooks` signs it, with these parts replaced. */
  function webhook(signer = secret, { id = "msg_1", signedAt, ...replaced }: Options = {}) {
    const at = signedAt ?? new Date();
    const { body = text, drop } = replaced;
    const headers = new Headers({
      "webhook-id": id,
      "webhook-timestamp": `${Math.floor(at.getTime() / 1_000)}`,
      "webhook-signature": replaced.signature ?? new Webhook(signer).sign(id, at, text),
    });
    if (drop) headers.delete(drop);
    return new Request("https://consumer.example/hook", { method: "POST", headers, body });
  }

  const unauthorized = { name: "RollcallError", code: "unauthorized", status: 401 };

  it("gives the changes of a webhook that standardwebhooks has signed", async () => {
    expect(await verifyWebhook(webhook(), secret)).toEqual(changes);
  });

  it("refuses a body that was changed after it was signed, by a single byte", async () => {
    const changed = webhook(secret, { body: text.replace(`"offset":1`, `"offset":4`) });
    await expect(verifyWebhook(changed, secret)).rejects.toMatchObject(unauthorized);
    await expect(
      verifyWebhook(webhook(secret, { body: `${text} ` }), secret),
    ).rejects.toMatchObject(unauthorized);
  });

  it("refuses an id or a timestamp that is not the signed one", async () => {
    const signature = new Webhook(secret).sign("msg_1", new Date(), text);
    for (const replaced of [{ id: "msg_2" }, { signedAt: new Date(Date.now() - 60_000) }]) {
      await expect(
        verifyWebhook(webhook(secret, { ...replaced, signature }), secret),
      ).rejects.toMatchObject(unauthorized);
    }
  });

  it("refuses a webhook that another secret has signed", async () => {
    await expect(verifyWebhook(webhook(other), secret)).rejects.toMatchObject(unauthorized);
  });

  it.each(["webhook-id", "webhook-timestamp", "webhook-signature"])(
    "refuses a webhook without the header %s",
    async (drop) => {
      const call = verifyWebhook(webhook(secret, { drop }), secret);
      await expect(call).rejects.toMatchObject(unauthorized);
    },
  );

  it.each(["", "v1", "v1,", "v1,%%%", "v1,AAAA", "v2,%s", "v1a,%s", "%s"])(
    "refuses the signature %j",
    async (pattern) => {
      const [, mac = ""] = new Webhook(secret).sign("msg_1", new Date(), text).split(",");
      const signature = pattern.replace("%s", mac);
      await expect(verifyWebhook(webhook(secret, { signature }), secret)).rejects.toMatchObject(
        unauthorized,
      );
    },
  );

  it("accepts one right signature among several, and either secret while one is replaced", async () => {
    const now = new Date();
    const signed = [other, secret].map((each) => new Webhook(each).sign("msg_1", now, text));
    const both = { signature: ["v1a,AAAA", ...signed].join(" "), signedAt: now };
    expect(await verifyWebhook(webhook(secret, both), secret)).toEqual(changes);
    expect(await verifyWebhook(webhook(secret), [other, secret])).toEqual(changes);
    expect(await verifyWebhook(webhook(other), [other, secret])).toEqual(changes);
  });

  it("checks the first ten signatures only, since each costs an HMAC over the body", async () => {
    const now = new Date();
    const signature = new Webhook(secret).sign("msg_1", now, text);
    const behind = (wrong: number) =>
      webhook(secret, {
        signedAt: now,
        signature: [...Array<string>(wrong).fill("v1,AAAA"), signature].join(" "),
      });
    expect(await verifyWebhook(behind(9), secret)).toEqual(changes);
    await expect(verifyWebhook(behind(10), secret)).rejects.toMatchObject(unauthorized);
  });

  describe("with a clock that stands", () => {
    beforeEach(() => {
      vi.useFakeTimers({ toFake: ["Date"] });
    });
    afterEach(() => {
      vi.useRealTimers();
    });

    it.each([
      [300, {}],
      [-300, {}],
      [10, { toleranceSeconds: 10 }],
      [3_600, { toleranceSeconds: 3_600 }],
    ])("accepts a webhook that is %i s old with %j", async (ageSeconds, options) => {
      const signedAt = new Date(Date.now() - ageSeconds * 1_000);
      expect(await verifyWebhook(webhook(secret, { signedAt }), secret, options)).toEqual(changes);
    });

    it.each([
      [301, {}],
      [-301, {}],
      [11, { toleranceSeconds: 10 }],
      [0, { toleranceSeconds: Number.NaN }],
    ])("refuses a webhook that is %i s old with %j", async (ageSeconds, options) => {
      const signedAt = new Date(Date.now() - ageSeconds * 1_000);
      const call = verifyWebhook(webhook(secret, { signedAt }), secret, options);
      await expect(call).rejects.toMatchObject(unauthorized);
    });
  });

  it.each([
    "not JSON",
    "{}",
    "[null]",
    '[{"room":"r"}]',
    JSON.stringify([{ ...changes[1], type: "toString" }]),
    JSON.stringify([{ ...changes[0], type: "user.left" }]),
    JSON.stringify([{ ...changes[0], offset: 1.5 }]),
    JSON.stringify([changes[0], { ...changes[1], at: "5" }]),
  ])("refuses the signed body %s, which is no list of changes", async (body) => {
    const now = new Date();
    const signature = new Webhook(secret).sign("msg_1", now, body);
    const request = webhook(secret, { signature, signedAt: now, body });
    await expect(verifyWebhook(request, secret)).rejects.toMatchObject({
      name: "RollcallError",
      code: "bad_request",
      status: 400,
    });
  });

  it.each([
    "",
    "whsec_",
    "whsec_%%%",
    secret.slice(6),
    [],
    [secret, ""],
    undefined as unknown as string,
  ])("throws a TypeError for the secret %j, which is none", async (wrong) => {
    await expect(verifyWebhook(webhook(), wrong)).rejects.toThrow(TypeError);
  });
});
