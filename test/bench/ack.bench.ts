/**
 * From an HTTP publish to its answer, which holds the acks of all of a user's sockets: on our whole
 * Worker, with tokens, filters and schemas; and without these, in a bare Durable Object, with
 * PartyServer and with socket.io.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Clients, cpuMs } from "../kit/processes.ts";
import { signUser } from "../kit/stage.ts";
import type { Task } from "./ack.clients.ts";
import { less, median, more, OURS, pick, type Result, takeTurns } from "./report.ts";
import { startNode, startWorker } from "./server.ts";

const SOCKETS = 10;
const DURATION_MS = 1_500;
const WARM_UP_MS = 1_000;
const IN_FLIGHT = 32;
const SECRET = "bench-secret-bench-secret-bench-secret";
const PAYLOAD = { questId: "q1", text: "The quick brown fox jumps over the lazy dog, twice." };

interface Figures {
  /** Publishes a second. */
  rate: number;
  p50Ms: number;
  p99Ms: number;
  /** CPU of the server for one publish, in µs. */
  cpuUs: number;
}

export default async function ack(rounds: number): Promise<Result> {
  const token = await signUser(SECRET, "bench");
  const peers = {
    [OURS]: {
      server: await startWorker(
        "src/server/worker.ts",
        { FANOUT: "FanoutRoom" },
        { ENVIRONMENT: "production", JWT_SECRET: SECRET },
      ),
      socket: `/?token=${token}`,
      hello: JSON.stringify({ type: "subscribe", filters: [{ type: "quest", questId: "q1" }] }),
      path: "/publish",
    },
    "bare Durable Object": {
      server: await startWorker("test/bench/peers/publisher.worker.ts", { PUBLISHER: "Publisher" }),
      socket: "/",
      path: "/",
    },
    PartyServer: {
      server: await startWorker("test/bench/peers/partyserver.worker.ts", {
        PUBLISHER: "Publisher",
      }),
      socket: "/parties/publisher/bench",
      path: "/parties/publisher/bench",
    },
    "socket.io": {
      server: await startNode(new URL("peers/socketio.ts", import.meta.url)),
      socket: "/socket.io/?EIO=4&transport=websocket",
      path: "/",
    },
  };
  type Name = keyof typeof peers;
  const names = Object.keys(peers) as Name[];
  const clients = new Clients(new URL("ack.clients.ts", import.meta.url));
  const body = JSON.stringify({ userId: "bench", type: "quest", payload: PAYLOAD });

  async function publish(name: Name): Promise<{ clientCount: number; results: unknown[] }> {
    const { server, path } = peers[name];
    const response = await fetch(server.url.replace("ws:", "http:") + path, {
      method: "POST",
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
      body,
    });
    return (await response.json()) as { clientCount: number; results: unknown[] };
  }

  async function load(name: Name, inFlight: number, durationMs: number): Promise<Figures> {
    const { pid } = peers[name].server;
    const took: number[] = [];
    const before = cpuMs(pid);
    const startedAtMs = performance.now();
    const publishOn = async () => {
      while (performance.now() - startedAtMs < durationMs) {
        const sentAtMs = performance.now();
        const { clientCount, results } = await publish(name);
        if (clientCount !== SOCKETS || results.length !== SOCKETS) {
          throw new Error(`${name}: ${results.length} answers of ${clientCount} sockets`);
        }
        took.push(performance.now() - sentAtMs);
      }
    };
    await Promise.all(Array.from({ length: inFlight }, publishOn));
    const rate = (took.length / (performance.now() - startedAtMs)) * 1000;
    const sorted = took.toSorted((a, b) => a - b);
    const p99Ms = sorted[Math.floor(sorted.length * 0.99)] as number;
    return {
      rate,
      p50Ms: median(took),
      p99Ms,
      cpuUs: ((cpuMs(pid) - before) * 1000) / took.length,
    };
  }

  for (const name of names) {
    const { server, socket, ...rest } = peers[name];
    const greeting = name === "socket.io" ? "engine.io" : "none";
    const task: Task = { ...rest, greeting, url: server.url + socket, sockets: SOCKETS };
    await clients.ask(task);
    // A subscription has no answer.
    while ((await publish(name)).results.length < SOCKETS) await sleep(20);
    await load(name, IN_FLIGHT, WARM_UP_MS);
  }
  const run = (inFlight: number) =>
    takeTurns(names, rounds, (name) => load(name as Name, inFlight, DURATION_MS));
  const [one, many] = [await run(1), await run(IN_FLIGHT)];
  const [alone, full] = ["one in flight", `${IN_FLIGHT} in flight`];
  const quantities = [
    less(`${alone}: latency, median`, "ms", 2, pick(one, "p50Ms")),
    less(`${alone}: latency, 99 %`, "ms", 2, pick(one, "p99Ms")),
    more(`${full}: publishes`, "a second", 0, pick(many, "rate")),
    less(`${full}: server CPU a publish`, "µs", 0, pick(many, "cpuUs")),
  ];
  return {
    title: "Publish to ack",
    setup: `From an HTTP publish until its answer, with the acks of the user's ${SOCKETS} sockets in it; ${DURATION_MS} ms a round. Ours checks a token, the body and the filters of each socket; the others send to all, without checks.`,
    quantities,
  };
}
