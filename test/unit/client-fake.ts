import { afterEach, beforeEach, vi } from "vitest";
import { VeraniClient, type VeraniClientOptions } from "../../client/client.ts";
import { PING } from "../../src/wire/frames.ts";

/** A WebSocket whose server is the test. As on a dead network, closing it brings no close event. */
export class FakeWebSocket extends EventTarget {
  static all: FakeWebSocket[] = [];
  readonly url: URL;
  readonly protocols: readonly string[];
  readonly sent: string[] = [];
  readyState = 0;
  closedWith: number | undefined;

  constructor(url: string, protocols: string[] = []) {
    super();
    this.protocols = protocols;
    this.url = new URL(url);
    FakeWebSocket.all.push(this);
  }

  send(text: string): void {
    if (this.readyState === 0) throw new DOMException("still connecting", "InvalidStateError");
    // A closing socket loses what it is given, without a word.
    if (this.readyState === 1) this.sent.push(text);
  }

  close(code = 1005): void {
    this.readyState = 2;
    this.closedWith = code;
  }

  /** The token that came beside the URL, as a server reads it. */
  get token(): string | null {
    const given = this.protocols.find((name) => name.startsWith("token."));
    return given === undefined ? null : Buffer.from(given.slice(6), "base64url").toString();
  }

  // The server's side.

  /** Opens, and answers the ping that comes at once: `sent` begins with what follows it. */
  accept(): void {
    this.open();
    const at = this.sent.indexOf(PING);
    if (at === -1) return;
    this.sent.splice(at, 1);
    this.say({ type: "pong" });
  }

  open(): void {
    this.readyState = 1;
    this.dispatchEvent(new Event("open"));
  }

  say(data: unknown): void {
    const text = typeof data === "string" ? data : JSON.stringify(data);
    this.dispatchEvent(new MessageEvent("message", { data: text }));
  }

  end(code: number, reason = ""): void {
    this.readyState = 3;
    this.dispatchEvent(Object.assign(new Event("close"), { code, reason, wasClean: true }));
  }

  /** What the client emitted, without pings. */
  get frames(): Record<string, unknown>[] {
    return this.sent.map((text) => JSON.parse(text)).filter(({ type }) => type !== "ping");
  }

  get pings(): number {
    return this.sent.filter((text) => text === PING).length;
  }
}

/** The socket of the client's latest attempt. */
export function latest(): FakeWebSocket {
  const socket = FakeWebSocket.all.at(-1);
  if (!socket) throw new Error("The client has not connected yet");
  return socket;
}

export function attempts(): number {
  return FakeWebSocket.all.length;
}

/** Lets time pass: timers and promises alike. */
export async function pass(ms = 0): Promise<void> {
  await vi.advanceTimersByTimeAsync(ms);
}

/** The clock moves on, and no timer has run: what a closed lid does. */
export function sleep(ms: number): void {
  vi.setSystemTime(Date.now() + ms);
}

const clients: VeraniClient[] = [];

export function newClient(options: VeraniClientOptions = {}, url = "ws://test/ws"): VeraniClient {
  const client = new VeraniClient(url, { WebSocket: FakeWebSocket, ...options });
  clients.push(client);
  return client;
}

/** A client and its open socket. */
export async function connected(
  options: VeraniClientOptions = {},
): Promise<{ client: VeraniClient; socket: FakeWebSocket }> {
  const client = newClient(options);
  await pass();
  latest().accept();
  return { client, socket: latest() };
}

/** What jitter picks of its window: 0 to 1. */
export function pick(fraction: number): void {
  vi.spyOn(Math, "random").mockReturnValue(fraction);
}

export function installFakes(): void {
  beforeEach(() => {
    vi.useFakeTimers();
    FakeWebSocket.all = [];
  });
  afterEach(() => {
    for (const client of clients.splice(0)) client.close();
    vi.useRealTimers();
    vi.restoreAllMocks();
    vi.unstubAllGlobals();
  });
}
