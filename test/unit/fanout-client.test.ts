import { describe, expect, expectTypeOf, it, vi } from "vitest";
import {
  FanoutClient,
  type FanoutClientOptions,
  PublishError,
  publish,
  publishBatch,
} from "../../client/fanout.ts";
import { FakeWebSocket, installFakes, latest, pass, pick } from "./client-fake.ts";

installFakes();

async function connected(options: Partial<FanoutClientOptions> = {}) {
  const errors: unknown[] = [];
  const client = new FanoutClient<{ ask: { n: number }; other: unknown }>("https://test", {
    token: "t",
    WebSocket: FakeWebSocket,
    onError: (error) => errors.push(error),
    ...options,
  });
  await pass();
  latest().accept();
  await pass();
  return { client, errors };
}

const envelope = (envelopeId: string, type: string, payload?: unknown) => ({
  envelopeId,
  type,
  userId: "u",
  timestamp: new Date(0).toISOString(),
  payload,
});

/** The question for the cursor of now, which follows the filters of each connection. */
const NOW = '{"type":"subscribe","filters":[],"since":"now"}';

/** What the client said, without pings and the question for the cursor. */
const said = () =>
  latest()
    .sent.filter((text) => text !== "ping" && text !== NOW)
    .map((text) => JSON.parse(text));

describe("a subscriber", () => {
  it("connects with its token, and pings with the bytes that wake no actor", async () => {
    await connected();
    expect(latest().url.href).toBe("wss://test/?v=3");
    expect(latest().token).toBe("t");
    expect(latest().sent).toEqual(["ping", NOW]);
    latest().say("pong");
    await pass(26_000);
    expect(latest().sent).toEqual(["ping", NOW, "ping"]);
  });

  it("shows the server a fresh token before its own expires, over the same connection", async () => {
    let minted = 0;
    const mint = () => {
      const exp = Math.floor(Date.now() / 1_000) + 100;
      const claims = Buffer.from(JSON.stringify({ exp, name: "ä" })).toString("base64url");
      return `head.${claims}.${++minted}`;
    };
    const { client } = await connected({ token: mint });
    const auths = () => said().filter(({ type }) => type === "auth");
    const live = async (seconds: number) => {
      for (let second = 0; second < seconds; second++) {
        latest().say("pong");
        await pass(1_000);
      }
    };
    for (const n of [1, 2, 3]) {
      await live(58);
      expect(auths()).toHaveLength(n - 1);
      if (n > 1) expect(auths().at(-1).data.token).toMatch(new RegExp(`.${n}$`));
      await live(2);
    }
    client.disconnect();
    const before = minted;
    await pass(200_000);
    expect(minted).toBe(before);
  });

  it("refreshes in time, and not all the time, where the device's clock is hours off", async () => {
    for (const offS of [-7_200, 7_200]) {
      let minted = 0;
      const mint = () => {
        const iat = Math.floor(Date.now() / 1_000) + offS;
        minted += 1;
        return `head.${Buffer.from(JSON.stringify({ iat, exp: iat + 100 })).toString("base64url")}.mac`;
      };
      const { client } = await connected({ token: mint });
      for (let second = 0; second < 130; second++) {
        latest().say("pong");
        await pass(1_000);
      }
      // At 60 and at 120 s.
      expect(minted).toBe(3);
      client.disconnect();
    }
  });

  it("refreshes no token that is a text, and none whose end it cannot read", async () => {
    for (const token of ["head.e30.mac", () => "user:ann", () => "a.b.c", () => "head.e30.mac"]) {
      await connected({ token });
      await pass(20_000);
      expect(said()).toEqual([]);
    }
  });

  it("acks with the first value that a matching handler gives, else with null", async () => {
    const { client, errors } = await connected();
    client.subscribe({ type: "ask" }, () => undefined);
    client.subscribe({ type: "ask", kind: "a" }, async ({ payload }) => {
      expectTypeOf(payload).toEqualTypeOf<{ n: number } | undefined>();
      return payload?.n;
    });
    client.subscribe({ type: "ask", kind: "big" }, () => 1n);
    client.subscribe({ type: "ask", kind: "bad" }, () => Promise.reject(new Error("no")));
    latest().sent.length = 0;
    latest().say(envelope("1", "ask", { kind: "a", n: 7 }));
    latest().say(envelope("2", "ask", { kind: "big" }));
    latest().say(envelope("3", "ask", { kind: "bad" }));
    latest().say(envelope("4", "ask", "nothing to match"));
    await pass();
    const acks = said().sort((a, b) => a.envelopeId - b.envelopeId);
    expect(acks.map(({ result }) => result)).toEqual([7, null, null, null]);
    expect(errors).toEqual([new Error("no"), expect.any(TypeError)]);
  });

  it("acks null for an answer that is too large or that JSON would change, reports it, and stays connected", async () => {
    const { client, errors } = await connected();
    const answers: unknown[] = ["x".repeat(70_000), new Map([[1, 2]]), { f: () => 1 }, "fine"];
    client.subscribe({ type: "ask" }, () => answers.shift());
    latest().sent.length = 0;
    for (const id of ["1", "2", "3", "4"]) {
      latest().say(envelope(id, "ask", {}));
      await pass();
    }
    expect(said().map(({ result }) => result)).toEqual([null, null, null, "fine"]);
    expect(errors).toHaveLength(3);
    expect(client.state).toBe("connected");
  });

  it("stays away when it is refused for good, and reports the close code", async () => {
    const closes: number[] = [];
    const { client } = await connected({ onClose: ({ code }) => closes.push(code) });
    const { length } = FakeWebSocket.all;
    latest().end(4403, "No");
    await pass(120_000);
    expect(closes).toEqual([4403]);
    expect([client.state, FakeWebSocket.all.length]).toEqual(["disconnected", length]);
  });

  it("tells the server of a filter once, however many handlers it has, and in messages of 50", async () => {
    const { client } = await connected();
    const stops = [1, 2].map(() => client.subscribe({ type: "ask", a: "1" }, () => {}));
    stops[0]?.();
    stops[0]?.();
    expect(said()).toEqual([{ type: "subscribe", filters: [{ type: "ask", a: "1" }] }]);
    stops[1]?.();
    expect(said()[1]).toEqual({ type: "unsubscribe", filters: [{ type: "ask", a: "1" }] });
    for (let n = 0; n < 120; n++) client.subscribe({ type: "ask", n: `${n}` }, () => {});
    latest().end(1006);
    await pass(2_000);
    latest().accept();
    await pass();
    expect(said().map(({ filters }) => filters.length)).toEqual([50, 50, 20]);
  });

  it("asks for what it missed, and hands over each envelope once, in whatever part it comes again", async () => {
    pick(0);
    const gaps: unknown[] = [];
    const got: string[] = [];
    const { client } = await connected({ onGap: (gap) => gaps.push(gap) });
    client.subscribe({ type: "ask" }, ({ envelopeId }) => {
      got.push(envelopeId);
    });
    const say = (n: number) => latest().say({ ...envelope(`${n}`, "ask"), cursor: `e:${n}` });
    const reconnect = async () => {
      latest().end(1006);
      await pass(2_000);
      latest().accept();
      await pass();
    };
    latest().say({ type: "cursor", cursor: "e:1" });
    say(2);
    await reconnect();
    expect(said()).toEqual([{ type: "subscribe", filters: [{ type: "ask" }], since: "e:2" }]);
    // The line breaks in the middle of what it missed: nobody knows what is to come before 5.
    say(5);
    await reconnect();
    expect(said()[0].since).toBe("e:2");
    for (const n of [3, 5, 6]) say(n);
    latest().say({ type: "cursor", cursor: "e:6" });
    say(7);
    await reconnect();
    expect(said()[0].since).toBe("e:7");
    latest().say({ type: "gap", reason: "trimmed", cursor: "e:9" });
    latest().say({ type: "cursor", cursor: "e:9" });
    await reconnect();
    expect(said()[0].since).toBe("e:9");
    expect(got).toEqual(["2", "5", "3", "6", "7"]);
    expect(gaps).toEqual([{ type: "gap", reason: "trimmed", cursor: "e:9" }]);
  });

  it("sends 500 filters at once to a server that has given it a cursor", async () => {
    const { client } = await connected();
    for (let n = 0; n < 120; n++) client.subscribe({ type: "ask", n: `${n}` }, () => {});
    latest().say({ type: "cursor", cursor: "e:1" });
    latest().end(1006);
    await pass(2_000);
    latest().accept();
    await pass();
    expect(said().map(({ filters, since }) => [filters.length, since])).toEqual([[120, "e:1"]]);
  });

  it("keeps the messages of a reconnect below 64 KiB", async () => {
    const { client } = await connected();
    for (let n = 0; n < 40; n++) {
      client.subscribe({ type: "ask", n: `${n}${"€".repeat(2_000)}` }, () => {});
    }
    latest().end(1006);
    await pass(2_000);
    latest().accept();
    await pass();
    const bytes = latest().sent.map((text) => new TextEncoder().encode(text).byteLength);
    expect(Math.max(...bytes)).toBeLessThan(65_536);
    expect(said().flatMap(({ filters }) => filters)).toHaveLength(40);
  });

  it("gives no ack to a connection that did not ask for it", async () => {
    const { client } = await connected();
    const { promise, resolve } = Promise.withResolvers<string>();
    client.subscribe({ type: "ask" }, () => promise);
    latest().say(envelope("1", "ask"));
    latest().end(1006);
    await pass(2_000);
    latest().accept();
    resolve("late");
    await pass();
    expect(said().filter(({ type }) => type === "ack")).toEqual([]);
  });

  it("hears of what the server refuses, and is not moved by what it cannot read", async () => {
    const { client, errors } = await connected();
    for (const text of ["{", "pong", "[]", "null", '{"type":"new kind"}']) latest().say(text);
    latest().say({ type: "error", code: "too_many_filters" });
    expect(errors).toMatchObject([{ code: "too_many_filters" }]);
    expect(client.state).toBe("connected");
    expect(() => client.subscribe({ type: "" as "ask" }, () => {})).toThrow("A filter");
  });
});

describe("a backend", () => {
  const server = (answers: (Response | Error)[]) => ({
    url: "https://test",
    token: () => "t",
    fetch: vi.fn<typeof fetch>(async () => {
      const answer = answers.shift() ?? new Error("asked too often");
      if (answer instanceof Error) throw answer;
      return answer;
    }),
  });
  const ok = () => Response.json({ clientCount: 1, results: [2] });
  const lost = () => Response.json({ error: "lost" }, { status: 503 });

  it("tries again what has a key when the answer is lost, and nothing else", async () => {
    const keyed = server([lost(), new TypeError("network"), ok()]);
    const answer = publish(keyed, { userId: "u", idempotencyKey: "k" });
    await pass(5_000);
    expect(await answer).toEqual({ clientCount: 1, results: [2] });
    const [first, , third] = keyed.fetch.mock.calls;
    expect(third).toEqual(first);
    expect(first?.[1]).toMatchObject({
      headers: { Authorization: "Bearer t", "Idempotency-Key": "k" },
      body: '{"userId":"u"}',
    });

    const bare = server([lost(), ok()]);
    await expect(publish(bare, { userId: "u" })).rejects.toMatchObject({
      status: 503,
      message: "lost",
    });
    const refused = server([Response.json({ error: "another body" }, { status: 422 }), ok()]);
    await expect(publish(refused, { userId: "u", idempotencyKey: "k" })).rejects.toThrow(
      new PublishError(422, "another body"),
    );
  });

  it("takes an answer that is cut off behind its status for none", async () => {
    const cut = () => {
      const body = new ReadableStream({
        start(controller) {
          controller.enqueue(new TextEncoder().encode('{"clientCount":1,'));
          controller.error(new TypeError("terminated"));
        },
      });
      return new Response(body, { headers: { "Content-Type": "application/json" } });
    };
    const answer = publish(server([cut(), ok()]), { userId: "u", idempotencyKey: "k" });
    await pass(5_000);
    expect(await answer).toEqual({ clientCount: 1, results: [2] });
    await expect(publish(server([cut(), ok()]), { userId: "u" })).rejects.toThrow("terminated");
    await expect(publishBatch(server([cut()]), [{ userId: "u" }])).rejects.toThrow("terminated");
  });

  it("gets an answer for each message of a batch", async () => {
    const results = [
      { status: 200, clientCount: 0, results: [] },
      { status: 400, error: "userId is required" },
    ];
    const answers = await publishBatch(server([Response.json({ results })]), [
      { userId: "u" },
      { userId: "" },
    ]);
    expect(answers).toEqual([
      { clientCount: 0, results: [] },
      new PublishError(400, "userId is required"),
    ]);
  });
});
