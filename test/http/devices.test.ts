import { env, exports } from "cloudflare:workers";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { signPresenceToken } from "../../rooms/devices/token.ts";
import worker from "../../src/server/worker.ts";
import {
  BASE,
  BEARER,
  beat,
  beatAll,
  beatOf,
  get,
  inspect,
  list,
  post,
  Stream,
  tokenFor,
} from "../room/device-fixture.ts";
import { connect, upgrade } from "../room/socket.ts";

async function refusal(response: Response): Promise<[number, string, string]> {
  const { error, details } = (await response.json()) as { error: string; details: string };
  return [response.status, error, details];
}

describe("a heartbeat", () => {
  it("is accepted, and seen by who asks", async () => {
    const sent = beatOf();
    const response = await beat(sent);
    expect(response.status).toBe(204);
    expect(await response.text()).toBe("");
    expect(await list(sent.user_id)).toEqual([sent]);
  });

  it.each([
    ["another schema_version", { schema_version: 2 }, "schema_version"],
    ["an upper-case user_id", { user_id: "ABCDEF00-0000-4000-8000-000000000000" }, "lowercase"],
    ["an upper-case device_id", { device_id: "ABCDEF00-0000-4000-8000-000000000000" }, "lowercase"],
    ["a user_id that is no UUID", { user_id: "anna" }, "user_id"],
    ["a UUID of version 0", { device_id: "00000000-0000-0000-0000-000000000000" }, "device_id"],
    ["a UUID of version 9", { device_id: "00000000-0000-9000-8000-000000000000" }, "device_id"],
    ["another status", { status: "away" }, "status"],
    ["an empty source", { source: "" }, "source"],
    ["no source", { source: undefined }, "source"],
    ["a negative sent_at_ms", { sent_at_ms: -1 }, "sent_at_ms"],
    ["a broken sent_at_ms", { sent_at_ms: 1.5 }, "sent_at_ms"],
    ["a negative seq", { seq: -1 }, "seq"],
    ["a seq beyond what a number holds", { seq: 2 ** 53 }, "seq"],
    ["a seq of text", { seq: "1" }, "seq"],
    ["a ttl of nothing", { ttl_ms: 0 }, "ttl_ms"],
    ["a ttl over a day", { ttl_ms: 86_400_001 }, "ttl_ms"],
  ])("with %s is refused", async (_, changes, word) => {
    const [status, error, details] = await refusal(await beat({ ...beatOf(), ...changes }));
    expect([status, error]).toEqual([400, "invalid_payload"]);
    expect(details).toContain(word);
  });

  it.each([
    ["version 1", "11111111-1111-1111-1111-111111111111"],
    ["version 7", "01890a5d-ac96-774b-bcce-b302099a8057"],
    ["version 8", "320c3d4d-cc00-875b-8ec9-32d5f69181c0"],
  ])("may name a UUID of %s", async (_, device_id) => {
    expect((await beat(beatOf({ device_id }))).status).toBe(204);
  });

  it("at the edges of what is allowed is accepted", async () => {
    for (const changes of [{ ttl_ms: 1 }, { ttl_ms: 86_400_000 }, { seq: 0, sent_at_ms: 0 }]) {
      expect((await beat(beatOf(changes))).status).toBe(204);
    }
    expect((await beat(beatOf({ seq: Number.MAX_SAFE_INTEGER }))).status).toBe(204);
  });

  it("that is no JSON object is refused", async () => {
    for (const body of ["", "{", "null", "[]", '"x"', "1", '{"__proto__":{}}']) {
      expect((await refusal(await beat(body))).slice(0, 2)).toEqual([400, "invalid_payload"]);
    }
  });

  it("without the right bearer is refused before its body is looked at", async () => {
    const wrong = [{}, { Authorization: "Bearer wrong" }, { Authorization: "Basic eA==" }];
    for (const headers of wrong) {
      for (const body of ["not json", "x".repeat(10_000)]) {
        const response = await beat(body, headers as Record<string, string>);
        expect((await refusal(response)).slice(0, 2)).toEqual([401, "unauthorized"]);
      }
    }
  });

  it("over 8 KiB is refused, whether it says so or not", async () => {
    const body = JSON.stringify(beatOf()) + " ".repeat(8_192);
    expect((await refusal(await beat(body)))[0]).toBe(400);
    const chunks = new Blob([body]).stream();
    const response = await exports.default.fetch(`${BASE}/api/v1/daemon/presence/heartbeat`, {
      method: "POST",
      headers: BEARER,
      body: chunks,
    });
    expect((await refusal(response)).slice(0, 2)).toEqual([400, "invalid_payload"]);
    const small = JSON.stringify(beatOf());
    const fits = small + " ".repeat(8_192 - small.length);
    expect((await beat(fits)).status).toBe(204);
    expect((await beat(`${fits} `)).status).toBe(400);
  });

  it("that is not newer than the last is refused", async () => {
    const first = beatOf({ seq: 5, sent_at_ms: 1_000 });
    expect((await beat(first)).status).toBe(204);
    const stale = [409, "invalid_payload", "Non-monotonic seq"];
    expect(await refusal(await beat(first))).toEqual(stale);
    expect(await refusal(await beat({ ...first, seq: 4, sent_at_ms: 999 }))).toEqual(stale);
    // A higher seq at the same time is fine, and so is a restarted daemon with a later time.
    expect((await beat({ ...first, seq: 6 })).status).toBe(204);
    expect((await beat({ ...first, seq: 1, sent_at_ms: 1_001 })).status).toBe(204);
    expect(await refusal(await beat({ ...first, seq: 1, sent_at_ms: 1_001 }))).toEqual(stale);
  });

  it("is refused while no ingest token is configured", async () => {
    const path = `${BASE}/api/v1/daemon/presence/heartbeat`;
    const request = new Request(path, { method: "POST", headers: BEARER, body: "{}" });
    const bare = { ...env, PRESENCE_DO_INGEST_TOKEN: "" };
    const response = await worker.request(request, undefined, bare);
    expect((await refusal(response)).slice(0, 2)).toEqual([503, "unavailable"]);
    const production = { ...env, ENVIRONMENT: "production" };
    const exposed = await worker.request(new Request(path, { method: "POST" }), {}, production);
    expect(exposed.status).toBe(503);
  });

  it("of whatever bytes never breaks the server", async () => {
    const one = beatOf();
    const mutated = fc
      .record({ key: fc.constantFrom(...Object.keys(one)), value: fc.jsonValue() })
      .map(({ key, value }) => JSON.stringify({ ...one, [key]: value }));
    const bodies = fc.oneof(
      fc.uint8Array({ maxLength: 400 }),
      fc.string({ maxLength: 400, unit: "binary" }),
      fc.json(),
      mutated,
      fc.uint8Array({ minLength: 8_193, maxLength: 9_000 }),
    );
    const statuses = new Set<number>();
    await fc.assert(
      fc.asyncProperty(fc.array(bodies, { minLength: 50, maxLength: 50 }), async (list) => {
        for (const response of await Promise.all(list.map((body) => beat(body)))) {
          await response.body?.cancel();
          statuses.add(response.status);
        }
      }),
      { numRuns: 100 },
    );
    expect([204, 400, 409, 413]).toEqual(expect.arrayContaining([...statuses]));
    expect(statuses).toContain(400);
  }, 60_000);
});

describe("a batch of heartbeats", () => {
  it("answers one result each, in order, and keeps each user's order", async () => {
    const anna = beatOf();
    const bert = beatOf();
    const response = await beatAll({
      heartbeats: [
        anna,
        { ...bert, status: "gone" },
        { ...anna, seq: 2 },
        bert,
        { ...anna, seq: 2 },
        "rubbish",
        { ...bert, seq: 2, status: "offline" },
      ],
    });
    expect(response.status).toBe(200);
    const { results } = (await response.json()) as { results: { status: number }[] };
    expect(results.map(({ status }) => status)).toEqual([204, 400, 204, 204, 409, 400, 204]);
    expect(results[0]).toEqual({ status: 204 });
    expect(results[1]).toMatchObject({ error: "invalid_payload" });
    expect(results[4]).toEqual({
      status: 409,
      error: "invalid_payload",
      details: "Non-monotonic seq",
    });
    expect(await list(anna.user_id)).toMatchObject([{ seq: 2, status: "online" }]);
    expect(await list(bert.user_id)).toMatchObject([{ seq: 2, status: "offline" }]);
  });

  it("takes 500 entries for many users at once", async () => {
    const heartbeats = Array.from({ length: 500 }, (_, i) => beatOf({ seq: i }));
    const users = heartbeats.slice(0, 50).map(({ user_id }) => user_id);
    for (const [i, one] of heartbeats.entries()) one.user_id = users[i % 50] as string;
    const response = await beatAll({ heartbeats });
    const { results } = (await response.json()) as { results: { status: number }[] };
    expect(results).toHaveLength(500);
    expect(results.every(({ status }) => status === 204)).toBe(true);
    expect(await list(users[7] as string)).toHaveLength(10);
  });

  it("is refused as a whole when it is no list, too long or too large", async () => {
    const many = Array.from({ length: 501 }, () => 0);
    const large = { heartbeats: [beatOf({ source: "x".repeat(262_144) })] };
    for (const body of [[], {}, { heartbeats: {} }, { heartbeats: many }, large, "{"]) {
      expect((await refusal(await beatAll(body))).slice(0, 2)).toEqual([400, "invalid_payload"]);
    }
    expect((await beatAll({ heartbeats: [] }, {})).status).toBe(401);
  });
});

describe("a presence token", () => {
  const mint = (body: unknown, headers?: Record<string, string>) =>
    post("/api/v1/presence/tokens", body, headers);

  it("is minted for a backend, and opens the list and the stream", async () => {
    const { user_id, device_id } = beatOf();
    const before = Date.now();
    const response = await mint({ user_id, device_id });
    expect(response.status).toBe(201);
    const { token, expires_at_ms } = (await response.json()) as {
      token: string;
      expires_at_ms: number;
    };
    expect(expires_at_ms - before).toBeGreaterThanOrEqual(15 * 60_000);
    expect(expires_at_ms - Date.now()).toBeLessThanOrEqual(15 * 60_000);
    expect(token).toMatch(/^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{43}$/);
    const claims = JSON.parse(atob((token.split(".")[0] as string).replaceAll("-", "+")));
    expect(claims).toMatchObject({ user_id, device_id, scope: ["presence:read"] });
    const path = `/api/v1/mobile/presence?user_id=${user_id}&token=${token}`;
    expect((await get(path)).status).toBe(200);
  });

  it("is refused with a bad wish, or without the bearer", async () => {
    const { user_id, device_id } = beatOf();
    const bad = [
      {},
      { user_id },
      { device_id },
      { user_id: user_id.toUpperCase(), device_id },
      { user_id, device_id, ttl_ms: 86_400_001 },
      { user_id, device_id, ttl_ms: 0 },
      { user_id, device_id, scope: "presence:read" },
      { user_id, device_id, scope: ["presence:write"] },
      { user_id, device_id, scope: ["presence:read", "presence:heartbeat"] },
    ];
    for (const body of bad) {
      expect((await refusal(await mint(body))).slice(0, 2)).toEqual([400, "invalid_payload"]);
    }
    expect((await mint({ user_id, device_id, ttl_ms: 86_400_000 })).status).toBe(201);
    expect((await refusal(await mint({ user_id, device_id }, {})))[0]).toBe(401);
  });
});

describe("a daemon's own token", () => {
  const mint = (body: unknown, headers?: Record<string, string>) =>
    post("/api/v1/devices/tokens", body, headers);
  const bearer = (token: string) => ({ Authorization: `Bearer ${token}` });
  async function daemonToken({ user_id, device_id }: { user_id: string; device_id: string }) {
    const answer = await mint({ user_id, device_id });
    expect(answer.status).toBe(201);
    return (await answer.json()) as { token: string; expires_at_ms: number };
  }

  it("is good for heartbeats of its user and device, alone and in a batch", async () => {
    const sent = beatOf();
    const { token, expires_at_ms } = await daemonToken(sent);
    expect(expires_at_ms - Date.now()).toBeGreaterThan(29 * 86_400_000);
    expect((await beat(sent, bearer(token))).status).toBe(204);
    const others = [
      { ...beatOf(), user_id: sent.user_id },
      { ...beatOf(), device_id: sent.device_id },
    ];
    for (const other of others) {
      expect((await refusal(await beat(other, bearer(token)))).slice(0, 2)).toEqual([
        403,
        "forbidden",
      ]);
    }
    const batch = { heartbeats: [{ ...sent, seq: 2 }, ...others] };
    const answer = await post("/api/v1/daemon/presence/heartbeats", batch, bearer(token));
    expect(await answer.json()).toMatchObject({
      results: [{ status: 204 }, { status: 403 }, { status: 403 }],
    });
    expect(await list(sent.user_id)).toEqual([{ ...sent, seq: 2 }]);
  });

  it("is good for nothing else, and a presence token for no heartbeat", async () => {
    const sent = beatOf();
    const { token } = await daemonToken(sent);
    const watch = `/api/v1/mobile/presence?user_id=${sent.user_id}&token=${token}`;
    expect((await get(watch)).status).toBe(403);
    for (const path of ["/api/v1/presence/tokens", "/api/v1/devices/tokens"]) {
      const answer = await post(path, sent, bearer(token));
      expect((await refusal(answer)).slice(0, 2)).toEqual([401, "unauthorized"]);
    }
    const presence = await tokenFor(sent.user_id);
    expect((await refusal(await beat(sent, bearer(presence)))).slice(0, 2)).toEqual([
      401,
      "unauthorized",
    ]);
  });

  it("is refused when it has expired, or another key has signed it", async () => {
    const sent = beatOf();
    const scope = ["presence:heartbeat"];
    for (const more of [{ ttlMs: -1 }, { secret: "another key, which is long enough" }]) {
      const token = await tokenFor(sent.user_id, { scope, ...more });
      expect((await refusal(await beat(sent, bearer(token))))[0]).toBe(401);
    }
  });

  it("is minted with the minting token only, outside development", async () => {
    const { user_id, device_id } = beatOf();
    const own = (name: string) => `an-own-${name}-0123456789abcdef0123456789`;
    const vars = {
      ...env,
      ENVIRONMENT: "production",
      PRESENCE_DO_INGEST_TOKEN: own("ingest"),
      PRESENCE_DO_MINT_TOKEN: own("mint"),
      PRESENCE_DO_TOKEN_SIGNING_KEY: own("key"),
    } as unknown as Env;
    const ask = (path: string, token: string, more: object = {}) => {
      const init = {
        method: "POST",
        headers: { "Content-Type": "application/json", ...bearer(token) },
        body: JSON.stringify({ user_id, device_id }),
      };
      return worker.fetch(new Request(BASE + path, init), { ...vars, ...more });
    };
    for (const path of ["/api/v1/presence/tokens", "/api/v1/devices/tokens"]) {
      expect((await ask(path, own("mint"))).status).toBe(201);
      expect((await ask(path, own("ingest"))).status).toBe(401);
      expect((await ask(path, own("mint"), { PRESENCE_DO_MINT_TOKEN: undefined })).status).toBe(
        503,
      );
    }
    const url = `${BASE}/api/v1/users/${user_id}`;
    for (const [token, status] of [
      [own("ingest"), 401],
      [own("mint"), 204],
    ] as const) {
      const request = new Request(url, { method: "DELETE", headers: bearer(token) });
      expect((await worker.fetch(request, vars)).status).toBe(status);
    }
  });

  it("is refused with a bad wish", async () => {
    const { user_id, device_id } = beatOf();
    for (const body of [{}, { user_id }, { user_id, device_id, ttl_ms: 366 * 86_400_000 + 1 }]) {
      expect((await refusal(await mint(body))).slice(0, 2)).toEqual([400, "invalid_payload"]);
    }
  });
});

describe.each(["/api/v1/mobile/presence", "/api/v1/mobile/presence/stream", "/ws/devices"])(
  "who asks at %s",
  (path) => {
    const { user_id } = beatOf();
    const ask = async (token?: string, user: string = user_id): Promise<[number, string, string]> =>
      refusal(
        await upgrade(null, `${path}?user_id=${user}`, {
          ...(token === undefined ? {} : { Authorization: `Bearer ${token}` }),
        }),
      );

    it("needs a user_id", async () => {
      const token = await tokenFor(user_id);
      for (const user of ["", "anna", user_id.toUpperCase()]) {
        expect((await ask(token, user))[0]).toBe(400);
      }
    });

    it("needs a token", async () => {
      expect((await ask()).slice(0, 2)).toEqual([401, "unauthorized"]);
    });

    it("is refused with a token that does not do", async () => {
      const good = await tokenFor(user_id);
      const [body, mac] = good.split(".") as [string, string];
      const signed = (payload: object) =>
        signPresenceToken(payload as never, env.PRESENCE_DO_TOKEN_SIGNING_KEY);
      const bad = [
        "rubbish",
        `${good}.${mac}`,
        `${body}.`,
        `${body}.${mac}=`,
        `${body}.${mac.slice(0, -2)}AA`,
        `${body}x.${mac}`,
        await tokenFor(user_id, { secret: "another key" }),
        await tokenFor(user_id, { scope: ["presence:write"] }),
        await tokenFor(user_id, { scope: [] }),
        await tokenFor(crypto.randomUUID()),
        await signed({ user_id }),
        await signed([]),
      ];
      for (const token of bad) {
        expect((await ask(token)).slice(0, 2), token).toEqual([403, "forbidden"]);
      }
    });

    it("hears of an expired token", async () => {
      const nowMs = Date.now() - 15 * 60_000;
      const [status, error, details] = await ask(await tokenFor(user_id, { nowMs }));
      expect([status, error]).toEqual([403, "forbidden"]);
      expect(details).toContain("expired");
    });

    it("hears that no signing key is configured", async () => {
      const headers = { Upgrade: "websocket", Authorization: `Bearer ${await tokenFor(user_id)}` };
      const response = await worker.request(
        new Request(`${BASE}${path}?user_id=${user_id}`, { headers }),
        undefined,
        { ...env, PRESENCE_DO_TOKEN_SIGNING_KEY: "" },
      );
      expect((await refusal(response)).slice(0, 2)).toEqual([503, "unavailable"]);
    });
  },
);

describe("the actor itself", () => {
  it("refuses a socket whose token does not do, whoever sends it", async () => {
    const { user_id } = beatOf();
    const stub = env.DEVICES.getByName(user_id);
    const stranger = await tokenFor(crypto.randomUUID());
    const path = `/ws/devices?user_id=${user_id}`;
    expect((await upgrade(stub as never, path)).status).toBe(401);
    expect((await upgrade(stub as never, `${path}&token=${stranger}`)).status).toBe(403);
  });
});

describe("the stream", () => {
  it("is text/event-stream: known devices at once, then each heartbeat, all without a name", async () => {
    const sent = beatOf();
    await beat(sent);
    const other = { ...beatOf(), user_id: sent.user_id };
    await beat(other);
    const token = await tokenFor(sent.user_id);
    const response = await get(
      `/api/v1/mobile/presence/stream?user_id=${sent.user_id}&token=${token}`,
    );
    expect(response.headers.get("Content-Type")).toBe("text/event-stream");
    expect(response.headers.get("Cache-Control")).toContain("no-cache");
    expect(response.headers.get("Access-Control-Allow-Origin")).toBe("*");
    await response.body?.cancel();

    const stream = await Stream.open(sent.user_id);
    await stream.next(({ device_id }) => device_id === other.device_id);
    expect(stream.events).toEqual([sent, other]);
    await beat({ ...sent, seq: 2 });
    expect(await stream.next(({ seq }) => seq === 2)).toEqual({ ...sent, seq: 2 });
    expect(stream.text).not.toContain("event:");
    await stream.cancel();
  });

  it("ends when the token expires", async () => {
    const { user_id } = beatOf();
    const stream = await Stream.open(user_id, await tokenFor(user_id, { ttlMs: 600 }));
    await stream.end();
    expect((await inspect(user_id)).active_streams).toBe(0);
  });

  it("tells clients of the socket the same", async () => {
    const sent = beatOf();
    await beat(sent);
    const token = await tokenFor(sent.user_id);
    const socket = await connect(null, `/ws/devices?user_id=${sent.user_id}&token=${token}`);
    const { type: _, ...sync } = await socket.event("device.sync");
    expect(sync).toEqual({ devices: [sent] });
    await beat({ ...sent, seq: 2, status: "offline" });
    const { type: __, ...update } = await socket.event("device.update");
    expect(update).toEqual({ ...sent, seq: 2, status: "offline" });
    await socket.close();
  });
});

describe("around the routes", () => {
  const paths = [
    "/api/v1/daemon/presence/heartbeat",
    "/api/v1/daemon/presence/heartbeats",
    "/api/v1/presence/tokens",
    "/api/v1/devices/tokens",
    "/api/v1/mobile/presence",
    "/api/v1/mobile/presence/stream",
    "/debug/presence",
  ];

  it.each(paths)(
    "%s answers preflights, and lets every origin read if it is not for backends",
    async (path) => {
      const response = await exports.default.fetch(BASE + path, {
        method: "OPTIONS",
        headers: { Origin: "https://app.example", "Access-Control-Request-Method": "POST" },
      });
      expect(response.status).toBe(204);
      expect(response.headers.get("Access-Control-Allow-Origin")).toBe("*");
      expect(response.headers.get("Access-Control-Allow-Methods")).toBe("GET, POST, OPTIONS");
      expect(response.headers.get("Access-Control-Allow-Headers")).toBe(
        "Content-Type, Authorization",
      );
      const isForBackends = /daemon|tokens/.test(path);
      for (const method of ["GET", "POST"]) {
        const answer = await exports.default.fetch(BASE + path, { method });
        if (answer.status !== 404) {
          const { headers } = answer;
          expect(headers.get("Access-Control-Allow-Origin")).toBe(isForBackends ? null : "*");
          expect(headers.get("Cache-Control") === "no-store").toBe(isForBackends);
        }
        await answer.body?.cancel();
      }
    },
  );

  it("an unknown path below /api/v1/ is told so", async () => {
    for (const path of ["/api/v1/nothing", "/api/v1/mobile/presence/other"]) {
      expect(await refusal(await get(path))).toEqual([404, "unavailable", "Route not found"]);
    }
  });

  it("the debug route is off in production, and needs a user_id", async () => {
    const path = `${BASE}/debug/presence?user_id=${crypto.randomUUID()}`;
    const production = { ...env, ENVIRONMENT: "production" };
    const response = await worker.request(path, {}, production);
    expect(await refusal(response)).toEqual([
      403,
      "unavailable",
      "Debug endpoint disabled in production",
    ]);
    expect((await get("/debug/presence")).status).toBe(400);
  });
});
