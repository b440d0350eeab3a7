/**
 * Measures the stalls of the machine: a bare echo over TCP, 20 times a second, by processes without
 * other work. It answers each message with its measurements since the last one.
 */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { connect, createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { type Counts, Latencies } from "../kit/latency.ts";

const EVERY_MS = 50;
const ECHO = "echo";

export interface Stalls {
  counts: Counts;
}

async function echo(): Promise<void> {
  const server = createServer((socket) => socket.setNoDelay(true).pipe(socket));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  process.send?.({ port: typeof address === "object" ? address?.port : 0 });
  process.once("disconnect", () => process.exit());
}

async function measure(): Promise<void> {
  const child: ChildProcess = fork(fileURLToPath(import.meta.url), [ECHO]);
  const [{ port }] = (await once(child, "message")) as [{ port: number }];
  const socket = connect(port, "127.0.0.1").setNoDelay(true);
  await once(socket, "connect");
  const latencies = new Latencies();
  let dueAtMs = performance.now() + EVERY_MS;
  socket.on("data", (text) => {
    // One answer may hold several echoes. Each counts from when its question was due.
    for (const atMs of String(text).trim().split("\n")) latencies.add(performance.now() - +atMs);
  });
  const timer = setInterval(() => {
    const now = performance.now();
    socket.write(`${Math.min(now, dueAtMs)}\n`);
    dueAtMs = now + EVERY_MS + 5;
  }, EVERY_MS);
  process.on("message", () => process.send?.({ counts: latencies.take() } satisfies Stalls));
  process.once("disconnect", () => {
    clearInterval(timer);
    child.kill();
    process.exit();
  });
}

await (process.argv[2] === ECHO ? echo() : measure());
