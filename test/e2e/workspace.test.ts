/**
 * Stock LiveStore clients through `npm start`. For a figure over more runs:
 * `RUNS=20 npx vitest run --project e2e workspace`.
 */
import { execFileSync } from "node:child_process";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { FaultProxy } from "../kit/proxy.ts";
import { converge, NoteClient, signMember } from "./livestore.ts";
import { type Server, startServer } from "./server.ts";

const RUNS = Number(process.env.RUNS ?? 0);
const JWT_SECRET = "e2e-jwt-secret-0123456789-0123456789";
/** Notes of each client in a run. */
const FULL = 200;
/** For the second storage, and after the power cut. */
const SHORT = 100;
const BURST = 25;
const SETTLE_MS = 500;
const KEY = "sk-e2e-secret";
/** A client that was cut off reconnects after 1 s, then after 2 and 4 s. */
const CONVERGE_MS = 30_000;

/** Two clients write notes in bursts, one of them is cut off twice; a third one comes later. */
async function play(
  server: Server,
  workspace: string,
  already: number,
  notes: number,
): Promise<void> {
  const cable = new FaultProxy(() => server.port);
  await cable.listen();
  const open = async (userId: string, url: string) => {
    const authToken = await signMember(userId, workspace, JWT_SECRET);
    return NoteClient.open({
      url,
      storeId: workspace,
      payload: { instanceId: workspace, authToken },
    });
  };
  const [ann, bob] = await Promise.all([open("ann", server.url), open("bob", cable.url)]);
  let count = already;
  const commit = (client: NoteClient, name: string) => {
    for (let n = 0; n < BURST; n++) client.commit(`${name}-${count++}`);
  };
  const rest = async () => expect(await converge([ann, bob], count, CONVERGE_MS)).toBe(true);
  await rest();
  for (let burst = 0; burst < notes / BURST; burst++) {
    // Bob is cut off while nothing of his is on its way: a stock client may get stuck when its push is
    // cut off, also with sync-cf's own relay.
    const isCut = burst === 1 || burst === 3;
    if (isCut) {
      // He has all notes, but the answer to his own push may still be on its way.
      await sleep(SETTLE_MS);
      cable.down();
    }
    commit(ann, "ann");
    if (isCut) cable.up();
    await rest();
    commit(bob, "bob");
    await rest();
  }
  const carla = await open("carla", server.url);
  expect(await converge([ann, bob, carla], already + 2 * notes, CONVERGE_MS)).toBe(true);
  await Promise.all([ann.close(), bob.close(), carla.close()]);
  await cable.stop();
}

async function playAll(server: Server, first: number, second: number): Promise<void> {
  const [runs, before, after] = RUNS > 0 ? [RUNS, FULL, FULL] : [1, first, second];
  for (let run = 0; run < runs; run++) await play(server, `run-${run}`, 0, before);
  await server.kill();
  await server.restart();
  for (let run = 0; run < runs; run++) await play(server, `run-${run}`, 2 * before, after);
}
const PLAY_TIMEOUT_MS = Math.max(1, RUNS) * 120_000;

describe("the workspace Worker behind npm start", () => {
  let server: Server;
  let finishAnswer = () => {};
  let authorization: string | undefined;
  const upstream = createServer((request, response) => {
    authorization = request.headers.authorization;
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.write('data: {"choices":[{"delta":{"content":"one"}}]}\n\n');
    finishAnswer = () => response.end("data: [DONE]\n\n");
  });

  beforeAll(async () => {
    await new Promise<void>((resolve) => upstream.listen(0, "127.0.0.1", resolve));
    const LLM_BASE_URL = `http://127.0.0.1:${(upstream.address() as AddressInfo).port}/v1`;
    const vars = { REQUIRE_AUTH: "true", JWT_SECRET, BRAINTRUST_API_KEY: KEY, LLM_BASE_URL };
    server = await startServer({ vars });
  });
  afterAll(async () => {
    await server.stop();
    upstream.close();
  });

  const open = async (url: string, workspace: string, transport: "ws" | "http" = "ws") => {
    const authToken = await signMember("ann", workspace, JWT_SECRET);
    const payload = { instanceId: workspace, authToken };
    return NoteClient.open({ url, storeId: workspace, payload, transport });
  };

  it("syncs a client over HTTP with one over a WebSocket, and wrangler reads their events from D1", async () => {
    const [near, far] = [
      await open(server.url, "over-http", "http"),
      await open(server.url, "over-http"),
    ];
    near.commit("over http");
    far.commit("over ws");
    expect(await converge([near, far], 2, CONVERGE_MS)).toBe(true);
    await Promise.all([near.close(), far.close()]);

    const wrangler = join("node_modules", "wrangler", "bin", "wrangler.js");
    const config = ["-c", "wrangler.workspace.toml", "--local", "--persist-to", server.persistTo];
    const query = `SELECT args FROM eventlog_7_over_2dhttp ORDER BY seqNum`;
    const command = [
      "d1",
      "execute",
      "rollcall-workspaces",
      ...config,
      "--json",
      "--command",
      query,
    ];
    const [table] = JSON.parse(
      execFileSync(process.execPath, [wrangler, ...command], { encoding: "utf8" }),
    ) as [{ results: { args: string }[] }];
    const texts = table.results.map(({ args }) => (JSON.parse(args) as { text: string }).text);
    expect(texts.toSorted()).toEqual(["over http", "over ws"]);
  });

  it("refuses a client whose token is for another workspace", async () => {
    const authToken = await signMember("eve", "hers", JWT_SECRET);
    const payload = encodeURIComponent(JSON.stringify({ instanceId: "ours", authToken }));
    const query = new URLSearchParams({ storeId: "ours", transport: "http", payload });
    const response = await fetch(`${server.url}/sync?${query}`, { method: "POST", body: "{}" });
    expect(response.status).toBe(403);
    expect(await response.json()).toMatchObject({ error: "FORBIDDEN" });
  });

  it("refuses an image that is too large while its sender still sends", async () => {
    const token = await signMember("ann", "any", JWT_SECRET);
    const form = new FormData();
    form.set("file", new File([new Uint8Array(8 * 1024 * 1024)], "a.png"));
    const response = await fetch(`${server.url}/api/upload-image`, {
      method: "POST",
      headers: { Authorization: `Bearer ${token}` },
      body: form,
    });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ code: "INVALID_FILE" });
  });

  it("forwards a completion while the upstream still makes it, and logs no key", async () => {
    const response = await fetch(`${server.url}/api/llm/chat/completions`, {
      method: "POST",
      headers: { Authorization: `Bearer ${await signMember("ann", "any", JWT_SECRET)}` },
      body: JSON.stringify({
        model: "m",
        messages: [{ role: "user", content: "hi" }],
        stream: true,
      }),
    });
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
    expect((await reader?.read())?.value).toContain("one");
    finishAnswer();
    let rest = "";
    for (let part = await reader?.read(); part && !part.done; part = await reader?.read()) {
      rest += part.value;
    }
    expect(rest).toBe("data: [DONE]\n\n");
    expect(authorization).toBe(`Bearer ${KEY}`);
    // Before the server is ready, npm shows the command line, which holds the key.
    expect(server.logs.slice(server.logs.indexOf("Ready on"))).not.toContain(KEY);
  });

  it("gives all clients the same few notes in the same order, before and after a power cut", async () => {
    await playAll(server, SHORT / 2, SHORT / 2);
  });

  it(
    "gives all clients the same notes in the same order, before and after a power cut",
    { tags: ["slow"], timeout: PLAY_TIMEOUT_MS },
    () => playAll(server, FULL, SHORT),
  );
});

it("all clients have the same notes in the same order with WORKSPACE_STORAGE=do, before and after a power cut", {
  tags: ["slow"],
  timeout: PLAY_TIMEOUT_MS,
}, async () => {
  const vars = { REQUIRE_AUTH: "true", JWT_SECRET, WORKSPACE_STORAGE: "do" };
  const server = await startServer({ vars });
  onTestFinished(() => server.stop());
  await playAll(server, SHORT, SHORT / 2);
});
