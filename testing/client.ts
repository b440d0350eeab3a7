import {
  applyDiff,
  applyEvent,
  type PresenceEvent,
  type Roster,
  rosterOf,
} from "../rooms/presence/roster.ts";
import {
  type Hello,
  type MessageFrame,
  parseFrames,
  type Untyped,
  unwrapEvent,
} from "../src/wire/frames.ts";

/** Below vitest's own limit of 5 s for a test, so that the failure says what did not come. */
const TIMEOUT_MS = 4_000;
/** What the server sees of a broken line is a close that is not 1000. */
const BROKEN = 3_001;

/** An event or another frame, as a client received it. */
export interface Received {
  /** The event's name, or the frame's type: `hello`, `ack`, `nack`, `pong`. */
  event: string;
  data: Untyped;
  frame: MessageFrame;
  /** Number of the WebSocket message it came in, from 0. */
  message: number;
}

/** Options of a {@link TestClient}. */
export interface TestClientOptions {
  /** Opens another socket that goes on after this cursor, as the query `resume` has it. */
  reopen?: (resume: string) => Promise<WebSocket>;
  /** How long a test waits for what it expects, in ms. Default 4000. */
  timeoutMs?: number;
}

/** A client that collects what it receives, and waits for what a test expects. */
export class TestClient {
  /** Every message as it came. */
  readonly messages: string[] = [];
  /** Every frame, with its event unwrapped. */
  readonly received: Received[] = [];
  /** The roster that the presence events add up to, as in `VeraniClient`. */
  readonly roster: Roster = new Map();
  /** The first frame of its newest socket. Protocol 2 and 3. */
  hello: Hello | undefined;
  /** How the server or the client closed its newest socket; null while that is open. */
  closed: { code: number; reason: string } | null = null;
  readonly #options: TestClientOptions;
  /** Undefined once the client has vanished. */
  #ws: WebSocket | undefined;
  /** Sockets that the server still regards as open. Held, since the runtime closes what is collected. */
  readonly #vanished: WebSocket[] = [];
  /** The number of the newest frame. Protocol 3. */
  #seq = 0;
  readonly #taken = new Set<Received>();
  readonly #listeners = new Set<() => void>();

  /** @param ws of a response to an upgrade, not yet accepted */
  constructor(ws: WebSocket, options: TestClientOptions = {}) {
    this.#options = options;
    this.#attach(ws);
  }

  #attach(ws: WebSocket): void {
    this.#ws = ws;
    this.closed = null;
    ws.addEventListener("message", ({ data }) => {
      if (this.#ws !== ws) return;
      const message = this.messages.length;
      this.messages.push(String(data));
      for (const frame of parseFrames(data)) {
        const received = { ...unwrapEvent(frame), frame, message };
        this.received.push(received);
        if (frame.type === "hello") this.hello = frame.data as Hello;
        this.#seq = frame.type === "hello" ? frame.data.seq : (frame.seq ?? this.#seq);
        this.#fold(received);
      }
      for (const notify of [...this.#listeners]) notify();
    });
    ws.addEventListener("close", ({ code, reason }) => {
      if (this.#ws !== ws) return;
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

  /** Whether its socket is open, as far as the client knows. */
  get isOpen(): boolean {
    return this.#ws !== undefined && this.closed === null;
  }

  /**
   * Sends a frame, or text or bytes as they are.
   *
   * @throws Error when the socket is closed
   */
  send(frame: MessageFrame | string | ArrayBuffer): void {
    if (this.#ws === undefined) throw new Error("This client has vanished");
    this.#ws.send(
      typeof frame === "string" || frame instanceof ArrayBuffer ? frame : JSON.stringify(frame),
    );
  }

  /** Sends an event. */
  emit(type: string, data?: Untyped): void {
    this.send({ type, data });
  }

  /**
   * Sends an event and waits for the frame that answers it: `{type: "ack", data}`, or
   * `{type: "nack", error}`. Protocol 2 and 3.
   *
   * @throws Error when none comes in time
   */
  async ask(type: string, data?: Untyped): Promise<MessageFrame> {
    const id = crypto.randomUUID();
    this.send({ type, data, id });
    const { frame } = await this.next(({ frame }) => frame.id === id, `an answer to ${type}`);
    return frame;
  }

  /**
   * The data of the first event of this name that no earlier call took; waits for it if need be.
   *
   * @throws Error when none comes in time
   */
  async event(name: string, matches: (data: Untyped) => boolean = () => true): Promise<Untyped> {
    return (await this.next(({ event, data }) => event === name && matches(data), name)).data;
  }

  /** As {@link event}, of any frame. */
  async next(matches: (received: Received) => boolean, what = "a frame"): Promise<Received> {
    const find = () => this.received.find((one) => !this.#taken.has(one) && matches(one));
    await this.until(() => find() !== undefined, what);
    const found = find() as Received;
    this.#taken.add(found);
    return found;
  }

  /** What was received and no call of {@link event} or {@link next} took. */
  get untaken(): Received[] {
    return this.received.filter((one) => !this.#taken.has(one));
  }

  /** Takes all events received so far: {@link event} then waits for a new one. */
  skip(): void {
    for (const one of this.received) this.#taken.add(one);
  }

  /**
   * Waits until `holds` is true; checks it whenever something is received.
   *
   * @throws Error when it is not in time, or cannot be because the socket is closed
   */
  async until(holds: () => boolean, what: string): Promise<void> {
    const deadline = AbortSignal.timeout(this.#options.timeoutMs ?? TIMEOUT_MS);
    while (!holds()) {
      if (deadline.aborted || this.closed) {
        const { code, reason } = this.closed ?? {};
        const closed = this.closed ? ` before the close (${code} ${reason})` : "";
        const last = this.messages.slice(-10).join("\n");
        throw new Error(`${what} did not come${closed}; received: ${last}`);
      }
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#listeners.add(resolve);
      deadline.addEventListener("abort", () => resolve(), { once: true });
      await promise;
      this.#listeners.delete(resolve);
    }
  }

  /**
   * Everything that the server sent to this client so far has arrived once this resolves. Presence rooms
   * collect changes for some milliseconds before they send them.
   */
  async caughtUp(): Promise<void> {
    if (!this.isOpen) return;
    // Not the exact bytes that the runtime answers itself: this pong is queued behind all the rest.
    this.send('{"type":"ping","data":0}');
    const pong = this.next(({ frame }) => frame.type === "pong", "pong");
    await pong.catch((error) => {
      // After a close nothing more can come.
      if (this.closed === null) throw error;
    });
  }

  /** Names of the events received so far. */
  get events(): string[] {
    return this.received.map(({ event }) => event).filter((event) => event !== "pong");
  }

  /** Closes from this side, by default as a user who leaves, and waits until the server has answered. */
  async close(code = 1000, reason = ""): Promise<void> {
    this.#ws?.close(code, reason);
    await this.ended();
  }

  /** How the socket was closed; waits for it. */
  async ended(): Promise<{ code: number; reason: string }> {
    await this.until(() => this.closed !== null, "the close");
    return this.closed ?? { code: 0, reason: "" };
  }

  /**
   * The line breaks, and the server notices at once: a close that is not 1000. The session lives on for
   * the room's `graceMs`; {@link resume} goes on with it.
   */
  async cut(): Promise<void> {
    await this.close(BROKEN);
  }

  /**
   * The device is gone without a close, as in a tunnel: it neither pings nor receives, and the server
   * regards it as open until its silence was too long (`TestRoom.advance`).
   */
  vanish(): void {
    if (this.#ws) this.#vanished.push(this.#ws);
    this.#ws = undefined;
  }

  /**
   * Connects again after {@link cut}, {@link vanish} or a crash, and goes on after the last frame that it
   * received. Protocol 3.
   *
   * @returns the new hello; its `resumed` says whether the session goes on, `reason` why not
   * @throws Error when the client is still connected, or never had a session
   */
  async resume(): Promise<Hello> {
    if (this.isOpen) throw new Error("Still connected: cut the line first");
    const { hello } = this;
    const { reopen } = this.#options;
    if (hello?.protocol !== 3 || !reopen) throw new Error("Only a client of protocol 3 resumes");
    this.#attach(await reopen(`${hello.session}:${hello.epoch}:${this.#seq}`));
    await this.next(({ frame }) => frame.type === "hello" && frame.data !== hello, "hello");
    return this.hello as Hello;
  }
}

/** What can be asked for an upgrade: an actor's stub, or a Worker. */
export interface Fetching {
  fetch(url: string, init: RequestInit): Promise<Response>;
}

/** Requests an upgrade. @returns the answer, whatever it is */
export function upgrade(
  target: Fetching,
  path: string,
  headers: Record<string, string> = {},
): Promise<Response> {
  const init = { headers: { Upgrade: "websocket", ...headers } };
  return target.fetch(`https://rollcall.test${path}`, init);
}

/**
 * The socket of an upgrade that must succeed.
 *
 * @throws Error with the status and the body when the server refuses
 */
export async function openSocket(
  target: Fetching,
  path: string,
  headers: Record<string, string> = {},
): Promise<WebSocket> {
  const response = await upgrade(target, path, headers);
  if (!response.webSocket) {
    throw new Error(`Upgrade refused: ${response.status} ${await response.text()}`);
  }
  return response.webSocket;
}

let names = 0;
/** A room name that no other test uses. */
export function freshName(): string {
  names += 1;
  return `room-${names}-${crypto.randomUUID().slice(0, 8)}`;
}
