import { env, exports } from "cloudflare:workers";
import { SignJWT, UnsecuredJWT } from "jose";
import { describe, expect, it } from "vitest";
import worker from "../../src/server/worker.ts";
import { connect, freshName, upgrade } from "../room/socket.ts";
import { signedToken } from "../room/tokens.ts";

const URL_BASE = "https://rollcall.test";

function readRoom(room: string, token?: string): Promise<Response> {
  const headers = token === undefined ? {} : { Authorization: `Bearer ${token}` };
  return exports.default.fetch(`${URL_BASE}/api/v1/presence?room=${room}`, { headers });
}

async function refusal(response: Response): Promise<[number, string]> {
  const { error } = (await response.json()) as { error: string };
  return [response.status, error];
}

const nowSeconds = () => Math.floor(Date.now() / 1000);

describe("a snapshot of a presence room over HTTP", () => {
  it("has the content of presence.sync, as clients of protocol 3 get it", async () => {
    const room = freshName();
    const token = await signedToken({ userId: "anna", username: "Anna", user: { team: "red" } });
    const socket = await connect(null, `/ws/presence?v=3&token=${token}&room=${room}`, {
      "User-Agent": "Mobile",
    });
    const { type: _, ...sync } = await socket.event("presence.sync");
    const response = await readRoom(room, "user:berta");
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual(sync);
    expect(sync).toEqual({
      users: [
        {
          ...{ userId: "anna", username: "Anna", devices: 1, status: "online" },
          user: { team: "red" },
          sessions: [{ session: expect.any(String), device: "mobile", since: expect.any(Number) }],
        },
      ],
      totalUsers: 1,
      totalConnections: 1,
    });
  });

  it("shows the lobby unless the request names a room", async () => {
    const socket = await connect(null, "/ws/presence?token=user:anna");
    await socket.event("presence.sync");
    const response = await exports.default.fetch(`${URL_BASE}/api/v1/presence`, {
      headers: { Authorization: "Bearer user:berta" },
    });
    expect(await response.json()).toMatchObject({ totalUsers: 1, users: [{ userId: "anna" }] });
    await socket.close();
  });

  it("is refused without a token, or with a bad one", async () => {
    const room = freshName();
    expect(await refusal(await readRoom(room))).toEqual([401, "unauthorized"]);
    expect(await refusal(await readRoom(room, "rubbish"))).toEqual([401, "unauthorized"]);
    expect(await refusal(await readRoom(room, "user:"))).toEqual([401, "unauthorized"]);
  });

  it("is refused for a malformed room name, and for two rooms", async () => {
    for (const room of ["", "a b", "a/b", "x".repeat(65), "ü", "a%00"]) {
      expect(await refusal(await readRoom(encodeURIComponent(room), "user:anna"))).toEqual([
        400,
        "bad_request",
      ]);
    }
    expect((await readRoom("A-z_0.9:x".padEnd(64, "y"), "user:anna")).status).toBe(200);
    const twice = await readRoom("a&room=b", "user:anna");
    expect(await refusal(twice)).toEqual([400, "bad_request"]);
  });
});

describe("an upgrade", () => {
  it.each([
    ["no token", "", 401, "unauthorized"],
    ["an empty token", "token=", 401, "unauthorized"],
    ["a bad token", "token=rubbish", 401, "unauthorized"],
    ["a bad room name", "token=user:anna&room=a%20b", 400, "bad_request"],
  ])("is refused with JSON for %s", async (_, query, status, code) => {
    const response = await upgrade(null, `/ws/presence?${query}`);
    expect(await refusal(response)).toEqual([status, code]);
    expect(response.webSocket).toBeNull();
  });

  it("is required on its path, and is taken on no other", async () => {
    const plain = await exports.default.fetch(`${URL_BASE}/ws/presence?token=user:anna`);
    expect(await refusal(plain)).toEqual([426, "upgrade_required"]);
    expect((await upgrade(null, "/ws/nothing?token=user:anna")).status).toBe(404);
  });

  it("is refused before an actor is woken", async () => {
    const room = freshName();
    await upgrade(null, `/ws/presence?room=${room}`);
    await exports.default.fetch(`${URL_BASE}/ws/presence?token=user:anna&room=${room}`);
    expect((await env.PRESENCE.getByName(room).inspect()).starts).toBe(1);
  });
});

describe("a JWT", () => {
  const enter = (token: string, room = freshName()) =>
    upgrade(null, `/ws/presence?token=${token}&room=${room}`);

  it("gives the user's id by userId or sub, and the username if it has one", async () => {
    for (const [claims, user] of [
      [
        { userId: "u1", sub: "other" },
        { userId: "u1", username: "u1" },
      ],
      [{ sub: "u2" }, { userId: "u2", username: "u2" }],
      [
        { userId: "u3", username: "Three" },
        { userId: "u3", username: "Three" },
      ],
    ] as const) {
      const token = await signedToken(claims);
      const socket = await connect(null, `/ws/presence?token=${token}&room=${freshName()}`);
      expect((await socket.event("presence.sync")).users[0]).toMatchObject(user);
    }
  });

  it("is refused without a user id", async () => {
    for (const claims of [{}, { userId: "" }, { userId: 5 }, { userId: null }]) {
      const token = await signedToken(claims as Record<string, unknown>);
      expect(await refusal(await enter(token)), JSON.stringify(claims)).toEqual([
        401,
        "unauthorized",
      ]);
    }
  });

  it.each([" ", ".", "..", "\ud800", "x".repeat(257)])(
    "is refused with the user id %j, which no path can name: nobody could kick that user",
    async (userId) => {
      const answer = await enter(await signedToken({ userId }));
      expect(await refusal(answer)).toEqual([400, "bad_request"]);
    },
  );

  it("is refused with another algorithm, another key, none, or not yet valid", async () => {
    const secret = new TextEncoder().encode(env.JWT_SECRET);
    const other = new TextEncoder().encode("another-secret-of-32-bytes-or-more!");
    const claims = { userId: "anna" };
    const good = await signedToken(claims);
    const [head, body, signature = ""] = good.split(".");
    const bad = [
      new UnsecuredJWT(claims).encode(),
      await new SignJWT(claims).setProtectedHeader({ alg: "HS256" }).sign(other),
      await new SignJWT(claims).setProtectedHeader({ alg: "HS512" }).sign(secret),
      await signedToken({ ...claims, nbf: nowSeconds() + 600 }),
      `${head}.${body}.`,
      `${head}.${btoa('{"userId":"eve"}').replaceAll("=", "")}.${signature}`,
      `${good}.x`,
    ];
    for (const token of bad) {
      expect(await refusal(await enter(token)), token).toEqual([401, "unauthorized"]);
    }
    expect((await enter(good)).status).toBe(101);
  });

  it("is refused once it has expired, and ends the connection when it does", async () => {
    const expired = await signedToken({ userId: "anna", exp: nowSeconds() - 1 });
    expect(await refusal(await enter(expired))).toEqual([401, "token_expired"]);
    const token = await signedToken({ userId: "anna", exp: nowSeconds() + 2 });
    const socket = await connect(null, `/ws/presence?token=${token}&room=${freshName()}`);
    expect((await socket.ended()).code).toBe(4401);
  });

  it("allows only members into a workspace's room", async () => {
    const room = "workspace:w1";
    const as = async (workspaces: unknown) =>
      enter(await signedToken({ sub: "a", workspaces }), room);
    expect(
      (
        await as([
          { id: "w0", role: "member" },
          { id: "w1", role: "admin" },
        ])
      ).status,
    ).toBe(101);
    for (const workspaces of [undefined, [], [{ id: "w2", role: "owner" }], "w1", { id: "w1" }]) {
      expect(await refusal(await as(workspaces))).toEqual([403, "forbidden"]);
    }
    expect(await refusal(await enter("user:anna", room))).toEqual([403, "forbidden"]);
    expect(await refusal(await upgrade(null, `/ws/presence?room=${room}`))).toEqual([
      401,
      "unauthorized",
    ]);
  });
});

describe("a workspace's room, when the user's workspaces have changed", () => {
  const room = "workspace:w1";
  const workspaces = [{ id: "w1", role: "member" }];
  const versions = (value: string | null | Error) => ({
    WORKSPACE_CLAIMS_VERSION: {
      get: async (key: string) => {
        if (value instanceof Error) throw value;
        return key.startsWith("workspace-claims-version:") ? value : null;
      },
    },
  });
  async function ask(claims: object, vars: object): Promise<number> {
    const token = await signedToken({ userId: freshName(), workspaces, ...claims });
    const headers = { Authorization: `Bearer ${token}` };
    const request = new Request(`${URL_BASE}/api/v1/presence?room=${room}`, { headers });
    return (await worker.fetch(request, { ...env, ...vars } as unknown as Env)).status;
  }

  it("takes claims of that version or later only", async () => {
    for (const [version, required, status] of [
      [undefined, null, 200],
      [1, null, 200],
      [4, "5", 401],
      [5, "5", 200],
      [6, "5", 200],
      ["5", "5", 401],
      [undefined, "1", 401],
      [1, "many", 503],
      [1, new Error("KV is down"), 503],
    ] as const) {
      const claims = version === undefined ? {} : { workspaceClaimsVersion: version };
      expect(await ask(claims, versions(required)), `${version} of ${required}`).toBe(status);
    }
    expect(await ask({}, { WORKSPACE_CLAIMS_VERSION: undefined })).toBe(200);
  });

  it("closes its door in the actor, too", async () => {
    const userId = freshName();
    const token = await signedToken({ userId, workspaces, workspaceClaimsVersion: 1 });
    const { WORKSPACE_CLAIMS_VERSION: kv } = env as unknown as {
      WORKSPACE_CLAIMS_VERSION: KVNamespace;
    };
    await kv.put(`workspace-claims-version:${userId}`, "2");
    const stub = env.PRESENCE.getByName(room);
    const headers = { Authorization: `Bearer ${token}` };
    expect((await upgrade(stub, `/ws/presence?room=${room}`, headers)).status).toBe(401);
  });
});

describe("in production", () => {
  const ask = (vars: Record<string, string | undefined>, token: string) =>
    worker.fetch(
      new Request(`${URL_BASE}/api/v1/presence?room=${freshName()}`, {
        headers: { Authorization: `Bearer ${token}` },
      }),
      // The webhooks of the tests go to http, which production refuses.
      { ...env, ENVIRONMENT: "production", WEBHOOKS: "", ...vars } as unknown as Env,
    );
  const secret = "a-real-secret-of-at-least-32-bytes";

  it("the token user:<name> is refused", async () => {
    for (const ENVIRONMENT of ["production", "", "Development", undefined]) {
      const response = await ask({ JWT_SECRET: secret, ENVIRONMENT }, "user:anna");
      expect(await refusal(response)).toEqual([401, "unauthorized"]);
    }
  });

  it("every token is refused with 503 while the secret is missing, short, or the example's", async () => {
    const token = await signedToken({ userId: "anna" });
    for (const JWT_SECRET of [undefined, "", "x".repeat(31), env.JWT_SECRET]) {
      expect(await refusal(await ask({ JWT_SECRET }, token))).toEqual([503, "unavailable"]);
    }
    const exp = nowSeconds() + 60;
    const real = await signedToken({ userId: "anna", exp }, { secret });
    expect((await ask({ JWT_SECRET: secret }, real)).status).toBe(200);
  });

  it("the debug route of an actor is refused", async () => {
    const request = new Request(`${URL_BASE}/debug/actors/presence/lobby`);
    const vars = { ...env, ENVIRONMENT: "production" } as unknown as Env;
    expect((await worker.fetch(request, vars)).status).toBe(403);
    expect((await exports.default.fetch(request)).status).toBe(200);
  });
});
