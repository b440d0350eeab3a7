import { env } from "cloudflare:workers";
import { exportJWK, generateKeyPair, type JWK, type JWTPayload, SignJWT } from "jose";
import { afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { DAEMON_TTL_MAX_MS } from "../../rooms/devices/token.ts";
import { isRevoked, publishRevocation } from "../../src/access/claims.ts";
import { Grant, grantOf } from "../../src/access/grant.ts";
import { verifyToken } from "../../src/access/jwt.ts";
import { addressOf, spend } from "../../src/access/quota.ts";
import worker from "../../src/server/worker.ts";
import { allows } from "../../src/wire/grant.ts";
import { freshName } from "../room/socket.ts";

const SECRET = "an-own-secret-of-a-deployment-0123456789";
const nowS = () => Math.floor(Date.now() / 1_000);

interface Signing {
  key?: CryptoKey | string;
  alg?: string;
  kid?: string;
  typ?: string;
}

function sign(claims: JWTPayload, { key = SECRET, alg = "HS256", kid, typ }: Signing = {}) {
  const bytes = typeof key === "string" ? new TextEncoder().encode(key) : key;
  const header = { alg, ...(kid && { kid }), ...(typ && { typ }) };
  return new SignJWT(claims).setProtectedHeader(header).sign(bytes);
}

/** A deployment's variables. */
const production = (more: Record<string, string | undefined> = {}) =>
  ({
    ...{ ...env, ENVIRONMENT: "production", JWT_SECRET: SECRET },
    // Those of the tests go to http, which production refuses.
    ...{ WEBHOOKS: "", ...more },
  }) as unknown as Env;
const good = (more: JWTPayload = {}): JWTPayload => ({ userId: "ann", exp: nowS() + 60, ...more });

const KINDS = ["RS256", "ES256", "EdDSA"] as const;
const pairs = new Map<string, { privateKey: CryptoKey; jwk: JWK }>();
beforeAll(async () => {
  for (const alg of [...KINDS, "old", "new"]) {
    const { privateKey, publicKey } = await generateKeyPair(
      (KINDS as readonly string[]).includes(alg) ? alg : "ES256",
      { extractable: true },
    );
    pairs.set(alg, { privateKey, jwk: { ...(await exportJWK(publicKey)), kid: `kid-${alg}` } });
  }
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

const pair = (name: string) => {
  const found = pairs.get(name);
  if (!found) throw new Error(`no key ${name}`);
  return found;
};
const keySet = (...names: string[]) =>
  JSON.stringify({ keys: names.map((name) => pair(name).jwk) });

/** Each with what becomes of it, in a deployment whose issuer and audience are set. */
const TOKENS: [string, () => string | Promise<string>, number][] = [
  ["a malformed one", () => "a.b.c", 401],
  ["a development name", () => "user:ann", 401],
  ["another algorithm", () => sign(good(OURS), { alg: "HS512" }), 401],
  ["another key", () => sign(good(OURS), { key: "x".repeat(40) }), 401],
  ["an expired one", () => sign(good({ ...OURS, exp: nowS() - 1 })), 401],
  ["one that is not yet valid", () => sign(good({ ...OURS, nbf: nowS() + 60 })), 401],
  ["one without exp", () => sign({ userId: "ann", ...OURS }), 401],
  ["one that lives for too long", () => sign(good({ ...OURS, exp: nowS() + 700_000 })), 401],
  ["one that lived for too long", () => sign(good({ ...OURS, iat: nowS() - 700_000 })), 401],
  ["another issuer", () => sign(good({ ...OURS, iss: "other" })), 401],
  ["another audience", () => sign(good({ ...OURS, aud: "other" })), 401],
  ["no issuer", () => sign(good({ aud: "app" })), 401],
  ["another kind", () => sign(good(OURS), { typ: "refresh+jwt" }), 401],
  ["no user", () => sign({ exp: nowS() + 60, ...OURS }), 401],
  ["a malformed cap", () => sign(good({ ...OURS, cap: ["room:*"] })), 401],
  ["no grant", () => sign(good({ ...OURS, cap: {} })), 403],
  ["another's resource", () => sign(good({ ...OURS, cap: { "room:other": ["join"] } })), 403],
  ["a valid one", () => sign(good(OURS)), 200],
  [
    "a valid one that names the user as sub",
    () => sign({ sub: "ann", exp: nowS() + 60, ...OURS }),
    200,
  ],
  ["a valid access token of RFC 9068", () => sign(good(OURS), { typ: "at+jwt" }), 200],
];
const OURS = { iss: "https://issuer.test", aud: ["app", "other-app"] };
const vars = () => production({ JWT_ISSUER: OURS.iss, JWT_AUDIENCE: "app" });

describe("in production, a token", () => {
  it.each(TOKENS)("%s", async (_, make, status) => {
    const headers = { Authorization: `Bearer ${await make()}` };
    const url = `https://rollcall.test/api/v1/presence?room=${freshName()}`;
    const answer = await worker.fetch(new Request(url, { headers }), vars());
    expect(answer.status).toBe(status);
    const upgrade = { ...headers, Upgrade: "websocket" };
    // In the Worker: the actors of this test have the variables of development.
    const path = new Request(`https://rollcall.test/fanout/stream?type=a`, { headers: upgrade });
    if (status === 401) expect((await worker.fetch(path, vars())).status).toBe(401);
  });

  it("missing at all", async () => {
    const url = `https://rollcall.test/api/v1/presence?room=${freshName()}`;
    expect((await worker.fetch(new Request(url), vars())).status).toBe(401);
  });
});

describe("a secret", () => {
  it("of before is good until it is removed", async () => {
    const older = "the-secret-of-before-0123456789abcdef";
    const token = await sign(good(), { key: older });
    expect(await verifyToken(token, production({ JWT_SECRET_PREVIOUS: older }))).toMatchObject({
      userId: "ann",
    });
    await expect(verifyToken(token, production())).rejects.toMatchObject({ code: "unauthorized" });
  });

  it("that is short counts as none, and only the log names it", async () => {
    const said = vi.spyOn(console, "log").mockImplementation(() => {});
    const vars = production({ JWT_SECRET: "x".repeat(31) });
    const error = await verifyToken("a.b.c", vars).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "unavailable", message: "Not configured" });
    expect(JSON.stringify(said.mock.calls)).toContain("JWT_SECRET");
    expect(JSON.stringify(said.mock.calls)).not.toContain("xxx");
  });
});

describe("a public key", () => {
  it.each(KINDS)("of %s verifies a token, and a secret of that text does not", async (alg) => {
    const { privateKey, jwk } = pair(alg);
    const JWT_JWKS = keySet(...KINDS);
    const vars = production({ JWT_JWKS, JWT_SECRET: undefined });
    const token = await sign(good(), { key: privateKey, alg, kid: `kid-${alg}` });
    expect(await verifyToken(token, vars)).toMatchObject({ userId: "ann" });
    // The key determines the algorithm: its public part is no secret.
    for (const key of [JSON.stringify(jwk), JWT_JWKS]) {
      const confused = await sign(good(), { key, kid: `kid-${alg}` });
      await expect(verifyToken(confused, vars)).rejects.toMatchObject({ code: "unauthorized" });
    }
  });
});

describe("a login provider's key set", () => {
  let urls = 0;
  /** A provider at a URL of its own, and how often it was asked. */
  function provider(answer: () => Response | Promise<Response>) {
    const JWT_JWKS_URL = `https://login-${++urls}.test/jwks.json`;
    const fetched = vi.spyOn(globalThis, "fetch").mockImplementation(async () => answer());
    return { vars: production({ JWT_JWKS_URL, JWT_SECRET: undefined }), fetched };
  }
  const tokenOf = (name: string) =>
    sign(good(), { key: pair(name).privateKey, alg: "ES256", kid: `kid-${name}` });

  it("is read once, again for a key that is not known, and at most once in 30 s", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    let keys = keySet("old");
    const { vars, fetched } = provider(() => new Response(keys));
    const [old, next] = [await tokenOf("old"), await tokenOf("new")];
    await Promise.all(Array.from({ length: 20 }, () => verifyToken(old, vars)));
    expect(fetched).toHaveBeenCalledTimes(1);
    for (let n = 0; n < 5; n++) {
      await expect(verifyToken(next, vars)).rejects.toMatchObject({ code: "unauthorized" });
    }
    expect(fetched).toHaveBeenCalledTimes(1);
    vi.setSystemTime(Date.now() + 31_000);
    keys = keySet("old", "new");
    for (const token of [old, next, old]) await verifyToken(token, vars);
    expect(fetched).toHaveBeenCalledTimes(2);
  });

  it("is forgotten after 5 minutes, and with it a key that was withdrawn", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    let keys = keySet("old", "new");
    const { vars } = provider(() => new Response(keys));
    const claims = good({ exp: nowS() + 3_600 });
    const of = (name: string) =>
      sign(claims, { key: pair(name).privateKey, alg: "ES256", kid: `kid-${name}` });
    const [old, next] = [await of("old"), await of("new")];
    await verifyToken(old, vars);
    keys = keySet("new");
    vi.setSystemTime(Date.now() + 301_000);
    await verifyToken(next, vars);
    await expect(verifyToken(old, vars)).rejects.toMatchObject({ code: "unauthorized" });
  });

  it.each<[string, () => Response]>([
    ["garbage", () => new Response("<html>")],
    ["no key set", () => new Response("{}")],
    [
      "a redirect",
      () => new Response(null, { status: 302, headers: { Location: "https://x.test" } }),
    ],
    ["an error", () => new Response("no", { status: 500 })],
    ["10 MB", () => new Response(new Uint8Array(10_000_000))],
  ])("that is %s lets nobody in, and is not asked for each token", async (_, answer) => {
    vi.spyOn(console, "log").mockImplementation(() => {});
    const { vars, fetched } = provider(answer);
    for (let n = 0; n < 10; n++) {
      await expect(verifyToken(await tokenOf("old"), vars)).rejects.toMatchObject({ status: 503 });
    }
    expect(fetched).toHaveBeenCalledTimes(1);
  });

  it("that fails later is used as it was last", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    vi.spyOn(console, "log").mockImplementation(() => {});
    let works = true;
    const { vars } = provider(() => {
      if (works) return new Response(keySet("old"));
      throw new Error("unreachable");
    });
    const claims = good({ exp: nowS() + 3_600 });
    const old = await sign(claims, { key: pair("old").privateKey, alg: "ES256", kid: "kid-old" });
    await verifyToken(old, vars);
    works = false;
    vi.setSystemTime(Date.now() + 400_000);
    expect(await verifyToken(old, vars)).toMatchObject({ userId: "ann" });
  });

  it("is rotated under load: nobody who should pass is refused, and nobody else admitted", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    let keys = keySet("old");
    const { vars, fetched } = provider(async () => {
      const now = keys;
      await scheduler.wait(5);
      return new Response(now);
    });
    const claims = good({ exp: nowS() + 7_200 });
    const of = (name: string) =>
      sign(claims, { key: pair(name).privateKey, alg: "ES256", kid: `kid-${name}` });
    const [old, next] = [await of("old"), await of("new")];
    const forged = await sign(claims, {
      key: pair("ES256").privateKey,
      alg: "ES256",
      kid: "kid-new",
    });
    /** 60 requests at once; how many tokens of each kind pass. */
    const load = async () => {
      const passed = { old: 0, next: 0, forged: 0 };
      const ask = async (kind: keyof typeof passed, token: string) => {
        await verifyToken(token, vars).then(
          () => (passed[kind] += 1),
          () => {},
        );
      };
      const each = Array.from({ length: 20 }, () => [
        ask("old", old),
        ask("next", next),
        ask("forged", forged),
      ]);
      await Promise.all(each.flat());
      return passed;
    };
    await verifyToken(old, vars);
    vi.setSystemTime(Date.now() + 31_000);
    // Nobody has the new key yet: the provider shows it before it signs with it.
    keys = keySet("old", "new");
    expect(await load()).toEqual({ old: 20, next: 20, forged: 0 });
    expect(fetched).toHaveBeenCalledTimes(2);
    keys = keySet("new");
    vi.setSystemTime(Date.now() + 300_001);
    await verifyToken(next, vars);
    expect(await load()).toEqual({ old: 0, next: 20, forged: 0 });
  });

  it("of a server that hangs holds up one request in 30 s, where keys are known", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    vi.spyOn(console, "log").mockImplementation(() => {});
    const hanging = Promise.withResolvers<Response>();
    let hangs = false;
    const { vars, fetched } = provider(() =>
      hangs ? hanging.promise : new Response(keySet("old")),
    );
    const claims = good({ exp: nowS() + 7_200 });
    const old = await sign(claims, { key: pair("old").privateKey, alg: "ES256", kid: "kid-old" });
    await verifyToken(old, vars);
    hangs = true;
    vi.setSystemTime(Date.now() + 400_000);
    const held = verifyToken(old, vars);
    // The others go on with the keys that are known.
    for (let n = 0; n < 20; n++) await verifyToken(old, vars);
    expect(fetched).toHaveBeenCalledTimes(2);
    hanging.reject(new Error("timeout"));
    expect(await held).toMatchObject({ userId: "ann" });
  });

  it("is read over https only, outside development", async () => {
    vi.spyOn(console, "log").mockImplementation(() => {});
    const vars = production({ JWT_JWKS_URL: "http://login.test/jwks.json", JWT_SECRET: undefined });
    await expect(verifyToken(await tokenOf("old"), vars)).rejects.toMatchObject({ status: 503 });
  });
});

describe("a grant", () => {
  it.each([
    ["room:lobby", "room:lobby", true],
    ["room:lobby", "room:lobby2", false],
    ["room:*", "room:anything", true],
    ["*", "user:ben", true],
    ["user:<self>", "user:ann", true],
    ["user:<self>", "user:ben", false],
    ["user:*", "user:ben", true],
    ["room:<self>:*", "room:ann:1", true],
    ["room:<self>:*", "room:ben:1", false],
  ])("for %s reaches %s: %s", (pattern, resource, isAllowed) => {
    expect(allows({ [pattern]: ["join"] }, "ann", resource, "join")).toBe(isAllowed);
    expect(allows({ [pattern]: ["join"] }, "ann", resource, "kick")).toBe(false);
  });

  it("gains nothing by a user named *", () => {
    expect(allows({ "user:<self>": ["publish"] }, "*", "user:ben", "publish")).toBe(false);
    expect(allows({ "user:<self>": ["publish"] }, "$&", "user:$&", "publish")).toBe(true);
  });

  it("is everything in development, and the shipped default elsewhere", () => {
    const of = (vars: { ENVIRONMENT?: string; DEFAULT_CAP?: string }) => grantOf({}, "ann", vars);
    expect(of({ ENVIRONMENT: "development" }).can("llm", "call")).toBe(true);
    const closed = of({ ENVIRONMENT: "production" });
    expect(closed.can("room:lobby", "join")).toBe(true);
    expect(closed.can("user:ann", "subscribe")).toBe(true);
    for (const [resource, operation] of [
      ["room:lobby", "watch"],
      ["room:lobby", "publish"],
      ["user:ben", "subscribe"],
      ["user:ben", "publish"],
      ["llm", "call"],
      ["images", "upload"],
    ] as const) {
      expect(closed.can(resource, operation), `${operation} on ${resource}`).toBe(false);
    }
    vi.spyOn(console, "log").mockImplementation(() => {});
    expect(of({ DEFAULT_CAP: "nonsense" }).can("room:lobby", "join")).toBe(false);
    expect(new Grant("ann", {}).mentions("join")).toBe(false);
  });

  it("of a scope that is no text and no list is the default", () => {
    for (const scope of [{ toString: null }, { publish: true }, 7, null, true]) {
      const grant = grantOf({ scope: scope as never }, "ann", {});
      expect(grant.cap).toEqual(grantOf({}, "ann", {}).cap);
    }
  });

  it("of the scope publish is to publish to everybody, beside the default", () => {
    const grant = grantOf({ scope: "read publish" }, "ann", {});
    expect(grant.can("user:ben", "publish")).toBe(true);
    expect(grant.can("room:lobby", "join")).toBe(true);
  });
});

it("a revocation covers tokens of its second, also of a part of it, and those without a time", () => {
  expect([999, 1_000, 1_000.7, 1_001, undefined].map((iat) => isRevoked(iat, 1_000))).toEqual([
    ...[true, true, true, false, true],
  ]);
  expect(isRevoked(undefined, undefined)).toBe(false);
});

it("a revocation is kept until no token that it covers could be taken: a daemon's, or one that a workspace takes after its end", async () => {
  const kept: (number | undefined)[] = [];
  const put = async (_: string, __: string, { expirationTtl }: KVNamespacePutOptions) =>
    kept.push(expirationTtl);
  const vars = { WORKSPACE_CLAIMS_VERSION: { put } as unknown as KVNamespace };
  const dayS = 86_400;
  for (const lifetimeS of [7 * dayS, 400 * dayS, undefined]) {
    await publishRevocation(freshName(), 7, lifetimeS, vars);
  }
  expect(kept).toEqual([DAEMON_TTL_MAX_MS / 1_000 + dayS, 401 * dayS, undefined]);
});

describe("publishing in production", () => {
  const publish = async (claims: JWTPayload, to: string) => {
    const headers = {
      Authorization: `Bearer ${await sign(good(claims))}`,
      "Content-Type": "application/json",
    };
    const body = JSON.stringify({ userId: to, type: "x", ackTimeoutMs: 0 });
    const request = new Request("https://rollcall.test/publish", { method: "POST", headers, body });
    return (await worker.fetch(request, production({ PUBLISH_REQUIRES_SCOPE: "true" }))).status;
  };

  it("is for those whose token says so, to whom it says", async () => {
    const ben = freshName();
    expect(await publish({}, ben)).toBe(403);
    expect(await publish({}, "ann")).toBe(403);
    expect(await publish({ scope: "publish" }, ben)).toBe(200);
    expect(await publish({ cap: { [`user:${ben}`]: ["publish"] } }, ben)).toBe(200);
    expect(await publish({ cap: { [`user:${ben}`]: ["publish"] } }, freshName())).toBe(403);
    expect(await publish({ cap: { "user:*": ["subscribe"] } }, ben)).toBe(403);
  });
});

describe("a limit of requests in production", () => {
  const none = { limit: async (_: { key: string }) => ({ success: false }) };
  const bearer = async (claims: JWTPayload = {}) => `Bearer ${await sign(good(claims))}`;
  /** A request with a user's token, or with the bearer given. */
  const ask =
    (method: string, path: string, more: { cap?: object; body?: object; as?: string } = {}) =>
    async () =>
      new Request(`https://rollcall.test${path}`, {
        method,
        headers: {
          Authorization: more.as ?? (await bearer({ ...(more.cap && { cap: more.cap }) })),
          ...(more.body && { "Content-Type": "application/json" }),
        },
        ...(more.body && { body: JSON.stringify(more.body) }),
      });
  const daemon = `Bearer ${SECRET}`;
  const ROOM = { "room:*": ["join", "watch", "publish", "kick"] };
  const USER = { "user:*": ["publish", "presence", "revoke"] };
  const uuid = crypto.randomUUID();
  const beat = {
    ...{ schema_version: 1, user_id: uuid, device_id: uuid, status: "online", source: "test" },
    ...{ sent_at_ms: Date.now(), seq: 1, ttl_ms: 12_000 },
  };
  const REQUESTS: [string, string, () => Promise<Request>][] = [
    ["LIMIT_CONNECTS", "a snapshot", ask("GET", "/api/v1/presence")],
    ["LIMIT_CONNECTS", "the totals of a room", ask("GET", "/api/v1/rooms/r")],
    ["LIMIT_CONNECTS", "a room's stream", ask("GET", "/api/v1/rooms/r/stream", { cap: ROOM })],
    ["LIMIT_CONNECTS", "a stream", ask("GET", "/fanout/stream?type=a")],
    [
      "LIMIT_PUBLISHES",
      "a publish",
      ask("POST", "/publish", { cap: USER, body: { userId: "ben", type: "x" } }),
    ],
    [
      "LIMIT_PUBLISHES",
      "a publish to a room",
      ask("POST", "/api/v1/rooms/r/events", { cap: ROOM, body: { event: "x" } }),
    ],
    [
      "LIMIT_PUBLISHES",
      "a batch to a room",
      ask("POST", "/api/v1/rooms/r/events/batch", { cap: ROOM, body: { messages: [] } }),
    ],
    ["LIMIT_PUBLISHES", "a kick", ask("DELETE", "/api/v1/rooms/r/users/ben", { cap: ROOM })],
    ["LIMIT_PUBLISHES", "a page of changes", ask("GET", "/api/v1/rooms/r/changes", { cap: ROOM })],
    ["LIMIT_PUBLISHES", "where a user is", ask("GET", "/api/v1/users/ben", { cap: USER })],
    ["LIMIT_PUBLISHES", "a revocation", ask("POST", "/api/v1/users/ben/revoke", { cap: USER })],
    [
      "LIMIT_HEARTBEATS",
      "a heartbeat",
      ask("POST", "/api/v1/daemon/presence/heartbeat", { as: daemon, body: beat }),
    ],
    ["LIMIT_MOODS", "a session of moods", ask("POST", "/api/session")],
    ["LIMIT_MOODS", "a mood", ask("POST", "/api/heartbeat", { body: { sessionId: "s" } })],
    ["LIMIT_MOODS", "a leave", ask("POST", "/api/leave", { body: { sessionId: "s" } })],
    ["LIMIT_MOODS", "a head-count", ask("GET", "/api/presence")],
    ["LIMIT_MOODS", "a stream of head-counts", ask("GET", "/api/presence/stream")],
  ];

  it.each(REQUESTS)(
    "%s refuses %s with 429 and Retry-After, and wakes no actor",
    async (name, _, make) => {
      const namespace = { getByName: () => expect.unreachable("an actor"), idFromName: () => {} };
      const names = ["PRESENCE", "FANOUT", "MOODS", "DEVICES"];
      const actors = Object.fromEntries(names.map((name) => [name, namespace]));
      const limit = {
        ...{ [name]: none as never, MOODS_SIGNED: "false", DIRECTORY: "on" },
        PRESENCE_DO_INGEST_TOKEN: SECRET,
      };
      const vars = production({ ...limit, ...(actors as never as object) });
      const answer = await worker.fetch(await make(), vars);
      expect(answer.status).toBe(429);
      expect(answer.headers.get("Retry-After")).toBe("10");
    },
  );

  it("closes a socket that cannot see the status with 4429", async () => {
    const headers = { Upgrade: "websocket", Authorization: await bearer() };
    const request = new Request("https://rollcall.test/ws/presence?v=3", { headers });
    const { webSocket } = await worker.fetch(
      request,
      production({ LIMIT_CONNECTS: none as never }),
    );
    const closed = new Promise<number>((resolve) =>
      webSocket?.addEventListener("close", ({ code }) => resolve(code)),
    );
    webSocket?.accept();
    expect(await closed).toBe(4_429);
  });

  it("counts each user for itself, as the runtime does, and leaves honest use alone", async () => {
    const ask = async (userId: string) => {
      const headers = { Authorization: await bearer({ userId }) };
      const url = `https://rollcall.test/api/v1/presence?room=${freshName()}`;
      return (await worker.fetch(new Request(url, { headers }), production())).status;
    };
    const { LIMIT_CONNECTS } = env as never as Record<string, typeof none>;
    // The runtime counts anew every 10 s of the clock: all of this belongs into one such time.
    const leftMs = 10_000 - (Date.now() % 10_000);
    if (leftMs < 6_000) await scheduler.wait(leftMs);
    // Ten times as often as the contracts' examples.
    for (let n = 0; n < 100; n++) await LIMIT_CONNECTS?.limit({ key: "busy" });
    expect(await ask("busy")).toBe(200);
    for (let n = 0; n < 1_000; n++) await LIMIT_CONNECTS?.limit({ key: "busy" });
    expect([await ask("busy"), await ask("calm")]).toEqual([429, 200]);
  });

  it("that has no binding is none, and is logged once", async () => {
    const said = vi.spyOn(console, "log").mockImplementation(() => {});
    const vars = production({ LIMIT_UPLOADS: undefined });
    for (let n = 0; n < 3; n++) await spend(vars, "LIMIT_UPLOADS", "ann");
    expect(said.mock.calls.filter(([line]) => String(line).includes("LIMIT_UPLOADS"))).toHaveLength(
      1,
    );
  });

  it.each([
    ["203.0.113.7", "203.0.113.7"],
    ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2"],
    ["2001:db8:1:2::1", "2001:db8:1:2"],
    ["2001:0db8:0001:0002:ffff::", "2001:db8:1:2"],
    ["::1", "0:0:0:0"],
  ])("counts %s as %s", (address, key) => {
    const request = new Request("https://x.test", { headers: { "CF-Connecting-IP": address } });
    expect(addressOf(request)).toBe(key);
  });
});
