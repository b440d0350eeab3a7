/** The fan-out as a backend and its clients have it: `npm start`, a stock WebSocket, our client. */
import { execFileSync } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { WebSocket as StockSocket } from "ws";
import { type Envelope, FanoutClient, publish, publishBatch } from "../../client/fanout.ts";
import { type Server, startServer } from "./server.ts";

let server: Server;
const tokens = new Map<string, string>();

/** As the README has it: `npm run -s token -- --user …`. */
function tokenOf(user: string): string {
  let token = tokens.get(user);
  if (token === undefined) {
    token = execFileSync("npm", ["run", "-s", "token", "--", "--user", user], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    }).trim();
    tokens.set(user, token);
  }
  return token;
}

const sockets: StockSocket[] = [];
/** Left alone while the other tests run, so that its actor falls asleep. */
let asleepAt = 0;
let sleeper: { socket: Stock; stream: ReadableStreamDefaultReader<string>; instance: string };

beforeAll(async () => {
  server = await startServer();
  const socket = await new Stock("sleeper").open();
  await socket.subscribe({ type: "message" });
  const url = `${server.url}/fanout/stream?type=message&token=${tokenOf("sleeper")}`;
  const { body } = await fetch(url);
  if (!body) throw new Error("no stream");
  const stream = body.pipeThrough(new TextDecoderStream()).getReader();
  await stream.read();
  const { instance, sessions } = await inspect("sleeper");
  expect(sessions).toBe(2);
  sleeper = { socket, stream, instance };
  asleepAt = performance.now() + 14_000;
});
afterAll(async () => {
  for (const socket of sockets) socket.terminate();
  await server?.stop();
});

interface Inspection {
  instance: string;
  sessions: number;
}
async function inspect(user: string): Promise<Inspection> {
  const response = await fetch(`${server.url}/debug/actors/fanout/${user}`);
  return (await response.json()) as Inspection;
}

async function post(body: unknown, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(`${server.url}/publish`, {
    method: "POST",
    headers: {
      Authorization: `Bearer ${tokenOf("backend")}`,
      "Content-Type": "application/json",
      ...headers,
    },
    body: JSON.stringify(body),
  });
}

/** A stock client: what it got, and a way to wait for more. */
class Stock {
  readonly ws: StockSocket;
  readonly messages: string[] = [];
  #wake: () => void = () => {};

  constructor(user: string, path = "/") {
    this.ws = new StockSocket(server.wsUrl + path, {
      headers: { Authorization: `Bearer ${tokenOf(user)}` },
    });
    this.ws.on("message", (data) => {
      this.messages.push(String(data));
      this.#wake();
    });
    sockets.push(this.ws);
  }

  async open(): Promise<this> {
    await new Promise((resolve, reject) => {
      this.ws.once("open", resolve).once("error", reject);
    });
    return this;
  }

  send(message: unknown): void {
    this.ws.send(typeof message === "string" ? message : JSON.stringify(message));
  }

  async message(matches: (text: string) => boolean): Promise<string> {
    for (;;) {
      const found = this.messages.find(matches);
      if (found !== undefined) return found;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** The envelope with this payload. */
  async envelope(payload: unknown): Promise<Envelope> {
    const wanted = JSON.stringify(payload);
    const has = (text: string) =>
      text.startsWith("{") && JSON.stringify(JSON.parse(text).payload) === wanted;
    return JSON.parse(await this.message(has));
  }

  async subscribe(...filters: unknown[]): Promise<void> {
    this.send({ type: "subscribe", filters });
    // Its pong queues behind the subscription; that of a plain `ping` need not.
    this.messages.length = 0;
    this.send("PING");
    await this.message((text) => text === "pong");
  }
}

it("lets a stock client follow the contract's table by hand", async () => {
  const one = await new Stock("stock").open();
  const two = await new Stock("stock", "/ws/fanout").open();
  one.send("ping");
  expect(await one.message((text) => text === "pong")).toBe("pong");
  one.send("no JSON at all");
  one.send({ type: "subscribe", filters: "none" });
  await one.subscribe({ type: "chat_message", questId: "q1" });
  await two.subscribe({ type: "chat_message", questId: "q2" });

  const answer = post({ userId: "stock", type: "chat_message", payload: { questId: "q1" } });
  const envelope = await one.envelope({ questId: "q1" });
  expect(envelope).toMatchObject({ type: "chat_message", userId: "stock" });
  expect(new Date(envelope.timestamp).toISOString()).toBe(envelope.timestamp);
  one.send({ type: "ack", envelopeId: envelope.envelopeId, result: { seen: 1 } });
  const response = await answer;
  expect(response.status).toBe(200);
  expect(await response.json()).toMatchObject({ clientCount: 1, results: [{ seen: 1 }] });
  expect(two.messages.filter((text) => text !== "pong")).toEqual([]);

  one.send({ type: "unsubscribe", filters: [{ questId: "q1", type: "chat_message" }] });
  await one.subscribe();
  const none = await post({ userId: "stock", type: "chat_message", payload: { questId: "q1" } });
  expect(await none.json()).toMatchObject({ clientCount: 0, results: [] });
});

it("does not wait for a client whose connection breaks", async () => {
  const alive = await new Stock("breaking").open();
  const dying = await new Stock("breaking").open();
  await alive.subscribe({ type: "message" });
  await dying.subscribe({ type: "message" });
  const begun = performance.now();
  const answer = post({ userId: "breaking", payload: 1 });
  const { envelopeId } = await alive.envelope(1);
  alive.send({ type: "ack", envelopeId, result: "alive" });
  await dying.envelope(1);
  dying.ws.terminate();
  expect(await (await answer).json()).toMatchObject({ clientCount: 2, results: ["alive"] });
  expect(performance.now() - begun).toBeLessThan(4_500);
});

it("serves others while a publisher who waited has hung up", async () => {
  const mute = await new Stock("mute").open();
  await mute.subscribe({ type: "message" });
  const controller = new AbortController();
  const hanging = fetch(`${server.url}/publish`, {
    method: "POST",
    headers: { Authorization: `Bearer ${tokenOf("backend")}`, "Content-Type": "application/json" },
    body: JSON.stringify({ userId: "mute", payload: "left" }),
    signal: controller.signal,
  });
  const { envelopeId } = await mute.envelope("left");
  controller.abort();
  await expect(hanging).rejects.toThrow();
  mute.send({ type: "ack", envelopeId, result: "to nobody" });
  const answer = post({ userId: "mute", payload: "next" });
  const next = await mute.envelope("next");
  mute.send({ type: "ack", envelopeId: next.envelopeId, result: "to somebody" });
  expect(await (await answer).json()).toMatchObject({ clientCount: 1, results: ["to somebody"] });
});

describe("FanoutClient", () => {
  const backend = () => ({ url: server.url, token: tokenOf("backend") });

  function connect(user: string, errors: unknown[] = []): FanoutClient {
    const client = new FanoutClient(server.url, {
      token: () => tokenOf(user),
      onError: (error) => errors.push(error),
    });
    onTestFinished(() => client.disconnect());
    return client;
  }

  /** Publishes until somebody has subscribed. */
  async function reach(userId: string, type: string, payload?: unknown) {
    for (;;) {
      const answer = await publish(backend(), { userId, type, payload });
      if (answer.clientCount > 0) return answer;
      await sleep(100);
    }
  }

  it("answers with what its handlers return, and stops where told to", async () => {
    const errors: unknown[] = [];
    const client = connect("typed", errors);
    const stop = client.subscribe({ type: "ask", topic: "a" }, async ({ payload }) => ({
      doubled: payload.n * 2,
    }));
    client.subscribe({ type: "ask", topic: "b" }, () => {
      throw new Error("out of order");
    });
    const ask = (topic: string) => ({ topic, n: 21 });
    expect(await reach("typed", "ask", ask("a"))).toMatchObject({
      clientCount: 1,
      results: [{ doubled: 42 }],
    });
    expect(await reach("typed", "ask", ask("b"))).toMatchObject({
      clientCount: 1,
      results: [null],
    });
    expect(errors).toEqual([new Error("out of order")]);
    stop();
    await expect
      .poll(async () =>
        publish(backend(), { userId: "typed", type: "ask", payload: ask("a"), ackTimeoutMs: 0 }),
      )
      .toMatchObject({ clientCount: 0, results: [] });
  });

  it("publishes once under a key, many in a batch, and tells what was refused", async () => {
    const client = connect("keyed");
    const heard: unknown[] = [];
    client.subscribe({ type: "count" }, ({ payload }) => heard.push(payload));
    await reach("keyed", "count", "first");
    const once = { userId: "keyed", type: "count", payload: "once", idempotencyKey: "k1" };
    const [a, b] = await Promise.all([publish(backend(), once), publish(backend(), once)]);
    expect(a).toEqual(b);
    await expect(publish(backend(), { ...once, payload: "twice" })).rejects.toMatchObject({
      status: 422,
    });
    const answers = await publishBatch(backend(), [
      { userId: "keyed", type: "count", payload: 1 },
      { userId: "", payload: "bad" },
      { userId: "keyed", type: "count", payload: 2 },
    ]);
    expect(answers).toMatchObject([{ clientCount: 1 }, { status: 400 }, { clientCount: 1 }]);
    expect(heard).toEqual(["first", "once", 1, 2]);
  });

  it("finds a user's sockets and streams asleep, and wakes them", async () => {
    const { socket, stream, instance } = sleeper;
    // About ten seconds after the last event the runtime puts an actor to sleep; asking is one.
    await sleep(Math.max(0, asleepAt - performance.now()));
    const answer = publish(backend(), { userId: "sleeper", payload: "wake up" });
    const { envelopeId, cursor } = await socket.envelope("wake up");
    socket.send({ type: "ack", envelopeId });
    expect(await answer).toMatchObject({ clientCount: 2, results: [null] });
    let text = "";
    while (!text.includes("data: ")) text += (await stream.read()).value ?? "";
    expect(text).toContain(`id: ${cursor}\ndata: {`);
    expect((await inspect("sleeper")).instance).not.toBe(instance);
    await stream.cancel();
  });

  it("comes back after the server was gone, with all it had subscribed to", async () => {
    const client = connect("returning");
    const filters = Array.from({ length: 120 }, (_, i) => ({ type: "n", n: `${i}` }));
    for (const filter of filters) client.subscribe(filter, () => filter.n);
    expect((await reach("returning", "n", { n: "119" })).results).toEqual(["119"]);
    await server.restart();
    for (const n of ["0", "60", "119"]) {
      expect(await reach("returning", "n", { n })).toMatchObject({ clientCount: 1, results: [n] });
    }
  });
});
