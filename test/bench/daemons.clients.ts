/** Daemons of the benchmark, one for each user: by sockets that ping, or by heartbeats over HTTP. */
import { randomUUID } from "node:crypto";
import { Agent, request } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import WebSocket from "ws";
import type { Heartbeat } from "../../rooms/devices/device.ts";
import { PING } from "../../src/wire/frames.ts";
import { beatOf } from "../kit/devices.ts";
import { answerParent } from "../kit/processes.ts";

export type Task =
  | { do: "start"; by: "socket" | "HTTP"; url: string; token: string; daemons: number }
  | { do: "run"; ms: number };

/** What came of a run: signs of life that were answered, and that failed. */
export interface Outcome {
  answered: number;
  failed: number;
  users: string[];
}

const BEAT_MS = 10_000;
const TTL_MS = 35_000;
/** How many connect in a second: each actor is awake for 10 s, with its files open. */
const CONNECTS = 60;

interface Daemon {
  userId: string;
  seq: number;
  beat(): void;
}

let daemons: Daemon[] = [];
let answered = 0;
let failed = 0;

function next(daemon: Daemon): Heartbeat {
  daemon.seq += 1;
  return beatOf({ user_id: daemon.userId, seq: daemon.seq, ttl_ms: TTL_MS });
}

async function open(url: string, token: string): Promise<Daemon> {
  const userId = randomUUID();
  const ws = new WebSocket(`${url}/ws/devices/beat?user_id=${userId}&device_id=${userId}`, {
    headers: { Authorization: `Bearer ${token}` },
    perMessageDeflate: false,
  });
  await new Promise((resolve, reject) => ws.once("open", resolve).once("error", reject));
  ws.on("close", () => {
    failed += 1;
  });
  ws.on("message", () => {
    answered += 1;
  });
  const daemon = { userId, seq: 0, beat: () => ws.send(PING) };
  ws.send(JSON.stringify(next(daemon)));
  return daemon;
}

function post(url: string, token: string, agent: Agent): Daemon {
  const target = `${url.replace("ws:", "http:")}/api/v1/daemon/presence/heartbeat`;
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
  const daemon = {
    userId: randomUUID(),
    seq: 0,
    beat() {
      const sent = request(target, { method: "POST", agent, headers }, (answer) => {
        answer.resume();
        if (answer.statusCode === 204) answered += 1;
        else failed += 1;
      });
      sent.on("error", () => {
        failed += 1;
      });
      sent.end(JSON.stringify(next(daemon)));
    },
  };
  daemon.beat();
  return daemon;
}

/** Each daemon beats every {@link BEAT_MS}, evenly spread. */
async function run(ms: number): Promise<void> {
  const startedAtMs = performance.now();
  let beaten = 0;
  for (;;) {
    const passedMs = performance.now() - startedAtMs;
    const due = Math.floor((Math.min(passedMs, ms) / BEAT_MS) * daemons.length);
    for (; beaten < due; beaten++) daemons[beaten % daemons.length]?.beat();
    if (passedMs >= ms) break;
    await sleep(5);
  }
  // The last answers.
  await sleep(1_000);
}

answerParent<Task>(async (task): Promise<Outcome> => {
  if (task.do === "start") {
    const { by, url, token } = task;
    const agent = new Agent({ keepAlive: true, maxSockets: 64 });
    daemons = [];
    for (let i = 0; i < task.daemons; i++) {
      daemons.push(by === "socket" ? await open(url, token) : post(url, token, agent));
      if (i % CONNECTS === CONNECTS - 1) await sleep(1_000);
    }
  } else {
    [answered, failed] = [0, 0];
    await run(task.ms);
  }
  return { answered, failed, users: daemons.map(({ userId }) => userId) };
});
