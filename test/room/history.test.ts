import { evictDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { call } from "../../src/actor/call.ts";
import type { MessageFrame } from "../../src/wire/frames.ts";
import { Client } from "./continuity.ts";
import { freshName } from "./socket.ts";

/** A room with a durable log in which `count` events of two channels have been emitted. */
async function room(count = 6) {
  const stub = env.LASTING_LINE.getByName(freshName()) as unknown as DurableObjectStub;
  const emit = (n: number, channel = "default") =>
    (call(stub as never) as { emit(data: unknown): Promise<number> }).emit({ channel, n });
  for (let n = 1; n <= count; n++) await emit(n, n % 2 ? "default" : "side");
  const join = async (more = "", query = "") => {
    const client = new Client(stub as never, query);
    const hello = await client.connect(undefined, more);
    await client.settle();
    return { client, hello };
  };
  return { stub, emit, join };
}

describe("a client that asks for history on connecting", () => {
  it("receives the last n events of its channels before live ones, with growing numbers", async () => {
    const { emit, join } = await room();
    const { client, hello } = await join("&rewind=2");
    expect(hello).toMatchObject({ resumed: false, replayed: 2, logEpoch: expect.any(String) });
    await emit(7);
    await client.settle();
    expect(client.numbers).toEqual([3, 5, 7]);
    const both = await join("&rewind=100", "&channels=default,side");
    expect(both.client.numbers).toEqual([1, 2, 3, 4, 5, 6, 7]);
  });

  it("receives them also after the actor slept and after a crash", async () => {
    const { stub, join } = await room();
    await evictDurableObject(stub);
    expect((await join("&rewind=2")).client.numbers).toEqual([3, 5]);
    await evictDurableObject(stub, { webSockets: "close" });
    expect((await join("&rewind=2")).client.numbers).toEqual([3, 5]);
  });

  it("misses nothing and gets nothing twice while its onConnect runs", async () => {
    const { stub, emit, join } = await room(3);
    const client = new Client(stub as never, "&username=slow");
    const connecting = client.connect(undefined, "&rewind=10");
    const { client: other } = await join();
    for (let n = 10; n < 20; n++) {
      other.emit("channel", { channel: "default", n });
      await scheduler.wait(20);
    }
    await connecting;
    await other.settle();
    await emit(20);
    await client.settle();
    expect(client.numbers).toEqual([1, 3, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]);
  });

  it("reads nothing when it is refused in the end", async () => {
    const { stub } = await room();
    const client = new Client(stub as never, "&username=refused");
    await expect(client.connect(undefined, "&rewind=10")).rejects.toThrow();
  });

  it("receives what followed a cursor, and a reason with the last n where that is not known", async () => {
    const { join } = await room();
    const { hello } = await join("&rewind=1");
    const since = `${hello.logEpoch}:${hello.seq - 2}`;
    expect((await join(`&since=${since}`)).client.numbers).toEqual([3, 5]);
    const gone = await join("&since=deadbeef:1&rewind=1");
    expect(gone.hello).toMatchObject({ reason: "restarted", replayed: 1 });
    expect(gone.client.numbers).toEqual([5]);
    expect((await join("&since=nonsense")).hello).toMatchObject({ reason: "unknown", replayed: 0 });
  });

  it("gets what it missed instead, once it resumes", async () => {
    const { emit, join } = await room();
    const { client } = await join("&rewind=2");
    await client.cut();
    await emit(7);
    const hello = await client.connect(client.resume, "&rewind=2");
    await client.settle();
    expect(hello).toMatchObject({ resumed: true, replayed: 1 });
    expect(client.numbers).toEqual([3, 5, 7]);
  });

  it("gets none in a room whose log is not durable", async () => {
    const stub = env.LINE.getByName(freshName());
    const first = new Client(stub as never);
    await first.connect();
    first.emit("channel", { channel: "default", n: 1 });
    await first.settle();
    const second = new Client(stub as never);
    expect(await second.connect(undefined, "&rewind=5")).not.toHaveProperty("logEpoch");
    await second.settle();
    expect(second.numbers).toEqual([]);
    second.emit("rollcall.history", {}, "h1");
    await second.settle();
    expect(second.frames).toMatchObject([{ type: "nack", error: { code: "forbidden" } }]);
  });
});

describe("a page of history", () => {
  const ask = async (client: Client, data: unknown, id: string) => {
    client.emit("rollcall.history", data, id);
    await client.settle();
    const answer = client.frames.find((frame) => frame.id === id);
    if (answer?.type === "nack") return answer.error?.code;
    const { events, before } = (answer as MessageFrame).data as {
      events: { frame: { data: { n: number } } }[];
      before: string | null;
    };
    return { numbers: events.map(({ frame }) => frame.data.n), before };
  };

  it("leads backwards to the oldest event of the client's channels, and no other", async () => {
    const { client } = await (await room(7)).join();
    const first = await ask(client, { limit: 2 }, "1");
    expect(first).toMatchObject({ numbers: [5, 7], before: expect.any(String) });
    const before = (first as { before: string }).before;
    expect(await ask(client, { limit: 5, before }, "2")).toEqual({ numbers: [1, 3], before: null });
  });

  it("is refused for a cursor of another log, and to a client that asks without end", async () => {
    const { client } = await (await room()).join();
    expect(await ask(client, { before: "deadbeef:3" }, "1")).toBe("not_found");
    expect(await ask(client, { before: 3 }, "2")).toBe("not_found");
    const answers = [];
    for (let i = 0; i < 30; i++) answers.push(await ask(client, {}, `r${i}`));
    expect(answers).toContain("rate_limited");
  });

  it("ends before 256 KiB, with at least one event", async () => {
    const { stub, join } = await room(0);
    const { client } = await join();
    for (const size of [200_000, 200_000, 300_000]) {
      await (call(stub as never) as { emit(data: unknown): Promise<number> }).emit({
        channel: "default",
        n: "x".repeat(size),
      });
    }
    const lengths: number[] = [];
    let before: string | null | undefined;
    for (let i = 0; i < 5 && before !== null; i++) {
      const page = (await ask(client, before ? { before } : {}, `${i}`)) as {
        numbers: unknown[];
        before: string | null;
      };
      lengths.push(page.numbers.length);
      before = page.before;
    }
    expect(lengths).toEqual([1, 1, 1]);
  });
});

describe("the log in its room", () => {
  it("is read by channel, from a cursor, and from the end", async () => {
    const { client } = await (await room()).join();
    const read = async (options: unknown, id: string) => {
      client.emit("read", options, id);
      await client.settle();
      return client.frames.find((frame) => frame.id === id)?.data;
    };
    const { events } = await read({ limit: 2 }, "1");
    expect(events).toMatchObject([
      { channel: "default", event: "n", data: { n: 5 }, atMs: expect.any(Number) },
      { channel: "side", event: "n", data: { n: 6 } },
    ]);
    const { cursor } = (await read({ channel: "side", limit: 3 }, "2")).events[0];
    const later = await read({ channel: "side", after: cursor, limit: 1 }, "3");
    expect(later.events).toMatchObject([{ data: { n: 4 } }]);
    expect(await read({ after: "deadbeef:1" }, "4")).toMatchObject({ reason: "restarted" });
  });
});

describe("a resume with another token", () => {
  it("replays no event of a channel that the server does not give any more", async () => {
    const { stub, emit } = await room(0);
    const client = new Client(stub as never, "&channels=default,side");
    await client.connect();
    await client.cut();
    await emit(1, "default");
    await emit(2, "side");
    const again = new Client(stub as never, "&channels=default");
    again.hello = client.hello;
    again.cursor = client.cursor;
    expect(await again.connect()).toMatchObject({ resumed: true });
    await again.settle();
    await emit(3, "side");
    await again.settle();
    expect(again.numbers).toEqual([1]);
  });
});
