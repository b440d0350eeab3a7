import {
  createExecutionContext,
  evictDurableObject,
  runDurableObjectAlarm,
  runInDurableObject,
  SELF,
  waitOnExecutionContext,
} from "cloudflare:test";
import { afterEach, describe, expect, it, onTestFinished, vi } from "vitest";
import { encodeStoreId } from "../../rooms/workspace/frames.ts";
import { createWorkspaceApp } from "../../rooms/workspace/worker.ts";
import {
  env,
  eventsAfter,
  ORIGIN,
  postOf,
  pullOf,
  pushOf,
  SyncSocket,
  setVersion,
  sign,
  signMember,
  syncRequest,
  type TestEnv,
  TRANSPORTS,
  type Transport,
} from "./client.ts";

const DAY_SECONDS = 86_400;
const nowSeconds = () => Math.floor(Date.now() / 1000);
let workspaces = 0;
const newWorkspace = () => `team-${workspaces++}`;

afterEach(() => {
  vi.useRealTimers();
});

async function outcomeOf(response: Response): Promise<string> {
  response.webSocket?.accept();
  response.webSocket?.close(1000);
  if (response.status === 101 || response.status === 200) {
    if (!response.webSocket) await response.text();
    return "in";
  }
  const { error } = await response.json<{ error: string }>();
  return `${response.status} ${error}`;
}

/** How the Worker answers a request, and how the actor answers it without the Worker in front. */
async function outcomes(
  request: () => Request,
  override: Partial<TestEnv> = {},
): Promise<string[]> {
  const context = createExecutionContext();
  const storeId = new URL(request().url).searchParams.get("storeId") ?? "";
  const result = await runInDurableObject(env.WORKSPACES.getByName(storeId), async (room) => {
    const settings = Reflect.get(room, "env") as object;
    Reflect.set(room, "env", { ...settings, ...override });
    const app = createWorkspaceApp();
    const byWorker = await outcomeOf(await app.fetch(request(), { ...env, ...override }, context));
    const atActor = await outcomeOf((await room.fetch?.(request())) as Response);
    Reflect.set(room, "env", settings);
    return [byWorker, atActor];
  });
  await waitOnExecutionContext(context);
  return result;
}

interface Row {
  what: string;
  payload(workspace: string): unknown;
  env?: Partial<TestEnv>;
  outcome: string;
}

const member = (workspace: string, more: object = {}) => ({
  userId: "ann",
  workspaces: [{ id: workspace, role: "member" }],
  workspaceClaimsVersion: 1,
  ...more,
});
const withToken = async (workspace: string, more: object = {}, secret?: string) => ({
  instanceId: workspace,
  authToken: await sign(member(workspace, more), secret),
});
const bypass = (serverBypass: unknown) => (instanceId: string) => ({ instanceId, serverBypass });
const OFF: Partial<TestEnv> = { REQUIRE_AUTH: "" };
const unset: Partial<TestEnv> = { SERVER_BYPASS_TOKEN: undefined };

const ROWS: Row[] = [
  { what: "a member", payload: (w) => withToken(w), outcome: "in" },
  {
    what: "an owner",
    payload: (w) => withToken(w, { workspaces: [{ id: w, role: "owner" }] }),
    outcome: "in",
  },
  { what: "no payload", payload: () => undefined, outcome: "401 TOKEN_MISSING" },
  { what: "no token", payload: (w) => ({ instanceId: w }), outcome: "401 TOKEN_MISSING" },
  {
    what: "an empty token",
    payload: (w) => ({ instanceId: w, authToken: "" }),
    outcome: "401 TOKEN_MISSING",
  },
  {
    what: "a token that is no JWT",
    payload: (w) => ({ instanceId: w, authToken: "a.b.c" }),
    outcome: "401 TOKEN_INVALID",
  },
  {
    what: "a token signed with another secret",
    payload: (w) => withToken(w, {}, "x".repeat(32)),
    outcome: "401 TOKEN_INVALID",
  },
  {
    what: "a token without userId",
    payload: (w) => withToken(w, { userId: undefined }),
    outcome: "401 TOKEN_INVALID",
  },
  {
    what: "a token while JWT_SECRET is not set",
    payload: (w) => withToken(w),
    env: { JWT_SECRET: "" },
    outcome: "503 AUTH_SERVICE_ERROR",
  },
  {
    what: "a token within its grace period",
    payload: (w) => withToken(w, { exp: nowSeconds() - DAY_SECONDS + 60 }),
    outcome: "in",
  },
  {
    what: "a token past its grace period",
    payload: (w) => withToken(w, { exp: nowSeconds() - DAY_SECONDS - 60 }),
    outcome: "401 GRACE_PERIOD_EXPIRED",
  },
  {
    what: "a token past a shorter grace period",
    payload: (w) => withToken(w, { exp: nowSeconds() - 60 }),
    env: { GRACE_PERIOD_SECONDS: "30" },
    outcome: "401 GRACE_PERIOD_EXPIRED",
  },
  {
    what: "no instanceId",
    payload: async (w) => ({ ...(await withToken(w)), instanceId: undefined }),
    outcome: "401 TOKEN_MISSING",
  },
  {
    what: "an instanceId of another workspace",
    payload: async (w) => ({ ...(await withToken(w)), instanceId: "b" }),
    outcome: "403 FORBIDDEN",
  },
  {
    what: "a token for another workspace",
    payload: (w) => withToken(w, { workspaces: [{ id: "b", role: "owner" }] }),
    outcome: "403 FORBIDDEN",
  },
  {
    what: "a token with an unknown role",
    payload: (w) => withToken(w, { workspaces: [{ id: w, role: "guest" }] }),
    outcome: "403 FORBIDDEN",
  },
  {
    what: "a token without a claims version",
    payload: (w) => withToken(w, { workspaceClaimsVersion: undefined }),
    outcome: "401 TOKEN_INVALID",
  },
  {
    what: "a token whose claims version is text",
    payload: (w) => withToken(w, { workspaceClaimsVersion: "2" }),
    outcome: "401 TOKEN_INVALID",
  },
  {
    what: "a token with an old claims version",
    payload: (w) => withToken(w, { userId: "raised", workspaceClaimsVersion: 4 }),
    outcome: "401 TOKEN_VERSION_STALE",
  },
  {
    what: "a token with the new claims version",
    payload: (w) => withToken(w, { userId: "raised", workspaceClaimsVersion: 5 }),
    outcome: "in",
  },
  {
    what: "a token while the claims version in KV is malformed",
    payload: (w) => withToken(w, { userId: "broken" }),
    outcome: "503 AUTH_SERVICE_ERROR",
  },
  { what: "the bypass token", payload: (w) => bypass(env.SERVER_BYPASS_TOKEN)(w), outcome: "in" },
  {
    what: "the bypass token without instanceId",
    payload: () => ({ serverBypass: env.SERVER_BYPASS_TOKEN }),
    outcome: "401 TOKEN_MISSING",
  },
  {
    what: "the bypass token for another workspace",
    payload: () => bypass(env.SERVER_BYPASS_TOKEN)("b"),
    outcome: "403 FORBIDDEN",
  },
  { what: "a wrong bypass token", payload: bypass("wrong"), outcome: "401 TOKEN_INVALID" },
  {
    what: "no token while no bypass token is set",
    payload: (w) => ({ instanceId: w }),
    env: unset,
    outcome: "401 TOKEN_MISSING",
  },
  {
    what: "an empty bypass token while none is set",
    payload: bypass(""),
    env: unset,
    outcome: "401 TOKEN_INVALID",
  },
  {
    what: "the bypass token `undefined` while none is set",
    payload: bypass("undefined"),
    env: unset,
    outcome: "401 TOKEN_INVALID",
  },
  {
    what: "the bypass token null while none is set",
    payload: bypass(null),
    env: unset,
    outcome: "401 TOKEN_INVALID",
  },
  {
    what: "an empty bypass token while an empty one is set",
    payload: bypass(""),
    env: { SERVER_BYPASS_TOKEN: "" },
    outcome: "401 TOKEN_INVALID",
  },
  {
    what: "the example's bypass token in production",
    payload: bypass("development-only-server-bypass-token-0123456789abcdef"),
    env: { ENVIRONMENT: "production" },
    outcome: "401 TOKEN_INVALID",
  },
  {
    what: "no token in production without REQUIRE_AUTH",
    payload: (w) => ({ instanceId: w }),
    env: { ...OFF, ENVIRONMENT: "production" },
    outcome: "401 TOKEN_MISSING",
  },
  { what: "no token in development", payload: (w) => ({ instanceId: w }), env: OFF, outcome: "in" },
  {
    what: "no token and no instanceId in development",
    payload: () => ({}),
    env: OFF,
    outcome: "403 FORBIDDEN",
  },
  {
    what: "no token and another instanceId in development",
    payload: () => ({ instanceId: "b" }),
    env: OFF,
    outcome: "403 FORBIDDEN",
  },
];

describe.each(TRANSPORTS)("a sync request over %s", (transport: Transport) => {
  it.each(ROWS)("with $what: $outcome", async ({ payload, env: override, outcome }) => {
    await setVersion("raised", "5");
    await setVersion("broken", "five");
    const workspace = newWorkspace();
    const content = await payload(workspace);
    const request = () => syncRequest(transport, workspace, content);
    expect(await outcomes(request, override)).toEqual([outcome, outcome]);
  });

  it("that is refused has an answer with a code and an explanation", async () => {
    const response = await SELF.fetch(syncRequest(transport, "team", {}));
    expect(await response.json()).toEqual({
      error: "TOKEN_MISSING",
      details: expect.stringMatching(/\w+ \w+/),
    });
  });
});

it("logs the size of a large workspaces claim, but none of its content", async () => {
  const written = vi.spyOn(console, "log");
  onTestFinished(() => written.mockRestore());
  const workspace = newWorkspace();
  const many = Array.from({ length: 80 }, (_, n) => ({
    id: `secret-workspace-${n}`,
    role: "member",
  }));
  const workspaces = [...many, { id: workspace, role: "member" }];
  const payload = await withToken(workspace, { workspaces });
  expect(await outcomeOf(await SELF.fetch(syncRequest("ws", workspace, payload)))).toBe("in");
  const lines = written.mock.calls
    .flat()
    .map(String)
    .filter((line) => line.includes("claim"));
  const bytes = JSON.stringify(workspaces).length;
  expect(lines[0]).toBe(JSON.stringify({ event: "workspaces_claim_large", bytes }));
  expect(lines.join()).not.toContain("secret-workspace");
});

describe("the isolation of workspaces", () => {
  it("gives a table of its own to each of several names that SQLite would not tell apart", async () => {
    const names = ["a-b", "a_b", "A-B", "a.b", "ab", "a_2db", "ä", "𝒳"];
    expect(new Set(names.map((name) => encodeStoreId(name).toLowerCase())).size).toBe(names.length);
    const [dash, line, upper] = ["trap-1", "trap_1", "TRAP-1"] as const;
    for (const [index, workspace] of [dash, line, upper].entries()) {
      const socket = await SyncSocket.member("ann", workspace);
      expect(await socket.push(workspace, eventsAfter(0, index + 1, workspace))).toBe("Success");
    }
    for (const [index, workspace] of [dash, line, upper].entries()) {
      const table = `eventlog_7_${encodeStoreId(workspace)}`;
      const { results } = await env.DB.prepare(`SELECT name FROM "${table}"`).all();
      expect(results).toEqual(Array.from({ length: index + 1 }, () => ({ name: workspace })));
    }
  });

  it("closes a socket that sends a frame for another workspace, even right after the actor woke up", async () => {
    const [own, other] = [newWorkspace(), newWorkspace()];
    const victim = await SyncSocket.member("bob", other);
    expect(await victim.push(other, eventsAfter(0, 3))).toBe("Success");

    for (const frame of [pullOf(other), pushOf(other, eventsAfter(3, 1))]) {
      const socket = await SyncSocket.member("ann", own);
      await evictDurableObject(env.WORKSPACES.getByName(own), { webSockets: "hibernate" });
      socket.send(frame);
      expect(await socket.closed).toEqual({ code: 4403, reason: "FORBIDDEN" });
      expect(socket.received).toEqual([]);
    }
    expect(await victim.push(other, eventsAfter(3, 1))).toBe("Success");
  });

  it("refuses a body that names another workspace", async () => {
    const [own, other] = [newWorkspace(), newWorkspace()];
    const url = syncRequest("http", own, await withToken(own)).url;
    const response = await SELF.fetch(postOf(url, pushOf(other, eventsAfter(0, 1), "SyncHttpRpc")));
    expect(response.status).toBe(403);
    const read = await SELF.fetch(postOf(url, [pullOf(other, "SyncHttpRpc")]));
    expect(read.status).toBe(403);
  });

  it("refuses a token for one workspace with the store id of another", async () => {
    const authToken = await signMember("ann", "a");
    const response = await SELF.fetch(syncRequest("ws", "b", { instanceId: "b", authToken }));
    expect(response.status).toBe(403);
  });

  it("has no calls from actor to actor, since nothing would authorize them", async () => {
    const stub = env.WORKSPACES.getByName(newWorkspace());
    const { rpc } = stub as unknown as { rpc(payload: Uint8Array): Promise<unknown> };
    await expect((async () => rpc(new Uint8Array()))()).rejects.toThrow(/does not implement/);
  });

  it("closes a socket that sends anything but a message of the protocol", async () => {
    for (const frame of [
      "{",
      "[]",
      '{"_tag":"Other"}',
      '{"_tag":"Request","id":"1","tag":"Admin"}',
    ]) {
      const socket = await SyncSocket.member("ann", newWorkspace());
      socket.send(frame);
      expect((await socket.closed).code).toBe(4400);
    }
  });

  it("refuses an event that is too large to be sent back, on each transport, and others are read", async () => {
    const workspace = newWorkspace();
    const [large] = eventsAfter(0, 1);
    const huge = [{ ...large, args: "é".repeat(450_000) }] as never;
    const socket = await SyncSocket.member("ann", workspace);
    socket.send(pushOf(workspace, huge));
    expect((await socket.closed).code).toBe(1009);
    const url = syncRequest("http", workspace, {
      instanceId: workspace,
      authToken: await signMember("ann", workspace),
    }).url;
    const answer = await SELF.fetch(postOf(url, pushOf(workspace, huge, "SyncHttpRpc")));
    expect(answer.status).toBe(413);
    const next = await SyncSocket.member("ann", workspace);
    const fits = [{ ...large, args: "e".repeat(880_000) }] as never;
    expect(await next.push(workspace, fits)).toBe("Success");
  });

  it("closes a socket whose request has an id that is no number, and no other", async () => {
    const workspace = newWorkspace();
    const good = await SyncSocket.member("ben", workspace);
    for (const id of ["", "abc", "1.5", "-1", "0x1", " 1", "1".repeat(64)]) {
      const socket = await SyncSocket.member("ann", workspace);
      socket.send({ ...pullOf(workspace), id });
      expect((await socket.closed).code).toBe(4400);
    }
    expect(await good.push(workspace, eventsAfter(0, 1))).toBe("Success");
  });

  it("refuses the whole of a push whose events do not follow one another", async () => {
    const workspace = newWorkspace();
    const bad = [...eventsAfter(0, 19), ...eventsAfter(0, 1)];
    const socket = await SyncSocket.member("ann", workspace);
    socket.send(pushOf(workspace, bad));
    expect((await socket.closed).code).toBe(4400);
    const next = await SyncSocket.member("ann", workspace);
    expect(await next.push(workspace, eventsAfter(0, 20))).toBe("Success");
  });
});

it("above the limit of requests, a member gets 429 with Retry-After in production, and wakes no actor", async () => {
  const [workspace, secret] = [newWorkspace(), "an-own-secret-of-a-deployment-0123456789"];
  const claims = { ...member(workspace), exp: nowSeconds() + 60 };
  const payload = { instanceId: workspace, authToken: await sign(claims, secret) };
  const counted: string[] = [];
  const limit = async ({ key }: { key: string }) => {
    counted.push(key);
    return { success: false };
  };
  const vars = { ENVIRONMENT: "production", JWT_SECRET: secret, LIMIT_CONNECTS: { limit } };
  const WORKSPACES = { getByName: () => expect.unreachable("an actor") };
  for (const transport of TRANSPORTS) {
    const request = syncRequest(transport, workspace, payload);
    const context = createExecutionContext();
    const answer = await createWorkspaceApp().fetch(
      request,
      { ...env, ...vars, WORKSPACES },
      context,
    );
    expect([answer.status, answer.headers.get("Retry-After")]).toEqual([429, "10"]);
  }
  expect(counted).toEqual(["ann", "ann"]);
});

describe("a server of yours", () => {
  const TOKEN = "an-own-bypass-token-of-a-server-0123456789";
  const bearer = (token: string) => ({ Authorization: `Bearer ${token}` });
  const settings = { ...env, SERVER_BYPASS_TOKEN: TOKEN };
  const call = (path: string, token: string, more: object = {}, init: RequestInit = {}) =>
    createWorkspaceApp().request(
      path,
      { ...init, headers: { ...bearer(token), "Content-Type": "application/json" } },
      { ...settings, ...more },
      createExecutionContext(),
    );

  it("syncs any workspace with its token in a header", async () => {
    const workspace = newWorkspace();
    const path = `/sync?storeId=${workspace}&transport=http`;
    const body = JSON.stringify(pullOf(workspace, "SyncHttpRpc"));
    await runInDurableObject(env.WORKSPACES.getByName(workspace), (room) => {
      Reflect.set(room, "env", { ...(Reflect.get(room, "env") as object), ...settings });
    });
    expect((await call(path, TOKEN, {}, { method: "POST", body })).status).toBe(200);
    expect((await call(path, `${TOKEN}x`, {}, { method: "POST", body })).status).toBe(401);
    const none = { SERVER_BYPASS_TOKEN: "" };
    expect((await call(path, "", none, { method: "POST", body })).status).toBe(401);
  });

  it("deletes all that a workspace has stored, closes its connections, and nobody else does", async () => {
    const [workspace, other] = [newWorkspace(), newWorkspace()];
    const [writer, bystander] = [
      await SyncSocket.member("ann", workspace),
      await SyncSocket.member("ann", other),
    ];
    expect(await writer.push(workspace, eventsAfter(0, 60))).toBe("Success");
    expect(await bystander.push(other, eventsAfter(0, 1))).toBe("Success");
    const path = `/api/v1/workspaces/${workspace}`;
    const init = { method: "DELETE" };
    const owner = await sign({
      ...member(workspace),
      workspaces: [{ id: workspace, role: "owner" }],
    });
    for (const token of [owner, "", `${TOKEN}x`]) {
      expect((await call(path, token, {}, init)).status).toBe(401);
    }
    expect((await call(path, TOKEN, { SERVER_BYPASS_TOKEN: "short" }, init)).status).toBe(503);
    expect((await call(path, TOKEN, {}, init)).status).toBe(204);
    expect((await writer.closed).code).toBe(1001);
    const tables = await env.DB.prepare(
      `SELECT name FROM sqlite_master WHERE name = 'eventlog_7_${encodeStoreId(workspace)}'`,
    ).all();
    expect(tables.results).toEqual([]);
    const next = await SyncSocket.member("ann", workspace);
    expect(await next.push(workspace, eventsAfter(0, 1))).toBe("Success");
    expect(await bystander.push(other, eventsAfter(1, 1))).toBe("Success");
    expect((await call(path, TOKEN, {}, init)).status).toBe(204);
  });
});

describe("the bytes that a workspace stores", () => {
  it.each(["d1", "do"])(
    "are limited, also after the actor slept, with storage %s",
    async (kind) => {
      const workspace = newWorkspace();
      const stub = env.WORKSPACES.getByName(workspace);
      const settings = { WORKSPACE_MAX_BYTES: "100000", WORKSPACE_STORAGE: kind };
      /** An actor reads its variables when it starts. */
      const configure = (values: object) =>
        runInDurableObject(stub, (room) =>
          Object.assign(Reflect.get(room, "env") as object, values),
        );
      await configure(settings);
      onTestFinished(async () => {
        await configure({ WORKSPACE_MAX_BYTES: undefined, WORKSPACE_STORAGE: undefined });
      });
      await evictDurableObject(stub, { webSockets: "hibernate" });
      const writer = await SyncSocket.member("ann", workspace);
      const big = (parent: number, count: number) =>
        eventsAfter(parent, count).map((event) => ({ ...event, args: "ä".repeat(2_450) }));
      let head = 0;
      for (; head < 18; head += 3) {
        expect(await writer.push(workspace, big(head, 3))).toBe("Success");
      }
      await evictDurableObject(stub, { webSockets: "hibernate" });
      expect(await writer.push(workspace, big(head, 3))).toContain("at most 100000 bytes");
      expect(await writer.push(workspace, big(head, 1))).toBe("Success");
      expect(await writer.push(workspace, big(head + 1, 2))).toContain("at most 100000 bytes");
      // What was refused leaves no trace, and reading goes on.
      const reader = await SyncSocket.member("bob", workspace);
      reader.send(pullOf(workspace));
      expect((await reader.receive(19)).at(-1)).toBe(19);
    },
  );
});

describe("a viewer", () => {
  it("receives what members write, and cannot write, also after the actor slept", async () => {
    const workspace = newWorkspace();
    const workspaces = [{ id: workspace, role: "viewer" }];
    const viewer = await SyncSocket.open(workspace, await withToken(workspace, { workspaces }));
    const writer = await SyncSocket.member("dora", workspace);
    viewer.send(pullOf(workspace));
    expect(await viewer.push(workspace, eventsAfter(0, 1))).toContain("A viewer only reads");
    expect(await writer.push(workspace, eventsAfter(0, 2))).toBe("Success");
    expect(await viewer.receive(2)).toEqual([1, 2]);
    await evictDurableObject(env.WORKSPACES.getByName(workspace), { webSockets: "hibernate" });
    expect(await viewer.push(workspace, eventsAfter(2, 1))).toContain("A viewer only reads");
    const push = pushOf(workspace, eventsAfter(2, 1), "SyncHttpRpc");
    const { url } = syncRequest("http", workspace, await withToken(workspace, { workspaces }));
    expect(await (await SELF.fetch(postOf(url, push))).text()).toContain("A viewer only reads");
    expect(await writer.push(workspace, eventsAfter(2, 1))).toBe("Success");
  });
});

describe("a member who was removed", () => {
  it("is refused at the next push and disconnected from all sockets, while other members stay", async () => {
    const workspace = newWorkspace();
    const [removed, reader, other] = await Promise.all([
      SyncSocket.member("carl", workspace),
      SyncSocket.member("carl", workspace),
      SyncSocket.member("dora", workspace),
    ]);
    expect(await removed.push(workspace, eventsAfter(0, 1))).toBe("Success");
    await setVersion("carl", "2");
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 59_000 });

    const url = syncRequest("http", workspace, {
      instanceId: workspace,
      authToken: await signMember("carl", workspace),
    });
    expect(await outcomeOf(await SELF.fetch(url))).toBe("401 TOKEN_VERSION_STALE");

    removed.send(pushOf(workspace, eventsAfter(1, 1)));
    expect(await removed.closed).toEqual({ code: 4401, reason: "TOKEN_VERSION_STALE" });
    // So is a socket that only reads.
    expect((await reader.closed).code).toBe(4401);
    expect(await other.push(workspace, eventsAfter(1, 1))).toBe("Success");
  });

  it("is refused at the next push after the actor slept, too", async () => {
    const workspace = newWorkspace();
    const socket = await SyncSocket.member("emil", workspace);
    expect(await socket.push(workspace, eventsAfter(0, 1))).toBe("Success");
    await evictDurableObject(env.WORKSPACES.getByName(workspace), { webSockets: "hibernate" });
    await setVersion("emil", "2");
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 59_000 });
    socket.send(pushOf(workspace, eventsAfter(1, 1)));
    expect((await socket.closed).reason).toBe("TOKEN_VERSION_STALE");
  });

  it("cannot pull over an open socket, when the grace period is over or the claims have changed", async () => {
    const workspace = newWorkspace();
    const socket = await SyncSocket.open(workspace, await withToken(workspace, { userId: "gil" }));
    const other = await SyncSocket.member("hans", workspace);
    expect(await socket.push(workspace, eventsAfter(0, 1))).toBe("Success");
    await setVersion("hans", "2");
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 61_000 });
    other.send(pullOf(workspace));
    expect((await other.closed).reason).toBe("TOKEN_VERSION_STALE");
    vi.setSystemTime(Date.now() + (DAY_SECONDS + 3700) * 1000);
    socket.send(pullOf(workspace));
    expect((await socket.closed).reason).toBe("GRACE_PERIOD_EXPIRED");
  });

  it("receives nothing more, neither the push that finds it out nor a later one", async () => {
    const workspace = newWorkspace();
    const [stale, expired, writer] = await Promise.all([
      SyncSocket.member("ines", workspace),
      SyncSocket.open(workspace, await withToken(workspace, { userId: "jan" })),
      SyncSocket.open(workspace, await withToken(workspace, { exp: nowSeconds() + 1_000_000 })),
    ]);
    for (const socket of [stale, expired]) socket.send(pullOf(workspace));
    expect(await writer.push(workspace, eventsAfter(0, 1))).toBe("Success");
    await Promise.all([stale.receive(1), expired.receive(1)]);
    await setVersion("ines", "2");
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + (DAY_SECONDS + 3700) * 1000 });
    expect(await writer.push(workspace, eventsAfter(1, 1))).toBe("Success");
    expect((await stale.closed).code).toBe(4401);
    expect((await expired.closed).reason).toBe("GRACE_PERIOD_EXPIRED");
    expect([stale.received, expired.received]).toEqual([[1], [1]]);
  });

  it("is disconnected by a deadline when the grace period is over, also if nobody writes and the actor slept", async () => {
    const workspace = newWorkspace();
    const stub = env.WORKSPACES.getByName(workspace);
    const exp = nowSeconds() + 600;
    const [first, second] = await Promise.all([
      SyncSocket.open(workspace, await withToken(workspace, { userId: "kai", exp })),
      SyncSocket.open(workspace, await withToken(workspace, { userId: "lea", exp: exp + 60 })),
    ]);
    const alarmOf = () => runInDurableObject(stub, (_, { storage }) => storage.getAlarm());
    expect(await alarmOf()).toBe((exp + DAY_SECONDS) * 1000 + 1);
    await evictDurableObject(stub, { webSockets: "hibernate" });
    vi.useFakeTimers({ toFake: ["Date"], now: (exp + DAY_SECONDS) * 1000 + 2 });
    expect(await runDurableObjectAlarm(stub)).toBe(true);
    expect((await first.closed).reason).toBe("GRACE_PERIOD_EXPIRED");
    expect(await alarmOf()).toBe((exp + 60 + DAY_SECONDS) * 1000 + 1);
    vi.setSystemTime((exp + 60 + DAY_SECONDS) * 1000 + 2);
    expect(await runDurableObjectAlarm(stub)).toBe(true);
    expect((await second.closed).code).toBe(4401);
    expect(await alarmOf()).toBeNull();
  });

  it("cannot push when the grace period of the token is over", async () => {
    const workspace = newWorkspace();
    const socket = await SyncSocket.open(workspace, await withToken(workspace, { userId: "fay" }));
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + (DAY_SECONDS + 3700) * 1000 });
    socket.send(pushOf(workspace, eventsAfter(0, 1)));
    expect((await socket.closed).reason).toBe("GRACE_PERIOD_EXPIRED");
  });
});

describe("a member that is stored with a socket", () => {
  /** Opens a socket and replaces the member that is stored with it. */
  async function openWith(workspace: string, change: (member: object) => unknown) {
    const socket = await SyncSocket.member("gil", workspace);
    await runInDurableObject(env.WORKSPACES.getByName(workspace), (_, state) => {
      for (const accepted of state.getWebSockets()) {
        const attachment = JSON.parse(accepted.deserializeAttachment() as string) as {
          headers: { member: string };
        };
        const changed = change(JSON.parse(attachment.headers.member) as object);
        const text = typeof changed === "string" ? changed : JSON.stringify(changed);
        accepted.serializeAttachment(JSON.stringify({ ...attachment, headers: { member: text } }));
      }
    });
    return socket;
  }

  it.each([
    [
      "the release before, without a version",
      (member: object) => {
        const { v: _, ...rest } = member as { v?: number };
        expect(rest).toMatchObject({ storeId: expect.any(String), userId: "gil" });
        return rest;
      },
    ],
    ["a later release", (member: object) => ({ ...member, v: 2, more: "unknown here" })],
  ])("may push when it was written by %s", async (_, change) => {
    const workspace = newWorkspace();
    const socket = await openWith(workspace, change);
    expect(await socket.push(workspace, eventsAfter(0, 1))).toBe("Success");
  });

  it.each(["{", '"text"', '{"userId":"gil"}'])(
    "is disconnected at its next push when it is unreadable: %s",
    async (garbage) => {
      const workspace = newWorkspace();
      const socket = await openWith(workspace, () => garbage);
      socket.send(pushOf(workspace, eventsAfter(0, 1)));
      expect(await socket.closed).toEqual({ code: 4401, reason: "TOKEN_INVALID" });
    },
  );
});

describe("the event log of a workspace", () => {
  it("reaches clients in the same order when they are connected, when the actor slept and when they come later", async () => {
    const workspace = newWorkspace();
    const [writer, reader] = await Promise.all([
      SyncSocket.member("ann", workspace),
      SyncSocket.member("bob", workspace),
    ]);
    reader.send(pullOf(workspace));
    await reader.until((frames) => frames[0]);
    expect(await writer.push(workspace, eventsAfter(0, 30))).toBe("Success");
    await evictDurableObject(env.WORKSPACES.getByName(workspace), { webSockets: "hibernate" });
    expect(await writer.push(workspace, eventsAfter(30, 30))).toBe("Success");
    const all = eventsAfter(0, 60).map(({ seqNum }) => seqNum);
    expect(await reader.receive(60)).toEqual(all);
    const late = await SyncSocket.member("carla", workspace);
    late.send(pullOf(workspace));
    expect(await late.receive(60)).toEqual(all);
  });

  it("reaches a client that still reads it while another one writes: each event once, in order", async () => {
    const workspace = newWorkspace();
    const writer = await SyncSocket.member("ann", workspace);
    for (const parent of [0, 100, 200]) await writer.push(workspace, eventsAfter(parent, 100));
    const reader = await SyncSocket.member("bob", workspace);
    reader.send(pullOf(workspace));
    await reader.receive(100);
    // The relay waits for a receipt before it sends more. Meanwhile, this event would come too early.
    await writer.push(workspace, eventsAfter(300, 1));
    // As many as sync-cf puts in one answer, and in one page of the log.
    for (const read of [200, 256, 300, 301]) {
      reader.send({ _tag: "Ack", requestId: "1" });
      await reader.receive(read);
    }
    await writer.push(workspace, eventsAfter(301, 1));
    expect(await reader.receive(302)).toEqual(Array.from({ length: 302 }, (_, index) => index + 1));
  });

  it("is stored in D1", async () => {
    const workspace = newWorkspace();
    const socket = await SyncSocket.member("ann", workspace);
    await socket.push(workspace, eventsAfter(0, 20));
    const table = `eventlog_7_${encodeStoreId(workspace)}`;
    const row = await env.DB.prepare(
      `SELECT COUNT(*) AS n, MAX(seqNum) AS last FROM "${table}"`,
    ).first();
    expect(row).toEqual({ n: 20, last: 20 });
  });

  it("accepts one of three pushes at once and answers the others with ServerAheadError, every time", async () => {
    const workspace = newWorkspace();
    const sockets = await Promise.all(
      ["ann", "bob", "carla"].map((user) => SyncSocket.member(user, workspace)),
    );
    for (let head = 0; head < 40; head += 2) {
      const answers = await Promise.all(
        sockets.map((socket) => socket.push(workspace, eventsAfter(head, 2))),
      );
      expect(answers.filter((answer) => answer === "Success")).toHaveLength(1);
      expect(answers.filter((answer) => answer.includes("ServerAheadError"))).toHaveLength(2);
    }
  });

  it("accepts pushes after one was cut off half-way through its inserts", async () => {
    const workspace = newWorkspace();
    const socket = await SyncSocket.member("ann", workspace);
    expect(await socket.push(workspace, eventsAfter(0, 5))).toBe("Success");
    // What a power cut leaves behind: rows in the log beyond the head.
    const table = `eventlog_7_${encodeStoreId(workspace)}`;
    await env.DB.prepare(
      `INSERT INTO "${table}" (seqNum, parentSeqNum, args, name, createdAt, clientId, sessionId) VALUES (6, 5, '{}', 'e', '', 'c', 's')`,
    ).run();
    await evictDurableObject(env.WORKSPACES.getByName(workspace), { webSockets: "hibernate" });
    expect(await socket.push(workspace, eventsAfter(5, 1))).toContain("ServerAheadError");
    expect(await socket.push(workspace, eventsAfter(6, 1))).toBe("Success");
  });

  it("accepts the next push after a write to D1 failed half-way", async () => {
    const workspace = newWorkspace();
    const socket = await SyncSocket.member("ann", workspace);
    expect(await socket.push(workspace, eventsAfter(0, 1))).toBe("Success");
    const table = `eventlog_7_${encodeStoreId(workspace)}`;
    await env.DB.exec(
      `CREATE TRIGGER "fail_${table}" BEFORE INSERT ON "${table}" WHEN NEW.seqNum = 20 BEGIN SELECT RAISE(ABORT, 'full'); END`,
    );
    socket.send(pushOf(workspace, eventsAfter(1, 30)));
    await socket.closed;
    await env.DB.exec(`DROP TRIGGER "fail_${table}"`);
    const next = await SyncSocket.member("ann", workspace);
    next.send(pullOf(workspace));
    const head = (await next.receive(15)).at(-1) ?? 0;
    expect(await next.push(workspace, eventsAfter(head, 30))).toBe("Success");
  });
});

it("answers sync at /sync only: 404 at a path below it", async () => {
  const response = await SELF.fetch(`${ORIGIN}/sync/other?storeId=a`);
  expect(response.status).toBe(404);
});
