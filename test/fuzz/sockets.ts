/** Hostile frames to every socket. */
import { setTimeout as sleep } from "node:timers/promises";
import { WebSocket } from "ws";
import { CLOSE } from "../../src/wire/close.ts";
import type { Random } from "../kit/random.ts";
import { mutateBytes, mutateJson } from "./mutations.ts";
import { SOCKETS } from "./routes.ts";
import { ANSWER_MS, type Case, count, SHOWN, type Target } from "./target.ts";

/** A socket of a hostile client. It remembers what the server did wrong. */
export class HostileSocket {
  readonly socket: WebSocket;
  readonly received: string[] = [];
  fault: string | undefined;

  private constructor(socket: WebSocket) {
    this.socket = socket;
    socket.on("message", (data) => this.received.push(String(data)));
    // 1011: a bug or a failure of the server.
    socket.on("close", (code) => {
      count(code);
      if (code === CLOSE.internal) this.fault = "closed with 1011";
    });
  }

  /** Resolves when the upgrade was answered; `isOpen` says how. */
  static async open(url: string, token?: string): Promise<HostileSocket> {
    const headers = token === undefined ? {} : { Authorization: `Bearer ${token}` };
    const hostile = new HostileSocket(new WebSocket(url, { headers }));
    const { socket } = hostile;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => {
        hostile.fault = `no upgrade in ${ANSWER_MS} ms`;
        resolve();
      }, ANSWER_MS);
      const settle = () => {
        clearTimeout(timer);
        resolve();
      };
      socket.on("open", () => {
        count(101);
        settle();
      });
      socket.on("error", settle);
      socket.on("unexpected-response", (_, { statusCode = 0 }) => {
        count(statusCode);
        if (statusCode >= 500) hostile.fault = `the upgrade was answered ${statusCode}`;
        settle();
      });
    });
    if (!hostile.isOpen) socket.terminate();
    return hostile;
  }

  get isOpen(): boolean {
    return this.socket.readyState === this.socket.OPEN;
  }

  /** The TCP connection below it. */
  get raw(): { write(bytes: Buffer): boolean; pause(): void; resume(): void } | undefined {
    return (this.socket as unknown as { _socket?: HostileSocket["raw"] })._socket;
  }

  send(frame: unknown): void {
    if (this.isOpen) this.socket.send(typeof frame === "string" ? frame : JSON.stringify(frame));
  }

  /** Ends as hostile clients do: without a close, or with an odd one. */
  end(random: Random, reason: string): void {
    if (random.chance(0.5) || !this.isOpen) this.socket.terminate();
    else {
      const code = random.pick([1000, 1001, 3000, 4999]);
      this.socket.close(code, random.chance(0.3) ? reason : "");
      setTimeout(() => this.socket.terminate(), 1_000);
    }
  }
}

export async function fuzzSocket(target: Target, random: Random): Promise<Case> {
  const { stage, passes, marker } = target;
  const { name, path, frame: frameOf } = random.pick(SOCKETS);
  const token = name === "fanout" ? passes.jwt : undefined;
  const hostile = await HostileSocket.open(stage.wsUrl + path(passes, random), token);
  const sent: string[] = [];
  // At times a storm, as fast as possible.
  const isStorm = random.chance(0.08);
  const frames = isStorm ? random.int(150, 400) : random.int(1, 12);
  for (let i = 0; i < frames && hostile.isOpen; i++) {
    const frame = frameOf(random);
    const text = typeof frame === "string" ? frame : mutateJson(frame, random, marker);
    if (sent.length < 20) sent.push(text.slice(0, SHOWN));
    const way = random.unit();
    if (way < 0.02) hostile.send(`${text}${" ".repeat(70_000)}`);
    else if (way < 0.07) hostile.socket.send(mutateBytes(text, random), { binary: true });
    else if (way < 0.12) {
      hostile.socket.send(text.slice(0, 3), { fin: false });
      hostile.socket.send(text.slice(3));
    } else if (way < 0.14) {
      // No WebSocket frame at all: an unmasked one, a reserved bit, a wrong length.
      hostile.raw?.write(Buffer.from([random.int(0, 255), random.int(0, 255), 1, 2, 3, 4, 5]));
    } else hostile.send(text);
    if (!isStorm && random.chance(0.2)) await sleep(random.int(0, 20));
  }
  await sleep(random.int(0, 150));
  hostile.end(random, marker);
  return { what: `socket ${name}: ${sent.join(" | ")}`, fault: hostile.fault };
}
