import { exports } from "cloudflare:workers";
import { SignJWT } from "jose";
import { connect, type TestSocket } from "./socket.ts";

/** Of `.dev.vars.example`, which tests run with. */
export const SECRET = "development-only-jwt-secret-0123456789abcdef";

/** A JWT with these claims. */
export function sign(claims: Record<string, unknown>, secret = SECRET, alg = "HS256") {
  return new SignJWT(claims).setProtectedHeader({ alg }).sign(new TextEncoder().encode(secret));
}

export interface Envelope {
  envelopeId: string;
  type: string;
  userId: string;
  timestamp: string;
  cursor: string;
  payload?: unknown;
}

/** One socket of a user, used as the contract's table has it. */
export class Subscriber {
  readonly socket: TestSocket;
  #read = 0;
  #pongs = 0;

  constructor(socket: TestSocket) {
    this.socket = socket;
  }

  static async connect(userId: string, path = "/"): Promise<Subscriber> {
    const token = await sign({ userId });
    return new Subscriber(await connect(null, path, { Authorization: `Bearer ${token}` }));
  }

  send(message: unknown): void {
    this.socket.send(typeof message === "string" ? message : JSON.stringify(message));
  }

  /** Subscribes, and waits until the room has done so. */
  async subscribe(...filters: unknown[]): Promise<void> {
    this.send({ type: "subscribe", filters });
    await this.settle();
  }

  async unsubscribe(...filters: unknown[]): Promise<void> {
    this.send({ type: "unsubscribe", filters });
    await this.settle();
  }

  ack({ envelopeId }: Envelope, result?: unknown): void {
    this.send({ type: "ack", envelopeId, result });
  }

  /** Everything sent so far has been handled: this pong queues behind it, unlike the runtime's. */
  async settle(): Promise<void> {
    this.#pongs += 1;
    this.send(" PING ");
    const pongs = () => this.socket.messages.filter((message) => message === "pong").length;
    await this.socket.until(() => pongs() >= this.#pongs, "pong");
  }

  /** All that came but pongs. */
  get received(): Envelope[] {
    return this.socket.messages.filter((text) => text !== "pong").map((text) => JSON.parse(text));
  }

  /** The next envelope not taken yet. */
  async next(): Promise<Envelope> {
    const index = this.#read++;
    await this.socket.until(() => this.received.length > index, "an envelope");
    return this.received[index] as Envelope;
  }

  /** Answers every envelope that comes from now on. */
  async answerNext(count: number, result: (envelope: Envelope) => unknown): Promise<void> {
    for (let i = 0; i < count; i++) {
      const envelope = await this.next();
      this.ack(envelope, result(envelope));
    }
  }
}

export interface Answer {
  status: number;
  body: {
    clientCount?: number;
    results?: unknown[];
    cursor?: string;
    error?: string;
  };
  headers: Headers;
}

const backend = sign({ userId: "backend" });

/** Asks the Worker as a backend would. */
export async function post(
  path: string,
  body: unknown,
  headers: Record<string, string> = {},
): Promise<Answer> {
  const worker = exports.default as { fetch(url: string, init: RequestInit): Promise<Response> };
  const response = await worker.fetch(`https://rollcall.test${path}`, {
    method: "POST",
    headers: {
      Authorization: `Bearer ${await backend}`,
      "Content-Type": "application/json",
      ...headers,
    },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  const answer = (await response.json()) as Answer["body"];
  return { status: response.status, body: answer, headers: response.headers };
}

export function publish(
  userId: string,
  message: Record<string, unknown> = {},
  headers: Record<string, string> = {},
): Promise<Answer> {
  return post("/publish", { userId, ...message }, headers);
}
