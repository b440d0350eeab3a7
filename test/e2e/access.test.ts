// @module-tag slow
import { createHmac, randomBytes, randomUUID } from "node:crypto";
import { createServer, type Server as HttpServer, request as httpRequest } from "node:http";
import type { AddressInfo } from "node:net";
import { exportJWK, generateKeyPair, type JWTPayload, SignJWT } from "jose";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { mintPresenceToken, signPresenceToken } from "../../rooms/devices/token.ts";
import { DOORS, type Door } from "../access/doors.ts";
import { type Server, startServer } from "./server.ts";

/** A server with what wrangler.toml ships for production, and secrets of its own. */

const own = (name: string): string => `own-${name}-of-this-deployment-${randomUUID()}`;
const secrets = {
  JWT_SECRET: own("jwt-secret"),
  PRESENCE_DO_INGEST_TOKEN: own("ingest-token"),
  PRESENCE_DO_MINT_TOKEN: own("mint-token"),
  PRESENCE_DO_TOKEN_SIGNING_KEY: own("signing-key"),
  SERVER_BYPASS_TOKEN: own("bypass-token"),
  BRAINTRUST_API_KEY: own("llm-key"),
  WEBHOOK_SECRET: `whsec_${randomBytes(32).toString("base64")}`,
};
/** Who knows this part of a webhook's url can send to its consumer. */
const HOOK_PATH = own("hook");
/** A name that no resolver asks for, since it has more than 63 letters: nothing leaves this machine. */
const HOOK = `https://${"unreachable".repeat(6)}.com/${HOOK_PATH}`;
const ISSUER = "https://login.test";
const AUDIENCE = "rollcall";
/** All that must be in no log. */
const shown = new Set<string>([...Object.values(secrets), HOOK_PATH]);
shown.add(secrets.WEBHOOK_SECRET.slice("whsec_".length));

let server: Server;
let upstream: HttpServer;
let privateKey: CryptoKey;
let withdrawnKey: CryptoKey;

beforeAll(async () => {
  upstream = createServer((_, response) => {
    response.writeHead(200, { "Content-Type": "application/json" }).end('{"choices":[]}');
  });
  await new Promise<void>((resolve) => upstream.listen(0, "127.0.0.1", resolve));
  const pairs = await Promise.all([generateKeyPair("ES256"), generateKeyPair("ES256")]);
  [privateKey, withdrawnKey] = pairs.map((pair) => pair.privateKey) as [CryptoKey, CryptoKey];
  const keys = [{ ...(await exportJWK((pairs[0] as (typeof pairs)[0]).publicKey)), kid: "new" }];
  server = await startServer({
    args: ["--env", "production"],
    vars: {
      ENVIRONMENT: "production",
      ...secrets,
      JWT_JWKS: JSON.stringify({ keys }),
      JWT_ISSUER: ISSUER,
      JWT_AUDIENCE: AUDIENCE,
      WEBHOOKS: JSON.stringify([{ rooms: KEPT }, { url: HOOK, rooms: HOOKED }]),
      LLM_BASE_URL: `http://127.0.0.1:${(upstream.address() as AddressInfo).port}`,
    },
    readyPath: "/openapi.json",
  });
  for (const id of [USER, UUID]) {
    const token = await sign(claims({ userId: "operator", cap: { "user:*": ["revoke"] } }));
    shown.add(token);
    const ask = json(`/api/v1/users/${id}/revoke`, { issuedBefore: REVOKED_S });
    const { status, body } = await send("POST", ask, { Authorization: `Bearer ${token}` });
    if (status !== 200) throw new Error(`${id} was not revoked: ${body}`);
  }
});
afterAll(async () => {
  await server?.stop();
  upstream?.close();
});

// ── Tokens ──────────────────────────────────────────────────────────────────────────────────────

const USER = "ann";
const WORKSPACE = `team-${randomUUID()}`;
const UUID = randomUUID();
const DEVICE = randomUUID();
const nowS = () => Math.floor(Date.now() / 1_000);
/** A room that keeps its changes, and one whose changes go to a webhook. */
const KEPT = "kept-lobby";
const HOOKED = "hooked-lobby";
/** A user whose tokens no test shows: a revocation does not matter. */
const LEAVER = "leaver";
/** Tokens of the user, and of the user with devices, that were issued until then do not hold any more. */
const REVOKED_S = nowS() - 30;

/** Everything that one user may be given. */
const ALL = {
  "room:lobby": ["join", "state"],
  [`room:${KEPT}`]: ["join", "watch", "publish", "kick"],
  "user:<self>": ["subscribe", "publish"],
  [`user:${LEAVER}`]: ["presence", "revoke"],
  images: ["upload", "delete"],
  llm: ["call"],
};
/** The same operations, on what is another's. */
const OTHERS = {
  "room:other": ["join", "watch", "publish", "kick"],
  "user:other": ["subscribe", "publish", "presence", "revoke"],
};
/** Everything but these operations. */
const allBut = (operations: readonly string[]) =>
  Object.fromEntries(
    Object.entries(ALL).map(([resource, allowed]) => [
      resource,
      allowed.filter((operation) => !operations.includes(operation)),
    ]),
  );
const claims = (more: JWTPayload = {}): JWTPayload => ({
  userId: USER,
  ...{ iss: ISSUER, aud: AUDIENCE, iat: nowS(), exp: nowS() + 300 },
  ...{ workspaces: [{ id: WORKSPACE, role: "member" }], workspaceClaimsVersion: 1 },
  cap: ALL,
  ...more,
});

async function sign(payload: JWTPayload, alg = "HS256", secret = secrets.JWT_SECRET) {
  return new SignJWT(payload).setProtectedHeader({ alg }).sign(new TextEncoder().encode(secret));
}
const signWith = (key: CryptoKey, kid: string) =>
  new SignJWT(claims()).setProtectedHeader({ alg: "ES256", kid }).sign(key);

function unsigned(): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "none" })}.${part(claims())}.`;
}
/** Signed with the text of a public key, as if that were a secret. */
function confused(): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const text = `${part({ alg: "HS256", kid: "new" })}.${part(claims())}`;
  return `${text}.${createHmac("sha256", "new").update(text).digest("base64url")}`;
}

const HOUR_S = 3_600;
function withoutExpiry({ exp: _, ...rest }: JWTPayload): JWTPayload {
  return rest;
}
function withoutTime({ iat: _, ...rest }: JWTPayload): JWTPayload {
  return rest;
}
const INVALID: Record<string, () => string | Promise<string>> = {
  malformed: () => "a.b.c",
  "a development name": () => "user:ann",
  "another algorithm": () => sign(claims(), "HS512"),
  "no algorithm": unsigned,
  "a public key as a secret": confused,
  "another key": () => sign(claims(), "HS256", own("another")),
  expired: () => sign(claims({ exp: nowS() - HOUR_S })),
  "not yet valid": () => sign(claims({ nbf: nowS() + 60 })),
  "another issuer": () => sign(claims({ iss: "https://other.test" })),
  "another audience": () => sign(claims({ aud: "other" })),
  "no expiry": () => sign(withoutExpiry(claims())),
  revoked: () => sign(claims({ iat: REVOKED_S })),
  "no time of issue, after a revocation": () => sign(withoutTime(claims())),
  "a withdrawn kid": () => signWith(withdrawnKey, "old"),
  "a known kid, and another key": () => signWith(withdrawnKey, "new"),
};

const presence = async (user_id: string, scope: string[], device_id = DEVICE) =>
  (await mintPresenceToken({ user_id, device_id, scope }, secrets.PRESENCE_DO_TOKEN_SIGNING_KEY))
    .token;

type Case = "none" | "invalid" | "noGrant" | "others" | "valid";

/** The tokens of a case at a door, by what they are. */
async function tokensFor(
  { credential, door, operations }: Door,
  what: Case,
): Promise<[string, string | null][]> {
  if (what === "none") return [["no token", null]];
  if (what === "invalid") {
    const made = Object.entries(INVALID).map(async ([name, make]) => [name, await make()] as const);
    return (await Promise.all(made)).map(([name, token]) => [name, token]);
  }
  const jwts = {
    noGrant: () => sign(claims({ cap: {}, workspaces: [] })),
    others: () => sign(claims({ cap: OTHERS, workspaces: [{ id: "other", role: "owner" }] })),
    valid: () => sign(claims()),
  };
  switch (credential) {
    case "presence":
      if (what === "noGrant") return [["a daemon's", await presence(UUID, ["presence:heartbeat"])]];
      return [[what, await presence(what === "valid" ? UUID : randomUUID(), ["presence:read"])]];
    case "ingest":
      if (what === "valid") {
        return [
          ["the ingest token", secrets.PRESENCE_DO_INGEST_TOKEN],
          ["the daemon's own", await presence(UUID, ["presence:heartbeat"])],
        ];
      }
      if (what === "noGrant") return [["a phone's", await presence(UUID, ["presence:read"])]];
      return [["another's", await presence(UUID, ["presence:heartbeat"], randomUUID())]];
    case "mint":
      if (what === "valid") return [["the minting token", secrets.PRESENCE_DO_MINT_TOKEN]];
      if (what === "noGrant") return [["the ingest token", secrets.PRESENCE_DO_INGEST_TOKEN]];
      return [["another secret", secrets.SERVER_BYPASS_TOKEN]];
    case "server":
      if (what === "valid") return [["the bypass token", secrets.SERVER_BYPASS_TOKEN]];
      if (what === "noGrant")
        return [
          ["an owner", await sign(claims({ workspaces: [{ id: WORKSPACE, role: "owner" }] }))],
        ];
      return [["another secret", secrets.PRESENCE_DO_MINT_TOKEN]];
    default: {
      const list: [string, string][] = [[what, await jwts[what]()]];
      if (what === "noGrant" && operations) {
        list.push(["with all else", await sign(claims({ cap: allBut(operations) }))]);
      }
      if (what === "valid") list.push(["of a public key", await signWith(privateKey, "new")]);
      // Another's image is found by its key only.
      if (what === "others" && door.startsWith("DELETE /api/images")) {
        return [[what, await sign(claims({ userId: "ben" }))]];
      }
      return list;
    }
  }
}

// ── Requests ────────────────────────────────────────────────────────────────────────────────────

interface Ask {
  path: string;
  body?: string;
  type?: string;
}

const json = (path: string, body: object): Ask => ({
  path,
  body: JSON.stringify(body),
  type: "application/json",
});
const beat = () => ({
  schema_version: 1,
  user_id: UUID,
  device_id: DEVICE,
  ...{ status: "online", source: "test", sent_at_ms: Date.now(), seq: ++beats, ttl_ms: 12_000 },
});
let beats = 0;
let image = "";
let session = "";

const PNG = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 13, 1, 2, 3]);
const FORM =
  '--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' +
  `${PNG.toString("latin1")}\r\n--b--\r\n`;

const pathOf = (door: string) => door.slice(door.indexOf(" ") + 1);

/** The request at a door; LiveStore's has its token in the URL. */
function askAt(door: string, token: string | null): Ask {
  const payload = JSON.stringify({ instanceId: WORKSPACE, ...(token && { authToken: token }) });
  const sync = `/sync?storeId=${WORKSPACE}&payload=${encodeURIComponent(encodeURIComponent(payload))}`;
  switch (door) {
    case "POST /api/v1/rooms/{room}/events":
      return json(`/api/v1/rooms/${KEPT}/events`, { event: "x" });
    case "POST /api/v1/rooms/{room}/events/batch":
      return json(`/api/v1/rooms/${KEPT}/events/batch`, { messages: [{ event: "x" }] });
    case "GET /api/v1/users/{id}":
    case "POST /api/v1/users/{id}/revoke":
    case "POST /api/v1/users/{id}/disconnect":
      return { path: pathOf(door).replace("{id}", LEAVER) };
    case "POST /publish":
      return json("/publish", { userId: USER, type: "x", ackTimeoutMs: 0 });
    case "POST /publish/batch":
      return json("/publish/batch", { messages: [{ userId: USER, type: "x", ackTimeoutMs: 0 }] });
    case "GET /fanout/stream":
      return { path: "/fanout/stream?type=x" };
    case "POST /api/v1/daemon/presence/heartbeat":
      return json("/api/v1/daemon/presence/heartbeat", beat());
    case "POST /api/v1/daemon/presence/heartbeats":
      return json("/api/v1/daemon/presence/heartbeats", { heartbeats: [beat()] });
    case "POST /api/v1/presence/tokens":
    case "POST /api/v1/devices/tokens":
      return json(door.slice(5), { user_id: UUID, device_id: DEVICE });
    case "DELETE /api/v1/users/{id}":
      return { path: `/api/v1/users/${randomUUID()}` };
    case "DELETE /api/v1/workspaces/{id}":
      return { path: `/api/v1/workspaces/${WORKSPACE}` };
    case "GET /sync":
      return { path: `${sync}&transport=ws` };
    case "POST /sync": {
      const ping = { _tag: "Request", id: "1", tag: "SyncHttpRpc.Ping", headers: [] };
      return json(`${sync}&transport=http`, { ...ping, payload: { storeId: WORKSPACE } });
    }
    case "POST /api/upload-image":
      return { path: "/api/upload-image", body: FORM, type: "multipart/form-data; boundary=b" };
    case "GET /api/images/{key}":
    case "DELETE /api/images/{key}":
      return { path: `/api/images/${image}` };
    case "POST /api/llm/chat/completions":
      return json("/api/llm/chat/completions", { model: "m", messages: [{ role: "user" }] });
    case "POST /api/heartbeat":
      return json("/api/heartbeat", { sessionId: session });
    case "POST /api/leave":
      return json("/api/leave", { sessionId: session });
    case "GET /ws/moods":
      return { path: `/ws/moods?sessionId=${session}` };
    case "GET /ws/devices/beat":
      return { path: `/ws/devices/beat?user_id=${UUID}&device_id=${DEVICE}` };
    default: {
      const path = pathOf(door).replace("{room}", KEPT).replace("{id}", LEAVER);
      return { path: /mobile|devices|debug/.test(path) ? `${path}?user_id=${UUID}` : path };
    }
  }
}

interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  /** The first part of a stream. */
  body: string;
}

/** A raw request: the answer to an upgrade is seen, too. */
function send(
  method: string,
  { path, body, type }: Ask,
  headers: Record<string, string>,
): Promise<Answer> {
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  const request = httpRequest(server.url + path, {
    method,
    agent: false,
    headers: {
      ...headers,
      ...(type && { "Content-Type": type }),
      ...(body !== undefined && { "Content-Length": Buffer.byteLength(body, "latin1") }),
    },
  });
  request.on("upgrade", ({ statusCode = 0, headers }, socket) => {
    socket.destroy();
    resolve({ status: statusCode, headers, body: "" });
  });
  request.on("response", (response) => {
    const { statusCode = 0, headers } = response;
    const finish = (text: string) => {
      request.destroy();
      resolve({ status: statusCode, headers, body: text });
    };
    let text = "";
    response.setEncoding("utf8").on("data", (chunk) => {
      text += chunk;
      if (/event-stream/.test(headers["content-type"] ?? "")) finish(text);
    });
    response.on("end", () => finish(text));
    // A stream may have nothing to say yet.
    if (/event-stream/.test(headers["content-type"] ?? "")) setTimeout(() => finish(text), 50);
  });
  request.on("error", reject);
  request.end(body, "latin1");
  return promise;
}

const UPGRADE = {
  Connection: "Upgrade",
  Upgrade: "websocket",
  "Sec-WebSocket-Version": "13",
  "Sec-WebSocket-Key": Buffer.alloc(16, 1).toString("base64"),
};

async function knock({ door, socket, credential }: Door, token: string | null): Promise<Answer> {
  if (token !== null) shown.add(token);
  const method = door.slice(0, door.indexOf(" "));
  const isInUrl = credential === "sync";
  const headers = token === null || isInUrl ? {} : { Authorization: `Bearer ${token}` };
  return send(method, askAt(door, token), { ...headers, ...(socket && UPGRADE) });
}

async function upload(): Promise<string> {
  const token = await sign(claims());
  shown.add(token);
  const answer = await send("POST", askAt("POST /api/upload-image", null), {
    Authorization: `Bearer ${token}`,
  });
  return JSON.parse(answer.body).key;
}

// ── The doors ───────────────────────────────────────────────────────────────────────────────────

test("every route, socket and stream that is described is a door", async () => {
  const [openapi, asyncapi] = await Promise.all(
    ["/openapi.json", "/asyncapi.json"].map(async (path) =>
      (await fetch(server.url + path)).json(),
    ),
  );
  const routes = Object.entries(openapi.paths as Record<string, object>).flatMap(
    ([path, methods]) =>
      Object.keys(methods)
        .filter((method) => /^(get|post|put|delete)$/.test(method))
        .map((method) => `${method.toUpperCase()} ${path}`),
  );
  const channels = Object.values(asyncapi.channels as Record<string, { address: string }>).map(
    ({ address }) => `GET ${address}`,
  );
  const doors = new Set(DOORS.map(({ door }) => door));
  expect([...routes, ...channels].filter((name) => !doors.has(name))).toEqual([]);
});

describe.each(DOORS.map((door) => [door.door + (door.socket ? " (socket)" : ""), door] as const))(
  "%s",
  (_, door) => {
    test.each(["none", "invalid", "noGrant", "others", "valid"] as const)(
      "with %s",
      async (what) => {
        if (door.door.includes("/api/images/")) image = await upload();
        if (/heartbeat|leave|moods/.test(door.door) && session === "") {
          const issued = await send("POST", { path: "/api/session" }, {});
          session = JSON.parse(issued.body).sessionId;
          shown.add(session);
        }
        for (const [name, token] of await tokensFor(door, what)) {
          // Two tokens may be valid, and there is one image.
          if (what === "valid" && door.door.startsWith("DELETE /api/images"))
            image = await upload();
          const { status, headers, body } = await knock(door, token);
          expect(status, `${name}: ${body}`).toBe(door.answers[what]);
          if (door.isForBackends) {
            expect(headers["access-control-allow-origin"]).toBeUndefined();
            expect(headers["cache-control"]).toBe("no-store");
          }
          if (what === "others" && /batch|heartbeats/.test(door.door) && status === 200) {
            expect(JSON.parse(body).results).toMatchObject([{ status: 403 }]);
          }
        }
      },
    );
  },
);

const CLOSES: Record<number, number> = { 401: 4401, 403: 4403 };
const SOCKETS = DOORS.filter(({ socket, credential }) => socket && credential !== "sync");

test.each(SOCKETS.map((door) => [door.door, door] as const))(
  "%s closes protocol 3 with the code of the refusal, and takes a token beside the URL",
  async (_, door) => {
    const { path } = askAt(door.door, null);
    const url = `${server.wsUrl}${path}${path.includes("?") ? "&" : "?"}v=3`;
    for (const what of ["none", "invalid", "noGrant", "others", "valid"] as const) {
      for (const [name, token] of await tokensFor(door, what)) {
        if (token !== null) shown.add(token);
        const base64 = Buffer.from(token ?? "").toString("base64url");
        const ws = new WebSocket(url, token === null ? [] : ["rollcall", `token.${base64}`]);
        const outcome = await new Promise<number>((resolve) => {
          ws.addEventListener("close", ({ code }) => resolve(code));
          // A refused socket opens as well, and is closed at once.
          ws.addEventListener("open", () => setTimeout(() => resolve(101), 300));
        });
        ws.close();
        const status = door.answers[what];
        expect(outcome, `${what}: ${name}`).toBe(CLOSES[status] ?? status);
        if (outcome === 101 && token !== null) expect(ws.protocol).toBe("rollcall");
      }
    }
  },
);

test.each(["GET /api/v1/rooms/{room}/stream", "GET /fanout/stream"])(
  "%s takes a token in the query, and ends within 2 s of a revocation of it",
  async (door) => {
    const userId = `reader-${randomUUID()}`;
    const cap = { ...ALL, "user:*": ["revoke"], "user:<self>": ["subscribe"] };
    const token = await sign(claims({ userId, cap }));
    shown.add(token);
    const { path } = askAt(door, null);
    const url = `${server.url}${path}${path.includes("?") ? "&" : "?"}token=${token}`;
    const stream = await fetch(url);
    expect(stream.status).toBe(200);
    const ended = stream.text();
    const revoke = { path: `/api/v1/users/${userId}/revoke` };
    const headers = { Authorization: `Bearer ${token}` };
    const { status, body } = await send("POST", revoke, headers);
    expect([status, body]).toEqual([200, expect.stringMatching(/^\{"sessions":1,/)]);
    const limit = new Promise((resolve) => setTimeout(resolve, 2_000, "open after 2 s"));
    expect(await Promise.race([ended, limit])).not.toBe("open after 2 s");
    expect((await fetch(url)).status).toBe(401);
  },
);

test("a phone's and a daemon's token that were issued before a revocation get 401, newer ones hold", async () => {
  const signed = (scope: string, issued_at_ms: number) => {
    const ids = { token_id: randomUUID(), user_id: UUID, device_id: DEVICE };
    const payload = { ...ids, scope: [scope], issued_at_ms, exp_ms: Date.now() + 300_000 };
    return signPresenceToken(payload, secrets.PRESENCE_DO_TOKEN_SIGNING_KEY);
  };
  for (const door of DOORS) {
    if (door.credential !== "presence" && door.credential !== "ingest") continue;
    const scope = door.credential === "presence" ? "presence:read" : "presence:heartbeat";
    const statusOf = async (issuedAtMs: number) =>
      (await knock(door, await signed(scope, issuedAtMs))).status;
    expect(await statusOf(REVOKED_S * 1_000), door.door).toBe(401);
    expect(await statusOf((REVOKED_S + 1) * 1_000), door.door).toBe(door.answers.valid);
  }
});

test("a user without the grant is shown as offline on /ws/people, exactly like one who is offline", async () => {
  const userId = `seen-${randomUUID()}`;
  const open = async (path: string, payload: JWTPayload) => {
    const token = await sign(claims(payload));
    shown.add(token);
    const base64 = Buffer.from(token).toString("base64url");
    const ws = new WebSocket(`${server.wsUrl}${path}`, ["rollcall", `token.${base64}`]);
    await new Promise((resolve) => ws.addEventListener("open", resolve));
    return ws;
  };
  const room = await open("/ws/presence?v=3", { userId });
  const users: unknown[] = [];
  for (const cap of [{ [`user:${userId}`]: ["presence"] }, { [`user:${userId}`]: ["publish"] }]) {
    const people = await open("/ws/people?v=3", { cap });
    const sync = new Promise((resolve) => {
      people.addEventListener("message", ({ data }) => resolve(JSON.parse(String(data))));
    });
    people.send(JSON.stringify({ type: "watch", ids: [userId, "nobody"] }));
    users.push(await sync);
    people.close();
  }
  const sync = (online: boolean) => ({
    type: "people.sync",
    users: [
      { userId, online },
      { userId: "nobody", online: false },
    ],
  });
  expect(users).toEqual([sync(true), sync(false)]);
  room.close();
});

test("a webhook that cannot be reached is in the log, without its url", async () => {
  const from = server.logs.length;
  const token = await sign(claims({ cap: { [`room:${HOOKED}`]: ["join"] } }));
  shown.add(token);
  const ws = new WebSocket(`${server.wsUrl}/ws/presence?room=${HOOKED}&token=${token}`);
  await server.waitForLog('"event":"webhook_failed"', 20_000, from);
  ws.close();
  expect(server.logs.slice(from)).not.toContain(HOOK_PATH);
});

// ── Production ──────────────────────────────────────────────────────────────────────────────────

describe("what production ships", () => {
  const bearer = async (payload: JWTPayload) => {
    const token = await sign(payload);
    shown.add(token);
    return { Authorization: `Bearer ${token}` };
  };
  const plain = (more: JWTPayload = {}) => claims({ cap: undefined, ...more });

  test("a user without a cap joins rooms and reads own envelopes, and publishes to nobody", async () => {
    const headers = await bearer(plain());
    const statusOf = async (method: string, ask: Ask) => (await send(method, ask, headers)).status;
    expect(await statusOf("GET", { path: "/api/v1/presence?room=any" })).toBe(200);
    expect(await statusOf("GET", { path: "/fanout/stream?type=x" })).toBe(200);
    for (const userId of ["ben", USER]) {
      expect(await statusOf("POST", json("/publish", { userId, type: "x" }))).toBe(403);
    }
    const completion = askAt("POST /api/llm/chat/completions", null);
    expect(await statusOf("POST", completion)).toBe(403);
    expect(await statusOf("POST", askAt("POST /api/upload-image", null))).toBe(403);
  });

  test("a backend's publish carries its name", async () => {
    const reader = httpRequest(`${server.url}/fanout/stream?type=told`, {
      headers: await bearer(plain()),
      agent: false,
    });
    const told = new Promise<string>((resolve, reject) => {
      reader.on("error", reject);
      reader.on("response", (response) => {
        response.setEncoding("utf8").on("data", (text) => {
          if (text.includes("told")) resolve(text);
        });
        void send(
          "POST",
          json("/publish", { userId: USER, type: "told", ackTimeoutMs: 0 }),
          headers,
        );
      });
    });
    const headers = await bearer(plain({ userId: "billing", scope: "publish" }));
    reader.end();
    expect(await told).toContain('"publisher":"billing"');
    reader
      .removeAllListeners("error")
      .on("error", () => {})
      .destroy();
  });

  test("sessions of moods are signed", async () => {
    const answer = await send("POST", json("/api/heartbeat", { sessionId: "made-up" }), {});
    expect([answer.status, JSON.parse(answer.body).error]).toEqual([
      401,
      expect.stringMatching(/^sessionId/),
    ]);
  });

  test("honest use at ten times the rates of the contracts' examples is below every limit", async () => {
    const user = claims({ userId: `busy-${randomUUID()}` });
    const headers = await bearer(user);
    const session = JSON.parse((await send("POST", { path: "/api/session" }, {})).body).sessionId;
    shown.add(session);
    const ingest = { Authorization: `Bearer ${secrets.PRESENCE_DO_INGEST_TOKEN}` };
    const asks: (() => Promise<Answer>)[] = [
      // 100 people who poll every 10 s, from one address; ten times.
      ...Array.from(
        { length: 1_000 },
        () => () => send("POST", json("/api/heartbeat", { sessionId: session }), {}),
      ),
      // A device beats three times in its ttl of 12 s; 100 devices of one user would be 250 in 10 s.
      ...Array.from(
        { length: 300 },
        () => () =>
          send(
            "POST",
            json("/api/v1/daemon/presence/heartbeat", { ...beat(), device_id: DEVICE }),
            ingest,
          ),
      ),
      ...Array.from(
        { length: 100 },
        () => () => send("GET", { path: "/api/v1/presence" }, headers),
      ),
      ...Array.from(
        { length: 100 },
        () => () =>
          send(
            "POST",
            json("/publish", { userId: user.userId, type: "x", ackTimeoutMs: 0 }),
            headers,
          ),
      ),
      ...Array.from(
        { length: 20 },
        () => () => send("POST", askAt("POST /api/upload-image", null), headers),
      ),
      ...Array.from(
        { length: 20 },
        () => () => send("POST", askAt("POST /api/llm/chat/completions", null), headers),
      ),
    ];
    const statuses = new Map<number, number>();
    const work = async () => {
      for (let ask = asks.pop(); ask; ask = asks.pop()) {
        const { status } = await ask();
        statuses.set(status, (statuses.get(status) ?? 0) + 1);
      }
    };
    await Promise.all(Array.from({ length: 16 }, work));
    expect(statuses.get(429)).toBeUndefined();
    expect(statuses.get(503)).toBeUndefined();
  });

  test("a client that asks for the roster again and again is told so, and stays connected", async () => {
    const token = await sign(claims({ userId: `curious-${randomUUID()}` }));
    shown.add(token);
    const base64 = Buffer.from(token).toString("base64url");
    const protocols = ["rollcall", `token.${base64}`];
    const ws = new WebSocket(`${server.wsUrl}/ws/presence?v=3`, protocols);
    const refused = new Promise<string>((resolve) => {
      ws.addEventListener("message", ({ data }) => {
        if (String(data).includes("rate_limited")) resolve(String(data));
      });
      ws.addEventListener("close", ({ code }) => resolve(`closed with ${code}`));
    });
    await new Promise((resolve) => ws.addEventListener("open", resolve));
    // Twice what the limit allows: all of it may fall into two of the limit's windows.
    for (let n = 0; n < 220 && ws.readyState === WebSocket.OPEN; n++) {
      ws.send('{"type":"presence.list"}');
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    expect(await refused).toContain('"code":"rate_limited"');
    expect(ws.readyState).toBe(WebSocket.OPEN);
    ws.close();
  });

  test("above a limit the answer is 429, with Retry-After", async () => {
    const headers = await bearer(claims({ userId: `greedy-${randomUUID()}` }));
    for (const [method, ask] of [
      ["POST", askAt("POST /api/llm/chat/completions", null)],
      ["POST", askAt("POST /api/upload-image", null)],
    ] as const) {
      let refused: Answer | undefined;
      for (let n = 0; n < 400 && !refused; n++) {
        const answer = await send(method, ask, headers);
        if (answer.status === 429) refused = answer;
      }
      expect(Number(refused?.headers["retry-after"])).toBeGreaterThan(0);
    }
  });
});

// The last one: all that came before is in the log.
test("the log holds none of the secrets and tokens that were used", () => {
  expect(server.logs.length).toBeGreaterThan(0);
  expect(shown.size).toBeGreaterThan(100);
  // npm shows the command line, which has secrets in tests only.
  const logs = server.logs.replaceAll(/^> .*$/gm, "");
  expect(logs).toContain("/api/v1/rooms/");
  const leaked = [...shown].filter((text) => text.length >= 16 && logs.includes(text));
  expect(leaked).toEqual([]);
});
