/**
 * `/openapi.json` and `/asyncapi.json` against the real server: each route is called with a request that
 * its schema allows and with some that it forbids; each message is observed on the wire.
 */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { Parser } from "@asyncapi/parser";
import { validate } from "@readme/openapi-parser";
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import { SignJWT } from "jose";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WebSocket } from "ws";
import { signPresenceToken } from "../../rooms/devices/token.ts";
import { CONFIRM, encodeAck, HISTORY } from "../../src/wire/frames.ts";
import { type Server, startServer } from "./server.ts";

const JWT_SECRET = "api-jwt-secret-0123456789-0123456789";
const SIGNING_KEY = "api-signing-key-0123456789-0123456789";
const INGEST_TOKEN = "api-ingest-token-0123456789-0123456789";
const BYPASS_TOKEN = "api-bypass-token-0123456789-0123456789";
const USER = "11111111-1111-4111-8111-111111111111";
const DEVICE = "22222222-2222-4222-8222-222222222222";
const WORKSPACE = "birds";
/** A room that keeps its changes. */
const KEPT = "kept";

interface Media {
  schema: { required?: string[]; properties?: Record<string, unknown> };
}
interface Operation {
  security?: Record<string, unknown>[];
  parameters?: { name: string; in: string; required?: boolean }[];
  requestBody?: { content: Record<string, Media> };
  responses: Record<string, { content?: Record<string, Media> }>;
}
interface OpenApi {
  paths: Record<string, Record<string, Operation>>;
}
interface AsyncApi {
  channels: Record<string, { address: string; messages: Record<string, object> }>;
  components: { messages: Record<string, { name: string; payload: object }> };
}

let server: Server;
let openapi: OpenApi;
let asyncapi: AsyncApi;
let jwt: string;
let presenceToken: string;
const ajv = new Ajv2020({ strict: false, validateFormats: false });
const upstream = createServer((_, response) => {
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify({ id: "1", choices: [] }));
});

async function getJson<T>(path: string): Promise<T> {
  const response = await fetch(server.url + path);
  expect(response.status).toBe(200);
  return (await response.json()) as T;
}

beforeAll(async () => {
  await new Promise<void>((resolve) => upstream.listen(0, "127.0.0.1", resolve));
  const { port } = upstream.address() as AddressInfo;
  server = await startServer({
    vars: {
      REQUIRE_AUTH: "true",
      JWT_SECRET,
      PRESENCE_DO_TOKEN_SIGNING_KEY: SIGNING_KEY,
      PRESENCE_DO_INGEST_TOKEN: INGEST_TOKEN,
      SERVER_BYPASS_TOKEN: BYPASS_TOKEN,
      BRAINTRUST_API_KEY: "sk-api",
      DIRECTORY: "on",
      WEBHOOKS: JSON.stringify([{ rooms: KEPT }]),
      LLM_BASE_URL: `http://127.0.0.1:${port}/v1`,
    },
  });
  openapi = await getJson<OpenApi>("/openapi.json");
  asyncapi = await getJson<AsyncApi>("/asyncapi.json");
  ajv.addSchema({ ...openapi, $id: "openapi" });
  const workspaces = [{ id: WORKSPACE, role: "member" }];
  jwt = await tokenOf({ userId: "ann", workspaces, workspaceClaimsVersion: 1 });
  const claims = { token_id: "t", user_id: USER, device_id: DEVICE, scope: ["presence:read"] };
  const times = { issued_at_ms: Date.now(), exp_ms: Date.now() + 600_000 };
  presenceToken = await signPresenceToken({ ...claims, ...times }, SIGNING_KEY);
});

afterAll(async () => {
  upstream.closeAllConnections();
  upstream.close();
  await server?.stop();
});

function tokenOf(claims: Record<string, unknown>): Promise<string> {
  return new SignJWT(claims)
    .setProtectedHeader({ alg: "HS256" })
    .setExpirationTime("10m")
    .sign(new TextEncoder().encode(JWT_SECRET));
}

let seq = 0;
function beat(): Record<string, unknown> {
  seq += 1;
  const who = { schema_version: 1, user_id: USER, device_id: DEVICE, status: "online" };
  return { ...who, source: "test", sent_at_ms: Date.now(), seq, ttl_ms: 60_000 };
}

function image(): FormData {
  const form = new FormData();
  const head = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 0x0d];
  form.set("file", new Blob([new Uint8Array(head)]), "cover.png");
  return form;
}

/** A call that the description allows. The rest of the request comes from the description. */
interface Case {
  params?: Record<string, string>;
  query?(): Record<string, string>;
  body?(): unknown;
  /** Default 200. */
  status?: number;
}

const watched: Case = { query: () => ({ user_id: USER }) };
const sync = (transport: string) => () => ({
  storeId: WORKSPACE,
  transport,
  payload: encodeURIComponent(JSON.stringify({ instanceId: WORKSPACE, authToken: jwt })),
});

const ping = () => ({
  ...{ _tag: "Request", id: "0", tag: "SyncHttpRpc.Ping" },
  ...{ payload: { storeId: WORKSPACE }, headers: [] },
});

/** One case for each operation of the description: a route without a case fails. */
const CASES: Record<string, Case> = {
  "get /api/v1/presence": { query: () => ({ room: "api" }) },
  "get /api/v1/rooms/{room}": { params: { room: "api" }, query: () => ({ users: "1" }) },
  "get /api/v1/rooms/{room}/stream": { params: { room: "api" } },
  "post /api/v1/rooms/{room}/events": {
    params: { room: "api" },
    body: () => ({ event: "news", data: { n: 1 } }),
  },
  "post /api/v1/rooms/{room}/events/batch": {
    params: { room: "api" },
    body: () => ({ messages: [{ event: "news", idempotencyKey: "k" }, {}] }),
  },
  "delete /api/v1/rooms/{room}/users/{id}": {
    params: { room: "api", id: "nobody" },
    query: () => ({ blockMs: "1" }),
  },
  "get /api/v1/rooms/{room}/changes": { params: { room: KEPT } },
  "post /api/v1/daemon/presence/heartbeat": { body: beat, status: 204 },
  "post /api/v1/daemon/presence/heartbeats": { body: () => ({ heartbeats: [beat(), {}] }) },
  "post /api/v1/presence/tokens": {
    body: () => ({ user_id: USER, device_id: DEVICE }),
    status: 201,
  },
  "post /api/v1/devices/tokens": {
    body: () => ({ user_id: USER, device_id: DEVICE }),
    status: 201,
  },
  "get /api/v1/mobile/presence": watched,
  "get /api/v1/mobile/presence/stream": watched,
  "post /publish": { body: () => ({ userId: "nobody", type: "t", payload: { a: 1 } }) },
  "post /publish/batch": { body: () => ({ messages: [{ userId: "nobody" }, {}] }) },
  "get /fanout/stream": { query: () => ({ type: "t" }) },
  "post /api/session": {},
  "post /api/heartbeat": { body: () => ({ sessionId: "api", mood: "release" }) },
  "post /api/leave": { body: () => ({ sessionId: "api" }) },
  "get /api/presence": {},
  "get /api/presence/stream": {},
  // Without an upgrade, which `fetch` cannot make.
  "get /sync": { query: sync("ws"), status: 426 },
  "post /sync": { query: sync("http"), body: ping },
  "post /api/upload-image": { body: image },
  "get /api/images/{key}": {
    params: { key: "covers/33333333-3333-4333-8333-333333333333.png" },
    status: 404,
  },
  "delete /api/images/{key}": {
    params: { key: "covers/33333333-3333-4333-8333-333333333333.png" },
    status: 404,
  },
  "delete /api/v1/workspaces/{id}": { params: { id: "nobody" }, status: 204 },
  "get /api/llm/tools": {},
  "post /api/llm/chat/completions": {
    body: () => ({ model: "m", messages: [{ role: "user", content: "hi" }] }),
  },
  "delete /api/v1/users/{id}": { params: { id: "nobody" }, status: 204 },
  "get /api/v1/users/{id}": { params: { id: USER } },
  "post /api/v1/users/{id}/revoke": {
    params: { id: "nobody" },
    body: () => ({ issuedBefore: 1 }),
  },
  "post /api/v1/users/{id}/disconnect": { params: { id: "nobody" } },
  "get /debug/actors/presence/{name}": { params: { name: "api" } },
  "get /debug/actors/fanout/{name}": { params: { name: "ann" } },
  "get /debug/actors/devices/{name}": { params: { name: USER } },
  "get /debug/presence": watched,
};

interface Call {
  /** Instead of those of the case. */
  params?: Record<string, string>;
  query?: Record<string, string>;
  headers?: Record<string, string>;
  body?: unknown;
}

function send(
  name: string,
  { params = CASES[name]?.params, query = {}, headers = {}, body }: Call,
): Promise<Response> {
  const [method = "", template = ""] = name.split(" ");
  const path = template.replace(/\{(\w+)\}/g, (_, key) => params?.[key] ?? "");
  const isRaw = body === undefined || typeof body === "string" || body instanceof FormData;
  return fetch(`${server.url}${path}?${new URLSearchParams(query)}`, {
    method: method.toUpperCase(),
    headers: { ...(isRaw ? {} : { "Content-Type": "application/json" }), ...headers },
    ...(body !== undefined && { body: isRaw ? body : JSON.stringify(body) }),
    signal: AbortSignal.timeout(10_000),
  });
}

function operationOf(method: string, path: string): Operation {
  const operation = openapi.paths[path]?.[method];
  if (!operation) throw new Error(`${method} ${path} is not described`);
  return operation;
}

/** What a client with these rights adds to its request. */
function credentials(scheme: string | undefined): Call {
  const bearer = (token: string) => ({ headers: { Authorization: `Bearer ${token}` } });
  if (scheme === undefined) return {};
  if (scheme === "bearer") return bearer(jwt);
  if (scheme === "bearerQuery") return { query: { token: jwt } };
  if (scheme === "presenceToken") return bearer(presenceToken);
  if (scheme === "presenceTokenQuery") return { query: { token: presenceToken } };
  if (scheme === "server") return bearer(BYPASS_TOKEN);
  if (scheme === "ingest" || scheme === "mint") return bearer(INGEST_TOKEN);
  throw new Error(`What are the credentials of ${scheme}?`);
}

/** Checks an answer against the description of its status. @returns the status */
async function hold(name: string, response: Response): Promise<number> {
  const [method = "", path = ""] = name.split(" ");
  const { status } = response;
  const { responses } = operationOf(method, path);
  expect(Object.keys(responses), `${name} answered ${status}`).toContain(`${status}`);
  const content = responses[status]?.content ?? {};
  const type = (response.headers.get("Content-Type") ?? "").split(";")[0] ?? "";
  if (!(type in content)) {
    const text = await response.text();
    expect([type, text], `${name} answered ${status} with a body`).toEqual(["", ""]);
  } else if (type === "application/json") {
    const at = [path, method, "responses", `${status}`, "content", type, "schema"];
    const pointer = at.map((part) => part.replaceAll("~", "~0").replaceAll("/", "~1")).join("/");
    const fits = ajv.compile({ $ref: `openapi#/paths/${encodeURI(pointer)}` });
    const body: unknown = await response.json();
    expect(fits(body) || fits.errors, `${name}: ${JSON.stringify(body)}`).toBe(true);
  } else await response.body?.cancel();
  return status;
}

describe("/openapi.json", () => {
  it("is valid OpenAPI 3.1 by the official parser", async () => {
    expect(await validate(structuredClone(openapi) as never)).toMatchObject({ valid: true });
  });

  it("describes exactly the routes that this file has a case for", () => {
    const names = Object.entries(openapi.paths).flatMap(([path, item]) =>
      Object.keys(item).map((method) => `${method} ${path}`),
    );
    expect(names.sort()).toEqual(Object.keys(CASES).sort());
  });

  it.each(Object.keys(CASES))(
    "%s answers as described, and refuses requests that its description forbids",
    async (name) => {
      const [method = "", path = ""] = name.split(" ");
      const { query = () => ({}), body = () => undefined, status = 200 } = CASES[name] ?? {};
      const operation = operationOf(method, path);
      const schemes = operation.security?.flatMap((scheme) => Object.keys(scheme)) ?? [];

      for (const scheme of schemes.length > 0 ? schemes : [undefined]) {
        const rights = credentials(scheme);
        const call = { ...rights, query: { ...query(), ...rights.query }, body: body() };
        expect(await hold(name, await send(name, call)), `with ${scheme}`).toBe(status);
      }

      const rights = credentials(schemes[0]);
      const refuse = async (call: Call, why: string): Promise<void> => {
        const answer = await hold(name, await send(name, { query: query(), ...call }));
        expect(answer, `${name} ${why}`).toBeGreaterThanOrEqual(400);
        expect(answer, `${name} ${why}`).toBeLessThan(500);
      };
      if (schemes.length > 0) {
        await refuse({ body: body() }, "without credentials");
        await refuse(
          { body: body(), headers: { Authorization: "Bearer wrong" } },
          "with wrong ones",
        );
      }
      for (const parameter of operation.parameters ?? []) {
        if (parameter.in !== "query" || !parameter.required) continue;
        const { [parameter.name]: _, ...rest } = query() as Record<string, string>;
        await refuse({ ...rights, query: rest, body: body() }, `without ${parameter.name}`);
      }
      const media = operation.requestBody?.content["application/json"];
      if (!media) return;
      await refuse({ ...rights, body: '{"' }, "with no JSON");
      const { required = [] } = resolve(media.schema) as Media["schema"];
      for (const field of required) {
        const { [field]: _, ...rest } = body() as Record<string, unknown>;
        await refuse({ ...rights, body: rest }, `without ${field}`);
        await refuse({ ...rights, body: { ...rest, [field]: null } }, `with ${field}: null`);
      }
    },
  );
});

describe("an answer of", () => {
  /** The answer to a call, which has to be as described. */
  async function answerOf(name: string, call: Call = {}, status = 200): Promise<unknown> {
    const response = await send(name, { ...credentials("bearer"), ...call });
    const copy = response.clone();
    expect(await hold(name, response)).toBe(status);
    return copy.json();
  }
  const enter = async (room: string, userId: string, more: Record<string, string> = {}) => {
    const line = await Line.open("presence", {
      ...{ room, token: await tokenOf({ userId, user: { colour: "red" } }), v: "3" },
      ...more,
    });
    await line.receives("presence.sync");
    return line;
  };

  it("a room with users in it is as described, with states and without", async () => {
    const [ann, bob] = [await enter("full", "ann"), await enter("full", "bob")];
    ann.send("presence.state", { type: "presence.state", data: { state: { typing: true } } });
    await bob.receives("presence.diff");
    const params = { room: "full" };
    const info = "get /api/v1/rooms/{room}";
    const totals = { totalUsers: 2, totalConnections: 2 };
    expect(await answerOf(info, { params })).toEqual({ room: "full", ...totals });
    expect(await answerOf(info, { params, query: { users: "1", after: "ann" } })).toMatchObject({
      ...totals,
      users: [{ userId: "bob", user: { colour: "red" } }],
    });
    const kick = "delete /api/v1/rooms/{room}/users/{id}";
    expect(await answerOf(kick, { params: { room: "full", id: "bob" } })).toEqual({ sessions: 1 });
    const key = { ...credentials("bearer").headers, "Idempotency-Key": "once" };
    const publish = (n: number, status: number) => {
      const call = { params, headers: key, body: { event: "n", data: { n } } };
      return answerOf("post /api/v1/rooms/{room}/events", call, status);
    };
    expect(await publish(1, 200)).toMatchObject({ recipients: 1 });
    expect(await publish(2, 422)).toMatchObject({ error: "unprocessable" });
    for (const line of [ann, bob]) line.close();
  });

  it("a room that keeps its changes is as described, as a page and as a snapshot; of another room 404", async () => {
    const changes = "get /api/v1/rooms/{room}/changes";
    const { cursor } = (await answerOf(changes)) as { cursor: string };
    const ann = await enter(KEPT, "ann");
    expect(await answerOf(changes, { query: { after: cursor } })).toMatchObject({
      changes: [{ type: "room.occupied" }, { type: "user.joined", userId: "ann" }],
      more: false,
    });
    const snapshot = [{ userId: "ann", sessions: 1 }];
    expect(await answerOf(changes, { query: { after: "old:1" } })).toMatchObject({ snapshot });
    ann.close();
    expect(await answerOf(changes, { params: { room: "full" } }, 404)).toMatchObject({
      error: "not_found",
    });
  });

  it("a user who is in a room and has a device is as described", async () => {
    const beatName = "post /api/v1/daemon/presence/heartbeat";
    await hold(beatName, await send(beatName, { ...credentials("ingest"), body: beat() }));
    const disconnect = { params: { id: USER } };
    // Sessions of earlier tests may still be present.
    await answerOf("post /api/v1/users/{id}/disconnect", disconnect);
    const line = await enter("home", USER);
    expect(await answerOf("get /api/v1/users/{id}")).toMatchObject({
      online: true,
      rooms: [{ room: "home", devices: 1, status: "online" }],
      devices: [{ device_id: DEVICE }],
    });
    const disconnected = await answerOf("post /api/v1/users/{id}/disconnect", disconnect);
    expect(disconnected).toEqual({ sessions: 1 });
    // Without a body: up to now.
    const revoked = await answerOf("post /api/v1/users/{id}/revoke", { params: { id: "gone" } });
    expect(revoked).toEqual({ sessions: 0, issuedBefore: expect.any(Number) });
    line.close();
  });
});

/** A schema, or the component that it refers to. */
function resolve(schema: object): object {
  const { $ref } = schema as { $ref?: string };
  if ($ref === undefined) return schema;
  const { components } = openapi as unknown as { components: { schemas: Record<string, object> } };
  return components.schemas[$ref.split("/").at(-1) ?? ""] ?? {};
}

// ── Sockets and streams ─────────────────────────────────────────────────────────────────────────

const validators = new Map<string, ValidateFunction>();
/** Messages that were observed on the wire, or encoded by the server's own encoder. */
const observed = new Set<string>();

function fits(id: string, payload: unknown): void {
  const message = asyncapi.components.messages[id];
  if (!message) throw new Error(`${id} is not described: ${JSON.stringify(payload)}`);
  const validator = validators.get(id) ?? ajv.compile(message.payload);
  validators.set(id, validator);
  expect(validator(payload) || validator.errors, `${id}: ${JSON.stringify(payload)}`).toBe(true);
  observed.add(id);
}

/** A client of a room that checks all messages, in both directions, against the description. */
class Line {
  readonly #channel: string;
  readonly #socket: WebSocket;
  readonly #received: { name: string; payload: unknown }[] = [];
  #wake = Promise.withResolvers<void>();

  private constructor(channel: string, url: string) {
    this.#channel = channel;
    this.#socket = new WebSocket(url);
    this.#socket.on("message", (data) => {
      const text = String(data);
      const value: unknown = text === "pong" ? text : JSON.parse(text);
      for (const payload of Array.isArray(value) ? value : [value]) {
        this.#received.push({ name: nameOf(payload), payload });
      }
      this.#wake.resolve();
      this.#wake = Promise.withResolvers();
    });
  }

  static async open(channel: string, query: Record<string, string>): Promise<Line> {
    const { address } = asyncapi.channels[channel] ?? { address: "" };
    const line = new Line(channel, `${server.wsUrl}${address}?${new URLSearchParams(query)}`);
    await new Promise<void>((resolve, reject) => {
      line.#socket.once("open", () => resolve()).once("error", reject);
    });
    return line;
  }

  /** Sends a message that the description allows. */
  send(name: string, payload: unknown): void {
    fits(`${this.#channel}.in.${name}`, payload);
    this.#socket.send(payload === "ping" ? payload : JSON.stringify(payload));
  }

  /** Sends text that the description does not allow. */
  sendText(text: string): void {
    this.#socket.send(text);
  }

  /** Waits for a message of this name. All messages before it are checked as well. */
  async receives(name: string): Promise<unknown> {
    for (;;) {
      while (this.#received.length > 0) {
        const message = this.#received.shift();
        if (!message) break;
        fits(`${this.#channel}.out.${message.name}`, message.payload);
        if (message.name === name) return message.payload;
      }
      await this.#wake.promise;
    }
  }

  close(): void {
    this.#socket.close();
  }
}

/** The name of a message in the description. */
function nameOf(payload: unknown): string {
  if (typeof payload === "string") return payload;
  const { type, data, envelopeId } = payload as {
    type: string;
    data?: { type: string };
    envelopeId?: string;
  };
  if (envelopeId !== undefined) return "envelope";
  return type === "event" && data ? data.type : type;
}

/** The first event of a stream, as JSON. */
async function firstEvent(path: string, token: string, cause?: () => unknown): Promise<unknown> {
  const leaving = new AbortController();
  const response = await fetch(server.url + path, {
    headers: { Authorization: `Bearer ${token}` },
    signal: leaving.signal,
  });
  expect(response.headers.get("Content-Type")).toBe("text/event-stream");
  await cause?.();
  let text = "";
  for await (const chunk of response.body?.pipeThrough(new TextDecoderStream()) ?? []) {
    text += chunk;
    const [, data] = /^data: (.*)\n\n/m.exec(text) ?? [];
    if (data === undefined) continue;
    leaving.abort();
    return JSON.parse(data);
  }
  throw new Error(`The stream ended with ${text}`);
}

const publish = (type: string) =>
  send("post /publish", { ...credentials("bearer"), body: { userId: "ann", type } });

/** What a test cannot have without a megabyte that is not read, is as the server encodes it. */
function exchangeProtocol3(line: Line, channel: string): void {
  line.send("confirmed", { type: "confirmed" });
  line.send(HISTORY, { type: HISTORY, data: { limit: 1 }, id: "history" });
  fits(`${channel}.out.confirm`, JSON.parse(CONFIRM));
}

describe("/asyncapi.json", () => {
  it("is valid AsyncAPI 3 by the official parser, without diagnostics", async () => {
    const { document, diagnostics } = await new Parser().parse(JSON.stringify(asyncapi));
    expect(diagnostics.map(({ message, path }) => `${path.join(".")}: ${message}`)).toEqual([]);
    expect(document?.version()).toMatch(/^3\./);
  });

  it("describes every message of a presence room", async () => {
    const join = async (userId: string, more: Record<string, string> = { v: "2" }) =>
      Line.open("presence", { room: "api", token: await tokenOf({ userId }), ...more });
    const ann = await join("ann", { v: "2", probe: "1" });
    await ann.receives("hello");
    await ann.receives("presence.sync");
    const old = await join("old", {});
    await old.receives("presence.sync");
    await ann.receives("presence.diff");

    const bob = await join("bob");
    await old.receives("presence.online");
    const phone = await join("bob");
    await old.receives("presence.update");
    ann.send("presence.status", { type: "presence.status", data: { status: "busy" }, id: "1" });
    await ann.receives("ack");
    await old.receives("presence.status");
    bob.close();
    phone.close();
    await old.receives("presence.offline");

    ann.send("presence.list", { type: "presence.list" });
    await ann.receives("presence.sync");
    ann.send("ping", { type: "ping" });
    await ann.receives("pong");
    ann.send("probe", { type: "probe" });
    await ann.receives("probed");
    ann.sendText('{"type":"presence.status","data":{"status":"asleep"}}');
    await ann.receives("error");
    ann.sendText('{"type":"presence.status","data":{"status":"asleep"},"id":"2"}');
    await ann.receives("nack");
    exchangeProtocol3(ann, "presence");

    const watcher = await join("watcher", { v: "3", detail: "count", watch: "cid" });
    await watcher.receives("presence.count");
    const cid = await join("cid", { v: "3" });
    await cid.receives("presence.sync");
    const data = { state: { typing: true }, ttlMs: 5_000 };
    cid.send("presence.state", { type: "presence.state", data });
    await watcher.receives("presence.diff");
    cid.send("presence.page", { type: "presence.page", data: { limit: 1 }, id: "3" });
    await cid.receives("ack");
    for (const line of [ann, old, watcher, cid]) line.close();
  });

  it("describes every message of the devices room and of its stream", async () => {
    const query = { user_id: USER, token: presenceToken, v: "2", probe_devices: "1" };
    const line = await Line.open("devices", query);
    await line.receives("hello");
    await line.receives("device.sync");
    const { Authorization = "" } = credentials("ingest").headers ?? {};
    const token = Authorization.replace("Bearer ", "");
    const daemon = { user_id: USER, device_id: DEVICE, token, v: "2" };
    const beats = await Line.open("deviceBeats", daemon);
    beats.send("device.beat", { type: "device.beat", data: beat(), id: "1" });
    await beats.receives("ack");
    beats.send("ping", { type: "ping" });
    await beats.receives("pong");
    beats.sendText('{"schema_version":1}');
    await beats.receives("error");
    beats.sendText('{"type":"device.beat","data":{},"id":"2"}');
    await beats.receives("nack");
    await line.receives("device.probe");
    line.send("device.probe", { type: "device.probe" });
    await line.receives("device.probe");
    exchangeProtocol3(beats, "deviceBeats");
    beats.close();
    const name = "post /api/v1/daemon/presence/heartbeat";
    await send(name, { ...credentials("ingest"), body: beat() });
    await line.receives("device.update");
    line.send("ping", { type: "ping" });
    await line.receives("pong");
    line.sendText("nonsense");
    await line.receives("error");
    line.sendText('{"type":"nobody.listens","id":"1"}');
    await line.receives("nack");
    exchangeProtocol3(line, "devices");
    line.close();
    // No event of this room returns a value, so the server's encoder makes the ack.
    fits("devices.out.ack", JSON.parse(encodeAck("1", undefined)));

    const path = `/api/v1/mobile/presence/stream?user_id=${USER}`;
    fits("deviceStream.out.device", await firstEvent(path, presenceToken));
  });

  it("describes every message of the mood count and of its stream", async () => {
    const line = await Line.open("moods", { sessionId: "api", v: "2" });
    await line.receives("hello");
    await line.receives("mood.state");
    line.send("mood.set", { type: "mood.set", data: { mood: "release" }, id: "1" });
    await line.receives("ack");
    line.send("ping", { type: "ping" });
    await line.receives("pong");
    line.sendText('{"type":"mood.set","data":{"mood":"fury"}}');
    await line.receives("error");
    line.sendText('{"type":"mood.set","data":{"mood":"fury"},"id":"2"}');
    await line.receives("nack");
    exchangeProtocol3(line, "moods");
    fits("moodStream.out.state", await firstEvent("/api/presence/stream", ""));
    line.close();
  });

  it("describes every message of the fan-out and of its stream", async () => {
    const line = await Line.open("fanout", { token: jwt });
    const filters = [{ type: "news" }];
    line.send("subscribe", { type: "subscribe", filters });
    line.send("ping", "ping");
    await line.receives("pong");
    const answer = publish("news");
    const envelope = await line.receives("envelope");
    const { envelopeId } = envelope as { envelopeId: string };
    line.send("ack", { type: "ack", envelopeId, result: { shown: true } });
    const answered = { clientCount: 1, results: [{ shown: true }] };
    expect(await (await answer).json()).toMatchObject(answered);
    line.send("unsubscribe", { type: "unsubscribe", filters });
    for (let i = 0; i <= 10; i++) {
      const many = Array.from({ length: 50 }, (_, j) => ({ type: "news", topic: `${i}.${j}` }));
      line.send("subscribe", { type: "subscribe", filters: many });
    }
    await line.receives("error");
    line.send("subscribe", { type: "subscribe", filters, since: "now" });
    await line.receives("cursor");
    line.send("subscribe", { type: "subscribe", filters, since: "of another log" });
    await line.receives("gap");
    line.close();

    const first = await firstEvent("/fanout/stream?type=late", jwt, () => publish("late"));
    fits("fanoutStream.out.envelope", first);
    const gap = await firstEvent("/fanout/stream?type=late&lastEventId=none", jwt);
    fits("fanoutStream.out.gap", gap);
  });

  it("describes every message of the stream of a presence room", async () => {
    const path = "/api/v1/rooms/api/stream";
    const event = await firstEvent(path, jwt);
    fits("roomStream.out.roomEvent", event);
    expect(event).toMatchObject({ event: "presence.sync", channel: "default" });
    fits("roomStream.out.roomGap", await firstEvent(`${path}?lastEventId=none`, jwt));
  });

  it("describes every message of the socket for people", async () => {
    const line = await Line.open("people", { token: jwt });
    line.send("watch", { type: "watch", ids: ["dan", "nobody"] });
    const users = ["dan", "nobody"].map((userId) => ({ userId, online: false }));
    expect(await line.receives("people.sync")).toEqual({ type: "people.sync", users });
    const dan = await Line.open("presence", {
      ...{ room: "api", token: await tokenOf({ userId: "dan" }), v: "3" },
    });
    const update = { type: "people.update", userId: "dan", online: true };
    expect(await line.receives("people.update")).toEqual(update);
    line.send("unwatch", { type: "unwatch", ids: ["dan"] });
    line.send("ping", "ping");
    await line.receives("pong");
    line.sendText('{"type":"watch","ids":"dan"}');
    await line.receives("error");
    for (const one of [dan, line]) one.close();
  });

  it("describes no message that the tests above did not observe", () => {
    expect(Object.keys(asyncapi.components.messages).filter((id) => !observed.has(id))).toEqual([]);
  });
});

describe("/docs", () => {
  it("names every route, address and event, and loads no script, style or image", async () => {
    const response = await fetch(`${server.url}/docs`);
    expect(response.headers.get("Content-Security-Policy")).toContain("default-src 'none'");
    const page = await response.text();
    const events = Object.values(asyncapi.components.messages).map(({ name }) => name);
    const addresses = Object.values(asyncapi.channels).map(({ address }) => address);
    for (const text of [...Object.keys(openapi.paths), ...events, ...addresses]) {
      expect(page).toContain(text);
    }
    expect(page).not.toMatch(/<script|<link (?!rel="icon" href="data:,")|<img|src=|url\(/);
  });
});
