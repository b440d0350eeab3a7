/**
 * Stock LiveStore clients through `npm start`. More runs of the same, for a figure:
 * `RUNS=20 npx vitest run --project e2e workspace`.
 */
import { execFileSync } from "node:child_process";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { Cable, converge, NoteClient, signMember } from "./livestore.ts";
import { type Server, startServer } from "./server.ts";

const RUNS = Number(process.env.RUNS ?? 1);
const JWT_SECRET = "e2e-jwt-secret-0123456789-0123456789";
const NOTES = 200;
const BURST = 25;
/** A client that was cut off comes back after 1 s at first, and after 2 and 4 s if that was too early. */
const CONVERGE_MS = 30_000;

/** 200 notes by each of two clients in bursts, one of them cut off twice; and one who comes later. */
async function play(server: Server, workspace: string, already: number): Promise<void> {
  const cable = await Cable.lay(server.port);
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
  for (let burst = 0; burst < NOTES / BURST; burst++) {
    // Bob is cut off while he is at rest. (What a stock client has on the way when its cable goes, it
    // may never get over, with sync-cf's own relay as well.)
    const isCut = burst === 2 || burst === 5;
    if (isCut) cable.cut();
    commit(ann, "ann");
    if (isCut) cable.mend();
    await rest();
    commit(bob, "bob");
    await rest();
  }
  const carla = await open("carla", server.url);
  expect(await converge([ann, bob, carla], already + 2 * NOTES, CONVERGE_MS)).toBe(true);
  await Promise.all([ann.close(), bob.close(), carla.close()]);
  await cable.close();
}

describe.each([
  ["D1", {}],
  ["the actors' own storage", { WORKSPACE_STORAGE: "do" }],
])("with events in %s", (_, storage) => {
  let server: Server;
  beforeAll(async () => {
    server = await startServer({ vars: { REQUIRE_AUTH: "true", JWT_SECRET, ...storage } });
  });
  afterAll(() => server.stop());

  it(
    "clients come to the same notes in the same order, before and after a power cut",
    async () => {
      for (let run = 0; run < RUNS; run++) await play(server, `run-${run}`, 0);
      await server.kill();
      await server.restart();
      for (let run = 0; run < RUNS; run++) await play(server, `run-${run}`, 2 * NOTES);
    },
    RUNS * 120_000,
  );
});

describe("npm start", () => {
  let server: Server;
  beforeAll(async () => {
    server = await startServer({ vars: { REQUIRE_AUTH: "true", JWT_SECRET } });
  });
  afterAll(() => server.stop());
  const open = async (url: string, workspace: string, transport: "ws" | "http" = "ws") => {
    const authToken = await signMember("ann", workspace, JWT_SECRET);
    const payload = { instanceId: workspace, authToken };
    return NoteClient.open({ url, storeId: workspace, payload, transport });
  };

  it("lets a client sync over HTTP, and wrangler look at its events in D1", async () => {
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

  it("keeps a client with a token for another workspace out", async () => {
    const authToken = await signMember("eve", "hers", JWT_SECRET);
    const payload = encodeURIComponent(JSON.stringify({ instanceId: "ours", authToken }));
    const query = new URLSearchParams({ storeId: "ours", transport: "http", payload });
    const response = await fetch(`${server.url}/sync?${query}`, { method: "POST", body: "{}" });
    expect(response.status).toBe(403);
    expect(await response.json()).toMatchObject({ error: "FORBIDDEN" });
  });

  it("refuses a large image at once, while its sender still sends", async () => {
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
});

it("completions reach the client as the upstream makes them, and the key reaches nobody", async () => {
  const KEY = "sk-e2e-secret";
  let finish = () => {};
  let authorization: string | undefined;
  const upstream = createServer((request, response) => {
    authorization = request.headers.authorization;
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.write('data: {"choices":[{"delta":{"content":"one"}}]}\n\n');
    finish = () => response.end("data: [DONE]\n\n");
  });
  await new Promise<void>((resolve) => upstream.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void upstream.close());
  const { port } = upstream.address() as AddressInfo;
  const server = await startServer({
    vars: { JWT_SECRET, BRAINTRUST_API_KEY: KEY, LLM_BASE_URL: `http://127.0.0.1:${port}/v1` },
  });
  onTestFinished(() => server.stop());

  const response = await fetch(`${server.url}/api/llm/chat/completions`, {
    method: "POST",
    headers: { Authorization: `Bearer ${await signMember("ann", "any", JWT_SECRET)}` },
    body: JSON.stringify({ model: "m", messages: [{ role: "user", content: "hi" }], stream: true }),
  });
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  expect((await reader?.read())?.value).toContain("one");
  finish();
  let rest = "";
  for (let part = await reader?.read(); part && !part.done; part = await reader?.read()) {
    rest += part.value;
  }
  expect(rest).toBe("data: [DONE]\n\n");
  expect(authorization).toBe(`Bearer ${KEY}`);
  await sleep(100);
  // Before it is ready, npm shows the command line.
  expect(server.logs.slice(server.logs.indexOf("Ready on"))).not.toContain(KEY);
});
