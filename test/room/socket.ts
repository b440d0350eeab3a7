import { exports } from "cloudflare:workers";
import {
  applyDiff,
  applyEvent,
  type PresenceEvent,
  type Roster,
  rosterOf,
} from "../../rooms/presence/roster.ts";
import {
  type MessageFrame,
  parseFrames,
  type Untyped,
  unwrapEvent,
} from "../../src/wire/frames.ts";

/** Machines that run tests may stall for seconds. */
const DEADLINE_MS = 8_000;

export interface Received {
  event: string;
  data: Untyped;
  frame: MessageFrame;
  /** Number of the WebSocket message it came in, from 0. */
  message: number;
}

/** A client's socket that collects what it receives and waits for what a test expects. */
export class TestSocket {
  /** Every message as it came. */
  readonly messages: string[] = [];
  readonly received: Received[] = [];
  /** The roster that the presence events add up to, as in our client. */
  readonly roster: Roster = new Map();
  closed: { code: number; reason: string } | null = null;
  readonly #ws: WebSocket;
  readonly #taken = new Set<Received>();
  readonly #listeners = new Set<() => void>();

  constructor(ws: WebSocket) {
    this.#ws = ws;
    ws.addEventListener("message", ({ data }) => {
      const message = this.messages.length;
      this.messages.push(String(data));
      for (const frame of parseFrames(data)) {
        const received = { ...unwrapEvent(frame), frame, message };
        this.received.push(received);
        this.#fold(received);
      }
      for (const notify of [...this.#listeners]) notify();
    });
    ws.addEventListener("close", ({ code, reason }) => {
      this.closed = { code, reason };
      for (const notify of [...this.#listeners]) notify();
    });
    ws.accept();
  }

  #fold({ event, data }: Received): void {
    if (event === "presence.sync") {
      this.roster.clear();
      for (const [userId, entry] of rosterOf(data)) this.roster.set(userId, entry);
    } else if (event === "presence.diff") applyDiff(this.roster, data);
    else if (event.startsWith("presence.")) {
      applyEvent(this.roster, { event, data } as PresenceEvent);
    }
  }

  /** Sends a frame, or text as it is. */
  send(frame: MessageFrame | string | ArrayBuffer): void {
    this.#ws.send(
      typeof frame === "string" || frame instanceof ArrayBuffer ? frame : JSON.stringify(frame),
    );
  }

  emit(type: string, data?: Untyped): void {
    this.send({ type, data });
  }

  /** Sends an event and waits for its `ack` or `nack`. Protocol 2. */
  async ask(type: string, data?: Untyped): Promise<MessageFrame> {
    const id = crypto.randomUUID();
    this.send({ type, data, id });
    const { frame } = await this.next(({ frame }) => frame.id === id, `an answer to ${type}`);
    return frame;
  }

  /** The first event of this name that no earlier call took; waits for it if need be. */
  async event(name: string, matches: (data: Untyped) => boolean = () => true): Promise<Untyped> {
    return (await this.next(({ event, data }) => event === name && matches(data), name)).data;
  }

  async next(matches: (received: Received) => boolean, what = "a frame"): Promise<Received> {
    const find = () => this.received.find((one) => !this.#taken.has(one) && matches(one));
    await this.until(() => find() !== undefined, what);
    const found = find() as Received;
    this.#taken.add(found);
    return found;
  }

  /** Takes all events received so far: {@link event} then waits for a new one. */
  skip(): void {
    for (const one of this.received) this.#taken.add(one);
  }

  /** Waits until `holds` is true; checks it whenever something is received. */
  async until(holds: () => boolean, what: string): Promise<void> {
    const deadline = AbortSignal.timeout(DEADLINE_MS);
    while (!holds()) {
      if (deadline.aborted) {
        throw new Error(`${what} did not come; received: ${this.messages.slice(-10).join("\n")}`);
      }
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#listeners.add(resolve);
      deadline.addEventListener("abort", () => resolve(), { once: true });
      await promise;
      this.#listeners.delete(resolve);
    }
  }

  /** Everything that the server sent to this socket so far has arrived once this resolves. */
  async caughtUp(): Promise<void> {
    // Not the exact bytes that the runtime answers itself: this pong is queued behind all the rest.
    this.send('{"type":"ping","data":0}');
    await this.next(({ frame }) => frame.type === "pong", "pong");
  }

  /** Names of the events received so far. */
  get events(): string[] {
    return this.received.map(({ event }) => event).filter((event) => event !== "pong");
  }

  /** Closes from this side and waits until the server has answered. */
  async close(code = 1000, reason = ""): Promise<void> {
    this.#ws.close(code, reason);
    await this.ended();
  }

  /** How the socket was closed; waits for it. */
  async ended(): Promise<{ code: number; reason: string }> {
    await this.until(() => this.closed !== null, "the close");
    return this.closed ?? { code: 0, reason: "" };
  }
}

interface Fetching {
  fetch(url: string, init: RequestInit): Promise<Response>;
}

/** Requests an upgrade. @returns the answer, whatever it is */
export function upgrade(
  target: Fetching | null,
  path: string,
  headers: Record<string, string> = {},
): Promise<Response> {
  const init = { headers: { Upgrade: "websocket", ...headers } };
  return (target ?? (exports.default as Fetching)).fetch(`https://rollcall.test${path}`, init);
}

/** A client of an actor (`target`), or of the Worker (null). */
export async function connect(
  target: Fetching | null,
  path: string,
  headers: Record<string, string> = {},
): Promise<TestSocket> {
  const response = await upgrade(target, path, headers);
  if (!response.webSocket) {
    throw new Error(`no upgrade: ${response.status} ${await response.text()}`);
  }
  return new TestSocket(response.webSocket);
}

let rooms = 0;
/** A room name that no other test uses. */
export function freshName(): string {
  rooms += 1;
  return `room-${rooms}-${crypto.randomUUID().slice(0, 8)}`;
}
