/**
 * Clients of a deployment that take nothing from this tree: they read the wire as the contracts fix
 * it, whatever release is behind it.
 */
import { type JWTPayload, SignJWT } from "jose";
import type { Untyped } from "../../src/wire/frames.ts";
import { type Deployment, secrets } from "./deployment.ts";

/** Generous: these machines stall for seconds now and then. */
const DEADLINE_MS = 10_000;

/** What came from the server, taken in order or by what it is. */
class Inbox<T> {
  readonly all: T[] = [];
  readonly #taken = new Set<T>();
  #arrival = Promise.withResolvers<void>();

  push(one: T): void {
    this.all.push(one);
    this.wake();
  }

  wake(): void {
    this.#arrival.resolve();
    this.#arrival = Promise.withResolvers();
  }

  /** The first that matches and was not taken yet; waits for it. */
  async take(matches: (one: T) => boolean, what: string): Promise<T> {
    for (;;) {
      const found = this.all.find((one) => !this.#taken.has(one) && matches(one));
      if (found !== undefined) {
        this.#taken.add(found);
        return found;
      }
      await this.arrival(what);
    }
  }

  async arrival(what: string): Promise<void> {
    const { promise, reject } = Promise.withResolvers<never>();
    const late = setTimeout(
      () => reject(new Error(`${what} did not come, but ${JSON.stringify(this.all.slice(-5))}`)),
      DEADLINE_MS,
    );
    await Promise.race([this.#arrival.promise, promise]).finally(() => clearTimeout(late));
  }
}

/** An event of a room, an envelope, or an event of a stream, by its name and with its fields. */
export interface Received {
  event: string;
  data: Untyped;
}

const nameOf = (data: Untyped): string => (typeof data?.type === "string" ? data.type : "");

/** A WebSocket whose messages wait to be taken. */
export class Socket {
  readonly #inbox = new Inbox<Received>();
  readonly #ws: WebSocket;
  readonly #closed = Promise.withResolvers<number>();

  private constructor(ws: WebSocket) {
    this.#ws = ws;
    ws.addEventListener("message", ({ data }) => {
      if (!data.startsWith("{") && !data.startsWith("[")) {
        this.#inbox.push({ event: data, data });
        return;
      }
      for (const frame of [JSON.parse(data)].flat()) {
        if (frame.type === "event")
          this.#inbox.push({ event: nameOf(frame.data), data: frame.data });
        else this.#inbox.push({ event: frame.type, data: frame });
      }
    });
    ws.addEventListener("close", ({ code }) => this.#closed.resolve(code));
  }

  /** @param token goes as a subprotocol, as clients of protocol 3 send it */
  static async open(deployment: Deployment, path: string, token?: string): Promise<Socket> {
    const base64 = Buffer.from(token ?? "").toString("base64url");
    const protocols = token === undefined ? [] : ["rollcall", `token.${base64}`];
    const ws = new WebSocket(deployment.wsUrl + path, protocols);
    const socket = new Socket(ws);
    await new Promise((resolve, reject) => {
      ws.addEventListener("open", resolve);
      ws.addEventListener("error", () => reject(new Error(`no upgrade of ${path}`)));
    });
    return socket;
  }

  send(message: unknown): void {
    this.#ws.send(typeof message === "string" ? message : JSON.stringify(message));
  }

  /** The data of the next event of this name that `matches`; waits for it. */
  async next(event: string, matches: (data: Untyped) => boolean = () => true): Promise<Untyped> {
    const isMeant = (one: Received) => one.event === event && matches(one.data);
    return (await this.#inbox.take(isMeant, event)).data;
  }

  /** How many events of this name have come, taken or not. */
  count(event: string): number {
    return this.#inbox.all.filter((one) => one.event === event).length;
  }

  /** Sends an event of protocol 2 and waits for its ack. */
  async ask(type: string, data?: unknown): Promise<Untyped> {
    const id = crypto.randomUUID();
    this.send({ type, data, id });
    return (await this.next("ack", (frame) => frame.id === id)).data;
  }

  /** The code that the socket was closed with; waits for it. */
  ended(): Promise<number> {
    return this.#closed.promise;
  }

  /** Closes from this side and waits until the server has answered. */
  close(): Promise<number> {
    this.#ws.close(1000);
    return this.ended();
  }
}

/** A stream of server-sent events whose data are JSON. */
export class Stream {
  readonly #inbox = new Inbox<Received>();
  readonly #leaving = new AbortController();

  static async open(deployment: Deployment, path: string, token?: string): Promise<Stream> {
    const stream = new Stream();
    const response = await fetch(deployment.url + path, {
      headers: token === undefined ? {} : { Authorization: `Bearer ${token}` },
      signal: stream.#leaving.signal,
    });
    if (!response.ok || !response.body) {
      throw new Error(`no stream: ${response.status} ${await response.text()}`);
    }
    stream.#read(response.body.pipeThrough(new TextDecoderStream())).catch(() => {});
    return stream;
  }

  async #read(body: ReadableStream<string>): Promise<void> {
    let text = "";
    for await (const chunk of body) {
      text += chunk;
      const blocks = text.split("\n\n");
      text = blocks.pop() ?? "";
      for (const block of blocks) {
        const [, json] = /^data: (.*)$/m.exec(block) ?? [];
        if (json !== undefined) this.#inbox.push({ event: "message", data: JSON.parse(json) });
      }
    }
  }

  async next(matches: (data: Untyped) => boolean): Promise<Untyped> {
    return (await this.#inbox.take(({ data }) => matches(data), "an event of the stream")).data;
  }

  leave(): void {
    this.#leaving.abort();
  }
}

export interface Answer {
  status: number;
  body: Untyped;
}

/** Asks a route; a body, if given, goes as JSON by POST. */
export async function ask(
  deployment: Deployment,
  path: string,
  {
    token,
    body,
    headers,
  }: { token?: string; body?: unknown; headers?: Record<string, string> } = {},
): Promise<Answer> {
  const response = await fetch(deployment.url + path, {
    ...(body !== undefined && { method: "POST", body: JSON.stringify(body) }),
    headers: {
      ...(body !== undefined && { "Content-Type": "application/json" }),
      ...(token !== undefined && { Authorization: `Bearer ${token}` }),
      ...headers,
    },
  });
  const text = await response.text();
  return { status: response.status, body: text === "" ? null : JSON.parse(text) };
}

export const ingestToken = secrets.PRESENCE_DO_INGEST_TOKEN ?? "";

/** A token as the app's login signs it. */
export function sign(claims: JWTPayload): Promise<string> {
  const key = new TextEncoder().encode(secrets.JWT_SECRET);
  return new SignJWT(claims).setProtectedHeader({ alg: "HS256" }).sign(key);
}

/** A presence token for the devices of a user, from the deployment itself. */
export async function watchToken(deployment: Deployment, userId: string): Promise<string> {
  const body = { user_id: userId, device_id: crypto.randomUUID() };
  const answer = await ask(deployment, "/api/v1/presence/tokens", { token: ingestToken, body });
  return answer.body.token;
}
