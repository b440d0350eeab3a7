import { exports } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { Subscriber, sign } from "../room/fanout-client.ts";
import { freshName } from "../room/socket.ts";

const worker = exports.default as { fetch(url: string, init?: RequestInit): Promise<Response> };

async function publishText(body: string, publisher = "backend", key?: string, path = "/publish") {
  const response = await worker.fetch(`https://rollcall.test${path}`, {
    method: "POST",
    headers: {
      Authorization: `Bearer ${await sign({ userId: publisher })}`,
      "Content-Type": "application/json",
      ...(key !== undefined && { "Idempotency-Key": key }),
    },
    body,
  });
  return { status: response.status, text: await response.text() };
}

describe("a publish", () => {
  it("reaches subscribers as it was written, and its acks come back as they were written", async () => {
    const user = freshName();
    const ann = await Subscriber.connect(user);
    await ann.subscribe({ type: "message" });
    const payload = '{"id": 154284075601887489, "price":1.10, "e":1E3, "t":"\\u00e9"}';
    const sent = publishText(`{"payload":${payload},"userId":"${user}"}`);
    const envelope = await ann.next();
    expect(ann.socket.messages.at(-1)).toContain(`"payload":${payload}`);
    const result = '{"seen": 9007199254740993, "x":-0.0}';
    ann.send(`{"type":"ack","envelopeId":"${envelope.envelopeId}","result":${result}}`);
    expect((await sent).text).toContain(`{"clientCount":1,"results":[${result}],`);
  });

  it("of a batch reaches subscribers as it was written", async () => {
    const user = freshName();
    const ann = await Subscriber.connect(user);
    await ann.subscribe({ type: "message" });
    const item = (n: string) => `{"userId":"${user}","ackTimeoutMs":0,"payload":{"n":${n}}}`;
    const body = `{"messages":[ ${item("154284075601887489")} ,${item("2.50")}]}`;
    expect((await publishText(body, "backend", undefined, "/publish/batch")).status).toBe(200);
    await ann.next();
    await ann.next();
    expect(ann.socket.messages.join()).toContain('{"n":154284075601887489}');
    expect(ann.socket.messages.join()).toContain('{"n":2.50}');
  });

  it("with a key of another publisher is delivered, and shows none of the other's answers", async () => {
    const user = freshName();
    const ann = await Subscriber.connect(user);
    await ann.subscribe({ type: "message" });
    const body = `{"userId":"${user}","ackTimeoutMs":0,"payload":1}`;
    const other = `{"userId":"${user}","ackTimeoutMs":0,"payload":2}`;
    expect((await publishText(other, "mallory", "order-17")).status).toBe(200);
    expect((await publishText(body, "shop", "order-17")).status).toBe(200);
    expect((await publishText(body, "shop", "order-17")).status).toBe(200);
    expect((await publishText(other, "shop", "order-17")).status).toBe(422);
    await ann.settle();
    expect(ann.received.map(({ payload }) => payload)).toEqual([2, 1]);
  });

  it("with a key that names another publisher's is refused, and holds none of that one's up", async () => {
    const user = freshName();
    const ann = await Subscriber.connect(user);
    await ann.subscribe({ type: "message" });
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode("shop"));
    const hex = [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0"));
    const message = (payload: number, idempotencyKey: string) => ({
      ...{ userId: user, ackTimeoutMs: 0, payload, idempotencyKey },
    });
    const crafted = `order-17\0${hex.join("").slice(0, 32)}`;
    const messages = [message(1, "order-17"), message(2, crafted)];
    const batch = JSON.stringify({ messages });
    const { text } = await publishText(batch, "mallory", undefined, "/publish/batch");
    const body = `{"userId":"${user}","ackTimeoutMs":0,"payload":3}`;
    expect((await publishText(body, "shop", "order-17")).status).toBe(200);
    expect(JSON.parse(text).results).toMatchObject([{ status: 200 }, { status: 400 }]);
    await ann.settle();
    expect(ann.received.map(({ payload }) => payload)).toEqual([1, 3]);
  });
});
