import { evictDurableObject } from "cloudflare:test";
import { env, exports } from "cloudflare:workers";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import app from "../../src/server/worker.ts";
import { post, publish, SECRET, Subscriber, sign } from "../room/fanout-client.ts";
import { freshName, upgrade } from "../room/socket.ts";
import { openStream } from "./fanout-stream.ts";

const worker = exports.default as { fetch(url: string, init?: RequestInit): Promise<Response> };
const ORIGIN = "https://rollcall.test";

function nowSeconds(): number {
  return Math.floor(Date.now() / 1000);
}

function base64url(text: string): string {
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

describe("tokens", () => {
  const userId = "token-user";
  const unsigned = (alg: string) =>
    `${base64url(JSON.stringify({ alg }))}.${base64url(JSON.stringify({ userId }))}.`;

  /** RS256 by name, made with the secret as if it were the key. */
  async function confused(): Promise<string> {
    const input = unsigned("RS256").slice(0, -1);
    const bytes = new TextEncoder();
    const key = await crypto.subtle.importKey(
      "raw",
      bytes.encode(SECRET),
      { name: "HMAC", hash: "SHA-256" },
      false,
      ["sign"],
    );
    const mac = new Uint8Array(await crypto.subtle.sign("HMAC", key, bytes.encode(input)));
    return `${input}.${base64url(String.fromCharCode(...mac))}`;
  }

  const refused: [string, () => string | Promise<string>][] = [
    ["the algorithm none", () => unsigned("none")],
    ["RS256 with the secret as its key", confused],
    ["another algorithm with the right secret", () => sign({ userId }, SECRET, "HS512")],
    ["another secret", () => sign({ userId }, "another-secret-of-at-least-32-bytes!")],
    ["an expired token", () => sign({ userId, exp: nowSeconds() - 1 })],
    ["a token that is not valid yet", () => sign({ userId, nbf: nowSeconds() + 60 })],
    ["a token without userId and sub", () => sign({ name: userId })],
    ["a blank userId", () => sign({ userId: " \t", sub: userId })],
    ["a userId that is no string", () => sign({ userId: 7 })],
    ["an empty userId", () => sign({ userId: "" })],
    ["a userId that no path can name", () => sign({ userId: ".." })],
    ["half a surrogate pair", () => sign({ userId: "\ud800" })],
    ["no JWT at all", () => "user:alice"],
    ["an empty token", () => ""],
  ];

  it.each(refused)("are refused with 401: %s", async (_, make) => {
    const token = await make();
    const header = { Authorization: `Bearer ${token}` };
    const query = `?token=${encodeURIComponent(token)}`;
    for (const answer of [
      await upgrade(null, "/", header),
      await upgrade(null, `/ws/fanout${query}`),
      await upgrade(env.FANOUT.getByName(userId), "/ws/fanout", header),
      await worker.fetch(`${ORIGIN}/fanout/stream?type=a`, { headers: header }),
    ]) {
      expect(answer.status).toBe(401);
      await answer.body?.cancel();
    }
    const answer = await publish(userId, {}, header);
    expect(answer).toMatchObject({ status: 401, body: { error: "Unauthorized" } });
    expect((await post(`/publish/batch${query}`, { messages: [] }, header)).status).toBe(401);
  });

  it("of the header count where the query has one too, even a bad one", async () => {
    const good = await sign({ userId });
    const cases = [
      { header: `Bearer ${good}`, query: "bad", status: 200 },
      { header: "Bearer bad", query: good, status: 401 },
      { header: "Bearer", query: good, status: 401 },
      { header: "Basic eDp5", query: good, status: 200 },
    ];
    for (const { header, query, status } of cases) {
      const headers = { Authorization: header };
      expect((await post(`/publish?token=${query}`, { userId }, headers)).status).toBe(status);
      const opened = await upgrade(null, `/?token=${query}`, headers);
      expect(opened.status).toBe(status === 200 ? 101 : status);
    }
  });

  it("must have the scope publish where the deployment asks for it", async () => {
    const status = async (scope: unknown, setting: string) => {
      const token = await sign({ userId, scope });
      const request = new Request(`${ORIGIN}/publish`, {
        method: "POST",
        headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
        body: JSON.stringify({ userId: freshName() }),
      });
      return (await app.fetch(request, { ...env, PUBLISH_REQUIRES_SCOPE: setting })).status;
    };
    expect(await status("read publish", "true")).toBe(200);
    expect(await status(["publish"], "true")).toBe(200);
    for (const scope of [undefined, "", "publisher", ["read"], { publish: true }, "Publish"]) {
      expect(await status(scope, "true")).toBe(403);
    }
    expect(await status(undefined, "yes")).toBe(403);
    expect(await status(undefined, "false")).toBe(200);
  });

  it("are worth nothing without JWT_SECRET: 503", async () => {
    const headers = { Authorization: `Bearer ${await sign({ userId })}` };
    const bare = { ...env, JWT_SECRET: "" };
    const ask = (path: string, init: RequestInit) =>
      app.fetch(new Request(ORIGIN + path, init), bare);
    expect((await ask("/publish", { method: "POST", headers })).status).toBe(503);
    expect((await ask("/fanout/stream?type=a", { headers })).status).toBe(503);
    expect((await ask("/", { headers: { ...headers, Upgrade: "websocket" } })).status).toBe(503);
  });
});

describe("what is refused", () => {
  it.each([
    ["nothing", ""],
    ["half of one", "{"],
    ["a list", "[]"],
    ["null", "null"],
    ["a string", '"x"'],
    ["a number", "7"],
    ["a NUL", "\u0000"],
    ["a hundred thousand brackets", "[".repeat(100_000)],
  ])("is a body that is no JSON object: %s", async (_, body) => {
    const invalid = { status: 400, body: { error: "Invalid JSON body" } };
    expect(await post("/publish", body)).toMatchObject(invalid);
    expect(await post("/publish/batch", body)).toMatchObject(invalid);
  });

  it("is never a payload that only nests deeply: it is delivered, or the request is bad", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    await alice.subscribe({ type: "deep", a: "1" });
    const deep = "[".repeat(100_000) + "]".repeat(100_000);
    const body = `{"userId":"${user}","type":"deep","ackTimeoutMs":0,"payload":{"a":"1","deep":${deep}}}`;
    expect([200, 400]).toContain((await post("/publish", body)).status);
    expect((await publish(user, { type: "deep" })).status).toBe(200);
  });

  it("is a message without a userId to deliver to", async () => {
    for (const body of [
      "{}",
      '{"userId":""}',
      '{"userId":" "}',
      '{"userId":1}',
      '{"userId":null}',
      '{"__proto__":{"userId":"u"}}',
    ]) {
      expect(await post("/publish", body)).toMatchObject({
        status: 400,
        body: { error: "userId is required" },
      });
    }
    expect((await publish("u".repeat(257))).status).toBe(400);
    expect((await post("/publish", '{"userId":"\\ud800"}')).status).toBe(400);
  });

  it("is a bad type, ackTimeoutMs or key", async () => {
    for (const bad of [
      { type: "" },
      { type: 1 },
      { type: null },
      { ackTimeoutMs: -1 },
      { ackTimeoutMs: 5_001 },
      { ackTimeoutMs: "5" },
      { ackTimeoutMs: null },
    ]) {
      expect((await publish("u", bad)).status).toBe(400);
    }
    expect((await publish("u", {}, { "Idempotency-Key": "x".repeat(257) })).status).toBe(400);
    expect((await publish("u", {}, { "Idempotency-Key": "" })).status).toBe(400);
    expect((await publish("u", { ackTimeoutMs: 0 })).status).toBe(200);
    expect((await publish("u", { ackTimeoutMs: 5_000 })).status).toBe(200);
  });

  it("is a body of more than 256 KiB, announced or not, and any that is not application/json", async () => {
    const body = (bytes: number) => {
      const empty = JSON.stringify({ userId: "u", payload: "" });
      return JSON.stringify({ userId: "u", payload: "x".repeat(bytes - empty.length) });
    };
    expect((await post("/publish", body(262_144))).status).toBe(200);
    expect((await post("/publish", body(262_145))).status).toBe(413);
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    const writer = writable.getWriter();
    const written = writer
      .write(new TextEncoder().encode(body(300_000)))
      .then(() => writer.close());
    const chunked = worker.fetch(`${ORIGIN}/publish?token=${await sign({ userId: "u" })}`, {
      method: "POST",
      headers: { "Content-Type": "application/json; charset=utf-8" },
      body: readable,
    });
    expect((await chunked).status).toBe(413);
    await written;
    for (const type of [
      "text/plain",
      "application/json-seq",
      "application/x-www-form-urlencoded",
    ]) {
      expect(await post("/publish", "{}", { "Content-Type": type })).toMatchObject({
        status: 415,
        body: { error: "Unsupported Media Type" },
      });
    }
  });

  it("is a plain GET where a socket is expected", async () => {
    expect((await worker.fetch(`${ORIGIN}/ws/fanout`)).status).toBe(426);
  });
});

it("answers CORS preflights on each route, and lets every page read the answers", async () => {
  for (const [path, methods] of [
    ["/publish", "POST,OPTIONS"],
    ["/publish/batch", "POST,OPTIONS"],
    ["/fanout/stream", "GET,OPTIONS"],
  ]) {
    const { status, headers } = await worker.fetch(ORIGIN + path, { method: "OPTIONS" });
    expect(status).toBe(204);
    expect(headers.get("Access-Control-Allow-Origin")).toBe("*");
    expect(headers.get("Access-Control-Allow-Methods")).toBe(methods);
    expect(headers.get("Access-Control-Allow-Headers")).toBe(
      "authorization,content-type,idempotency-key",
    );
    expect(headers.get("Access-Control-Max-Age")).toBe("86400");
  }
  for (const answer of [
    await publish("u"),
    await publish("u", {}, { Authorization: "Bearer x" }),
  ]) {
    expect(answer.headers.get("Access-Control-Allow-Origin")).toBe("*");
  }
});

describe("batch", () => {
  it("answers each message in order; a bad one spoils no other", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    await alice.subscribe({ type: "a" });
    const answering = alice.answerNext(2, ({ payload }) => payload);
    const { status, body } = await post("/publish/batch", {
      messages: [
        { userId: user, type: "a", payload: 1 },
        null,
        { type: "a" },
        { userId: freshName(), type: "a" },
        { userId: user, type: "a", ackTimeoutMs: "soon" },
        { userId: user, type: "a", payload: 2 },
        { userId: user, type: "a", payload: "x".repeat(262_144), ackTimeoutMs: 0 },
      ],
    });
    await answering;
    expect(status).toBe(200);
    expect(body.results).toMatchObject([
      { status: 200, clientCount: 1, results: [1] },
      { status: 400, error: "Invalid JSON body" },
      { status: 400, error: "userId is required" },
      { status: 200, clientCount: 0, results: [] },
      { status: 400, error: expect.stringContaining("ackTimeoutMs") },
      { status: 200, clientCount: 1, results: [2] },
      { status: 413, error: "Payload Too Large" },
    ]);
  });

  it("takes keys of its messages, as a publish does in its header", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    await alice.subscribe({ type: "a" });
    const idempotencyKey = crypto.randomUUID();
    const message = { userId: user, type: "a", ackTimeoutMs: 0, idempotencyKey };
    const { body } = await post("/publish/batch", {
      messages: [message, message, { ...message, payload: 1 }, { ...message, idempotencyKey: 7 }],
    });
    expect(body.results).toMatchObject([
      { status: 200, clientCount: 1, results: [] },
      { status: 200, clientCount: 1, results: [] },
      { status: 422, error: expect.any(String) },
      { status: 400, error: expect.any(String) },
    ]);
    const { idempotencyKey: _, ...single } = message;
    const again = await publish(user, single, { "Idempotency-Key": idempotencyKey });
    expect(again.body).toMatchObject({ clientCount: 1, results: [] });
    await alice.settle();
    expect(alice.received).toHaveLength(1);
  });

  it("takes 100 messages and 1 MiB in all", async () => {
    const list = (count: number, size = 0) => ({
      messages: Array.from({ length: count }, () => ({ userId: "u", payload: "x".repeat(size) })),
    });
    expect((await post("/publish/batch", list(0))).body).toEqual({ results: [] });
    expect((await post("/publish/batch", list(100))).body.results).toHaveLength(100);
    expect((await post("/publish/batch", list(101))).status).toBe(400);
    expect((await post("/publish/batch", {})).status).toBe(400);
    expect((await post("/publish/batch", list(5, 220_000))).status).toBe(413);
  });
});

describe("stream", () => {
  it("brings the same envelopes, is counted, and is never waited for", async () => {
    const user = freshName();
    const token = await sign({ userId: user });
    const stream = await openStream(`type=a&room=r%201&__proto__=p&token=${token}`);
    expect(stream.response.status).toBe(200);
    expect(stream.response.headers.get("Content-Type")).toBe("text/event-stream");
    expect(stream.response.headers.get("Access-Control-Allow-Origin")).toBe("*");
    await stream.until("\n\n");
    const alice = await Subscriber.connect(user);
    await alice.subscribe({ type: "a" });
    await evictDurableObject(env.FANOUT.getByName(user));

    const answer = post(
      "/publish",
      `{"userId":"${user}","type":"a","payload":{"room":"r 1","__proto__":"p"}}`,
    );
    const envelope = await alice.next();
    alice.ack(envelope, "socket");
    expect((await answer).body).toMatchObject({ clientCount: 2, results: ["socket"] });
    const sent = alice.socket.messages.at(-1);
    expect(await stream.until(`data: ${sent}\n\n`)).toContain(`id: ${envelope.cursor}\n`);

    const begun = Date.now();
    await alice.unsubscribe({ type: "a" });
    const alone = post(
      "/publish",
      `{"userId":"${user}","type":"a","payload":{"room":"r 1","__proto__":"p"}}`,
    );
    expect((await alone).body).toMatchObject({ clientCount: 1, results: [] });
    expect(Date.now() - begun).toBeLessThan(4_500);
    expect((await publish(user, { type: "a", payload: { room: "r 2" } })).body.clientCount).toBe(0);
    stream.close();
    await expect.poll(() => env.FANOUT.getByName(user).getSessionCount()).toBe(1);
  });

  it("takes one filter with a type, of a sane size", async () => {
    const headers = { Authorization: `Bearer ${await sign({ userId: freshName() })}` };
    const long = Array.from({ length: 40 }, (_, i) => `k${i}=v`).join("&");
    for (const query of [
      "",
      "type=",
      "a=b",
      "type=a&type=b",
      `type=a&${long}`,
      `type=${"x".repeat(1_025)}`,
    ]) {
      expect((await openStream(query, headers)).response.status).toBe(400);
    }
  });

  it("does not let a client make a stream of its socket", async () => {
    const user = freshName();
    const token = await sign({ userId: user });
    const filter = encodeURIComponent('{"type":"a"}');
    await upgrade(null, `/ws/fanout?token=${token}&filter=${filter}`);
    expect((await publish(user, { type: "a" })).body.clientCount).toBe(0);
  });
});

describe("whatever comes", () => {
  const json = fc.json({ depthSize: "small" });
  const odd = fc.oneof(fc.jsonValue(), fc.constant(undefined));
  const body = fc.oneof(
    json,
    fc.string(),
    fc
      .record(
        {
          userId: fc.oneof(fc.constant("fuzzed"), fc.string({ unit: "binary" }), odd),
          type: odd,
          payload: odd,
          ackTimeoutMs: fc.oneof(fc.constant(0), odd),
          idempotencyKey: odd,
        },
        { requiredKeys: [] },
      )
      .map((value) => JSON.stringify(value)),
  );

  it("as a body never gives a 5xx", async () => {
    await fc.assert(
      fc.asyncProperty(body, async (text) => {
        expect((await post("/publish", text)).status).toBeLessThan(500);
        expect((await post("/publish/batch", `{"messages":[${text}]}`)).status).toBeLessThan(500);
      }),
      { numRuns: 100 },
    );
  });

  it("as a frame closes no socket, and disturbs no subscription", async () => {
    const user = freshName();
    const alice = await Subscriber.connect(user);
    await alice.subscribe({ type: "kept" });
    const filters = fc.array(
      fc.oneof(fc.jsonValue(), fc.dictionary(fc.string(), fc.string()), fc.constant({ type: "x" })),
    );
    const frame = fc.oneof(
      json,
      fc.string({ unit: "binary" }),
      fc
        .record({
          type: fc.constantFrom("subscribe", "unsubscribe", "ack", "ping", "error"),
          filters: fc.oneof(filters, fc.jsonValue()),
          envelopeId: fc.oneof(fc.uuid(), fc.jsonValue()),
          result: odd,
        })
        .map((value) => JSON.stringify(value)),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(frame), async (frames) => {
        for (const text of frames) alice.send(text);
        await alice.settle();
        expect(alice.socket.closed).toBeNull();
      }),
      { numRuns: 50 },
    );
    const answer = await publish(user, { type: "kept", ackTimeoutMs: 0 });
    expect(answer.body.clientCount).toBe(1);
  });
});
