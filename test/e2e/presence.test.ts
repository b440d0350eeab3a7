import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import type { RosterSync } from "../../rooms/presence/roster.ts";
import type { Inspection } from "../../src/actor/call.ts";
import { PING, PONG } from "../../src/wire/frames.ts";
import { type Server, startServer } from "./server.ts";

const USER = fileURLToPath(new URL("presence.user.ts", import.meta.url));

let server: Server;
beforeAll(async () => {
  server = await startServer();
});
afterAll(async () => {
  await server.stop();
});

interface Heard {
  event: string;
  userId?: string;
  status?: string;
  totalUsers?: number;
}

/** A user in an operating system process of its own. */
class User {
  readonly heard: Heard[] = [];
  readonly #process: ChildProcess;

  constructor(room: string, name: string) {
    const stdio: ["pipe", "pipe", "inherit"] = ["pipe", "pipe", "inherit"];
    const child = spawn(process.execPath, [USER, server.wsUrl, room, name], { stdio });
    this.#process = child;
    createInterface({ input: child.stdout }).on("line", (line) => {
      this.heard.push(JSON.parse(line));
    });
    onTestFinished(() => {
      child.kill("SIGKILL");
    });
  }

  say(line: string): void {
    this.#process.stdin?.write(`${line}\n`);
  }

  async leave(): Promise<void> {
    this.say("leave");
    await once(this.#process, "exit");
  }

  kill(): void {
    this.#process.kill("SIGKILL");
  }

  /** Waits until something is heard that `matches`, from the `from`th on. */
  async hears(matches: Heard, from = 0): Promise<void> {
    await expect
      .poll(() => this.heard.slice(from), { timeout: 20_000, interval: 30 })
      .toContainEqual(expect.objectContaining(matches));
  }
}

async function look(room: string): Promise<RosterSync> {
  const response = await fetch(`${server.url}/api/v1/presence?room=${room}`, {
    headers: { Authorization: "Bearer user:looker" },
  });
  return (await response.json()) as RosterSync;
}

async function inspect(room: string): Promise<Inspection> {
  const response = await fetch(`${server.url}/debug/actors/presence/${room}`);
  return (await response.json()) as Inspection;
}

describe.concurrent("what npm start started", () => {
  test("shows people in several processes each other's coming, status and going", async () => {
    const anna = new User("people", "anna");
    await anna.hears({ event: "sync", totalUsers: 1 });
    const berta = new User("people", "berta");
    await anna.hears({ event: "online", userId: "berta" });
    await berta.hears({ event: "sync", totalUsers: 2 });
    const phone = new User("people", "berta");
    await anna.hears({ event: "update", userId: "berta" });

    berta.say("away");
    await anna.hears({ event: "status", userId: "berta", status: "away" });
    await phone.hears({ event: "status", userId: "berta", status: "away" });
    anna.say("busy");
    await berta.hears({ event: "status", userId: "anna", status: "busy" });
    expect(await look("people")).toMatchObject({ totalUsers: 2, totalConnections: 3 });

    const before = anna.heard.length;
    await phone.leave();
    await anna.hears({ event: "update", userId: "berta" }, before);
    // A process that dies says no goodbye.
    berta.kill();
    await anna.hears({ event: "offline", userId: "berta" });
    expect(await look("people")).toMatchObject({
      users: [{ userId: "anna", username: "anna", devices: 1, status: "busy" }],
      totalUsers: 1,
      totalConnections: 1,
    });
  });

  test("sleeps through 30 s in which 20 clients ping every second", {
    tags: ["slow"],
  }, async () => {
    const sockets = Array.from({ length: 20 }, (_, n) => {
      const query = `token=user:idler${n}&room=idle&v=2`;
      return new WebSocket(`${server.wsUrl}/ws/presence?${query}`);
    });
    let pongs = 0;
    let closed = 0;
    for (const socket of sockets) {
      socket.addEventListener("close", () => {
        closed += 1;
      });
      socket.addEventListener("message", ({ data }) => {
        if (data === PONG) pongs += 1;
      });
    }
    await Promise.all(sockets.map((socket) => once(socket, "open")));
    const before = await inspect("idle");
    expect(before).toMatchObject({ starts: 1, sessions: 20 });

    for (let second = 0; second < 30; second++) {
      for (const socket of sockets) socket.send(PING);
      await sleep(1_000);
    }
    const askedAt = Date.now();
    const after = await inspect("idle");

    expect(closed).toBe(0);
    expect(pongs).toBeGreaterThanOrEqual(20 * 29);
    // Our question started the instance that answers, and the one before it is the one that took
    // the sockets in: nothing woke the actor in between.
    expect(after.starts).toBe(2);
    expect(Date.parse(after.startedAt)).toBeGreaterThanOrEqual(askedAt - 50);
    expect(after.wakeUps).toEqual({ fetch: 0, message: 0, close: 0, alarm: 0, rpc: 0 });
    expect(after.sessions).toBe(20);
    for (const socket of sockets) socket.close();
  });
});

test("a power cut leaves no ghosts: who comes back is there, who does not is not", {
  tags: ["slow"],
}, async () => {
  const anna = new User("crash", "anna");
  await anna.hears({ event: "sync", totalUsers: 1 });
  const berta = new User("crash", "berta");
  const carla = new User("crash", "carla");
  await anna.hears({ event: "online", userId: "berta" });
  await anna.hears({ event: "online", userId: "carla" });
  carla.say("busy");
  await anna.hears({ event: "status", userId: "carla" });

  const before = anna.heard.length;
  await server.kill();
  carla.kill();
  await server.start();

  await anna.hears({ event: "sync" }, before);
  await expect
    .poll(async () => (await look("crash")).users.map(({ userId }) => userId).sort(), {
      timeout: 20_000,
    })
    .toEqual(["anna", "berta"]);
  // An attempt that broke off while the server started counts for its grace.
  await expect
    .poll(async () => (await look("crash")).totalConnections, { timeout: 10_000 })
    .toBe(2);
  berta.say("away");
  await anna.hears({ event: "status", userId: "berta", status: "away" }, before);
});

test("the server's log holds no token and nothing uncaught", () => {
  expect(server.logs).not.toMatch(/uncaught|unhandled/i);
  expect(server.logs).not.toContain("user:anna");
  expect(server.logs).not.toContain("user%3Aanna");
});
