import { execFile } from "node:child_process";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type WebSocket as Peer, WebSocket, WebSocketServer } from "ws";
import { VeraniClient, type VeraniClientOptions } from "../../client/client.ts";

// The real thing: Node's own WebSocket and that of `ws` against a server on loopback.

let server: WebSocketServer;
let url: string;
const clients: VeraniClient[] = [];

beforeEach(async () => {
  server = new WebSocketServer({ host: "127.0.0.1", port: 0 });
  await once(server, "listening");
  url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}/ws`;
  server.on("connection", (peer) => {
    peer.on("message", (raw) => answer(peer, JSON.parse(String(raw))));
  });
});

afterEach(() => {
  for (const client of clients.splice(0)) client.close();
  for (const peer of server.clients) peer.terminate();
  server.close();
});

function answer(peer: Peer, frame: { type: string; id?: string; data?: unknown }): void {
  if (frame.type === "ping") peer.send('{"type":"pong"}');
  if (frame.type === "echo") {
    peer.send(JSON.stringify([{ type: "ack", id: frame.id, data: frame.data }]));
  }
}

function connect(options: VeraniClientOptions = {}): VeraniClient {
  const client = new VeraniClient(url, { reconnection: { initialDelay: 50 }, ...options });
  clients.push(client);
  return client;
}

interface Upgrade {
  url: string;
  headers: { "sec-websocket-protocol"?: string };
}

function tokenOf({ headers }: Upgrade): string {
  const [, name = ""] = headers["sec-websocket-protocol"]?.split(/, ?/) ?? [];
  return Buffer.from(name.replace("token.", ""), "base64url").toString();
}

describe.each([
  ["Node's", globalThis.WebSocket],
  ["that of ws", WebSocket],
])("over a real WebSocket, %s", (_, WebSocketClass) => {
  it("asks and is asked, pings, and comes back with a fresh token", async () => {
    let tokens = 0;
    const connection = once(server, "connection");
    const client = connect({
      WebSocket: WebSocketClass,
      pingInterval: 20,
      token: () => `t${++tokens}`,
    });
    const [peer, request] = (await connection) as [Peer, Upgrade];
    expect(request.url).toBe("/ws?v=3&probe=1");
    expect(tokenOf(request)).toBe("t1");
    expect(await client.emitWithAck("echo", { text: "héllo" })).toEqual({ text: "héllo" });

    client.on("double", async ({ n }: { n: number }) => n * 2);
    const reply = new Promise((resolve) => {
      peer.on("message", (raw) => {
        const frame = JSON.parse(String(raw));
        if (frame.type === "ack") resolve(frame);
      });
    });
    peer.send(JSON.stringify({ type: "event", data: { type: "double", n: 21 }, id: "q" }));
    expect(await reply).toEqual({ type: "ack", id: "q", data: 42 });

    const again = once(server, "connection");
    peer.terminate();
    const [, next] = (await again) as [Peer, Upgrade];
    expect(tokenOf(next)).toBe("t2");
    await client.waitForConnection();
    expect(await client.emitWithAck("echo", 1)).toBe(1);
  });

  it("fails, tries again and stays quiet while no server is there", async () => {
    server.close();
    const client = connect({ WebSocket: WebSocketClass, reconnection: { initialDelay: 1 } });
    const faults: unknown[] = [];
    client.onError((error) => faults.push(error));
    const thrice = new Promise<void>((resolve) => {
      client.onStateChange(() => {
        if (client.getConnectionState().connectionId >= 3) resolve();
      });
    });
    await thrice;
    expect(faults.length).toBeGreaterThanOrEqual(2);
  });
});

it("a process ends by itself once its client is closed", async () => {
  const script = `
    import { VeraniClient } from ${JSON.stringify(new URL("../../client/client.ts", import.meta.url))};
    const client = new VeraniClient(${JSON.stringify(url)});
    await client.waitForConnection();
    console.log(await client.emitWithAck("echo", "heard"));
    client.close();
  `;
  const args = ["--input-type=module", "--eval", script];
  const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 15_000 });
  expect(stdout.trim()).toBe("heard");
}, 20_000);
