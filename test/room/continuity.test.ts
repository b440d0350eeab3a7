import { evictDurableObject, runDurableObjectAlarm } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, describe, expect, inject, it, vi } from "vitest";
import { type CallsOf, call } from "../../src/actor/call.ts";
import { Client, type Line, runs } from "./continuity.ts";
import { checkContinuity } from "./continuity-model.ts";
import { freshName } from "./socket.ts";

type LineStub = DurableObjectStub<Line>;

function newLine(): LineStub {
  return env.LINE.getByName(freshName());
}

declare module "vitest" {
  interface ProvidedContext {
    /** Random sequences that a property is tried with. */
    plays: number;
  }
}

interface LineCalls {
  "~calls"?: {
    journal: { in: undefined; out: string[] };
    emit: { in: { channel: string; n: number }; out: number };
    rows: { in: undefined; out: string[] };
  };
}
const calls = (stub: unknown): CallsOf<LineCalls> => call<LineCalls>(stub as never) as never;

async function open(stub: LineStub, query: string): Promise<Client> {
  const client = new Client(stub, query);
  await client.connect();
  await client.settle();
  return client;
}

afterEach(() => {
  vi.useRealTimers();
});

describe("a session of protocol 3", () => {
  it("receives what was sent while its line was cut, once and in order, and keeps its id", async () => {
    const stub = newLine();
    const [ann, ben] = await Promise.all([open(stub, "&user=ann"), open(stub, "&user=ben")]);
    ben.emit("channel", { channel: "default", n: 1 });
    await ben.settle();
    await ann.settle();
    const { session, epoch } = ann.hello ?? {};
    await ann.cut();
    for (const n of [2, 3]) ben.emit("channel", { channel: "default", n });
    ben.emit("user", { user: "ann", n: 4 });
    ben.emit("some", { users: ["ann"], n: 5 });
    ben.emit("channel", { channel: "elsewhere", n: 6 });
    await ben.settle();
    const hello = await ann.connect();
    expect(hello).toMatchObject({ protocol: 3, session, epoch, resumed: true, replayed: 4 });
    await ann.settle();
    ben.emit("channel", { channel: "default", n: 7 });
    await ben.settle();
    await ann.settle();
    expect(ann.numbers).toEqual([1, 2, 3, 4, 5, 7]);
    expect(await calls(stub).journal()).toEqual(["came ann", "came ben", "resumed ann 4"]);
  });

  it("receives what is sent after it was resumed, also when its first close was seen awake", async () => {
    const stub = newLine();
    const [ann, ben] = await Promise.all([open(stub, "&user=ann"), open(stub, "&user=ben")]);
    for (const n of [1, 2, 3]) {
      await ann.cut();
      expect(await ann.connect()).toMatchObject({ resumed: true });
      ben.emit("channel", { channel: "default", n });
      await ben.settle();
      await ann.settle();
    }
    expect(ann.numbers).toEqual([1, 2, 3]);
  });

  it("resumes when it never received an event, at the first and at the tenth reconnect", async () => {
    const stub = newLine();
    const ann = await open(stub, "&user=ann");
    for (let i = 0; i < 10; i++) {
      await ann.cut();
      expect(await ann.connect()).toMatchObject({ resumed: true, replayed: 0 });
    }
  });

  it("resumes with nothing lost after the actor slept, while its line was cut or before", async () => {
    const stub = newLine();
    const [ann, ben] = await Promise.all([open(stub, "&user=ann"), open(stub, "&user=ben")]);
    ben.emit("channel", { channel: "default", n: 1 });
    await ben.settle();
    await ann.settle();
    await evictDurableObject(stub);
    await ann.cut();
    expect(await ann.connect()).toMatchObject({ resumed: true });
    await ann.cut();
    await evictDurableObject(stub);
    expect(await ann.connect()).toMatchObject({ resumed: true });
    ben.emit("channel", { channel: "default", n: 2 });
    await ben.settle();
    await ann.settle();
    expect(ann.numbers).toEqual([1, 2]);
  });

  it("resumes when nobody else is connected and the actor slept meanwhile", async () => {
    const stub = newLine();
    const ann = await open(stub, "&user=ann");
    await ann.cut();
    await evictDurableObject(stub);
    expect(await ann.connect()).toMatchObject({ resumed: true, replayed: 0 });
  });

  it("gets the reason restarted for events that were only in the memory of an evicted actor", async () => {
    const stub = newLine();
    const [ann, ben] = await Promise.all([open(stub, "&user=ann"), open(stub, "&user=ben")]);
    const { resume } = ann;
    ben.emit("channel", { channel: "default", n: 1 });
    await ben.settle();
    await evictDurableObject(stub);
    const hello = await ann.connect(resume);
    expect(hello).toMatchObject({ resumed: false, reason: "restarted" });
  });

  it("counts as present for the grace and disconnects once after it", async () => {
    const stub = env.SHORT_LINE.getByName(freshName());
    const ben = await open(stub as never, "&user=ben");
    const ann = await open(stub as never, "&user=ann");
    await ann.cut();
    expect(await stub.getConnectedUserIds()).toEqual(["ben", "ann"]);
    expect(await stub.getSessionCount()).toBe(2);
    await vi.waitFor(async () => {
      await runDurableObjectAlarm(stub);
      expect(await stub.getConnectedUserIds()).toEqual(["ben"]);
    });
    expect(await calls(stub).journal()).toEqual(["came ben", "came ann", "left ann"]);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 200 });
    const late = new Client(stub as never, "&user=ann");
    expect(await late.connect(ann.resume)).toMatchObject({ resumed: false, reason: "expired" });
    await ben.leave();
    expect((await calls(stub).journal()).filter((entry) => entry === "left ann")).toHaveLength(1);
  });

  it("ends at once when its client leaves with 1000", async () => {
    const stub = newLine();
    const ann = await open(stub, "&user=ann");
    const { resume } = ann;
    await ann.leave();
    expect(await calls(stub).journal()).toEqual(["came ann", "left ann"]);
    const again = new Client(stub, "&user=ann");
    expect((await again.connect(resume)).resumed).toBe(false);
  });

  it("ends at once when its client leaves with 1000 while the actor sleeps, alone or with others", async () => {
    const stub = newLine();
    const clients = await Promise.all(
      ["ann", "ben", "cy", "dan"].map((id) => open(stub, `&user=${id}`)),
    );
    await evictDurableObject(stub);
    await clients[0]?.leave();
    expect((await stub.getConnectedUserIds()).sort()).toEqual(["ben", "cy", "dan"]);
    await evictDurableObject(stub);
    await Promise.all(clients.slice(1).map((client) => client.leave()));
    expect(await stub.getConnectedUserIds()).toEqual([]);
    expect(await stub.getSessionCount()).toBe(0);
    const left = (await calls(stub).journal()).filter((entry) => entry.startsWith("left"));
    expect(left.sort()).toEqual(["left ann", "left ben", "left cy", "left dan"]);
  });

  it("is not for another user, who cannot tell whether it exists", async () => {
    const stub = newLine();
    const ann = await open(stub, "&user=ann");
    const eve = new Client(stub, "&user=eve");
    const { session, epoch } = ann.hello ?? {};
    for (const resume of [
      ann.resume,
      `${session}:0:1`,
      `nobody:${epoch}:1`,
      `${session}:${epoch}`,
    ]) {
      const hello = await eve.connect(resume);
      expect(hello).toMatchObject({ resumed: false, reason: "unknown" });
      expect(hello.session).not.toBe(session);
    }
    await ann.settle();
    expect(ann.socket?.closed).toBeNull();
  });

  it("moves to the later of two sockets, and the earlier is closed with 1001", async () => {
    const stub = newLine();
    const ann = await open(stub, "&user=ann");
    const old = ann.socket;
    expect(await ann.connect()).toMatchObject({ resumed: true });
    expect(await old?.ended()).toEqual({ code: 1001, reason: "Resumed elsewhere" });
    expect(await stub.getSessionCount()).toBe(1);
    expect(await calls(stub).journal()).toEqual(["came ann", "resumed ann 0"]);
  });

  it("goes on after a reload with a new page, which others do not notice", async () => {
    const stub = newLine();
    const ann = await open(stub, "&user=ann");
    const { session, epoch } = ann.hello ?? {};
    await ann.cut(1001);
    const page = new Client(stub, "&user=ann");
    const hello = await page.connect(`${session}:${epoch}`);
    expect(hello).toMatchObject({ session, resumed: false, reason: "reloaded" });
    expect(await calls(stub).journal()).toEqual(["came ann", "came ann"]);
  });

  it("gets the reason trimmed when the log no longer reaches back, and not when it missed nothing", async () => {
    const stub = env.SHORT_LINE.getByName(freshName()) as never;
    const [ann, ben] = await Promise.all([
      open(stub, "&user=ann&channels=quiet"),
      open(stub, "&user=ben"),
    ]);
    for (let n = 0; n < 20; n++) ben.emit("channel", { channel: "default", n });
    await ben.settle();
    expect(await ann.connect()).toMatchObject({ resumed: true });
    const { resume } = ann;
    ben.emit("channel", { channel: "quiet", n: 1 });
    for (let n = 0; n < 20; n++) ben.emit("channel", { channel: "default", n });
    await ben.settle();
    expect(await ann.connect(resume)).toMatchObject({ resumed: false, reason: "trimmed" });
  });

  it("keeps what handlers wrote into its meta, and takes what the server says of the user now", async () => {
    const stub = newLine();
    const ann = await open(stub, "&user=ann&username=Ann");
    ann.emit("note", { text: "one" });
    ann.emit("move", { channels: ["default", "side"] });
    await ann.settle();
    await ann.cut();
    const renamed = new Client(stub, "&user=ann&username=Annie");
    expect(await renamed.connect(ann.resume)).toMatchObject({ resumed: true });
    renamed.emit("meta", {}, "m");
    await renamed.settle();
    expect(renamed.frames[0]?.data).toMatchObject({
      username: "Annie",
      notes: ["one"],
      channels: ["default", "side"],
    });
  });

  it("gets the answer to an emit that came before the cut, and the emit runs once", async () => {
    const stub = newLine();
    const ann = await open(stub, "&user=ann");
    const text = freshName();
    ann.emit("run", { text }, "e1");
    await ann.socket?.caughtUp();
    await ann.connect();
    ann.emit("run", { text }, "e1");
    await ann.settle();
    expect(ann.frames.map(({ type, id, data }) => [type, id, data])).toEqual([
      ["ack", "e1", { ran: text }],
      ["ack", "e1", { ran: text }],
    ]);
    expect(runs.get(text)).toBe(1);
  });

  it("answers a question of the server after a break", async () => {
    const stub = newLine();
    const ann = await open(stub, "&user=ann");
    ann.emit("ask", { question: { q: 1 } });
    const { resume } = ann;
    await ann.socket?.event("question");
    await ann.connect(resume);
    await ann.settle();
    const [question] = ann.frames;
    expect(question?.data).toEqual({ type: "question", q: 1 });
    ann.socket?.send({ type: "ack", id: question?.id ?? "", data: 42 });
    await ann.settle();
    expect(await calls(stub).journal()).toContain("answer 42");
  });

  it("gets the reason restarted after a crash of a room that is not durable", async () => {
    const stub = newLine();
    const ann = await open(stub, "&user=ann");
    const { resume } = ann;
    await evictDurableObject(stub, { webSockets: "close" });
    const again = new Client(stub, "&user=ann");
    expect(await again.connect(resume)).toMatchObject({ resumed: false, reason: "restarted" });
    const eve = new Client(stub, "&user=eve");
    expect(await eve.connect("nobody:0123456789abcdef:1")).toMatchObject({ reason: "unknown" });
  });

  it("misses nothing after a crash of a room in which nobody was connected: each event was stored at once", async () => {
    const stub = newLine();
    const ann = await open(stub, "&user=ann");
    await ann.cut();
    for (const n of [1, 2, 3]) await calls(stub).emit({ channel: "default", n });
    await evictDurableObject(stub, { webSockets: "close" });
    expect(await ann.connect()).toMatchObject({ resumed: true, replayed: 3 });
    await ann.settle();
    expect(ann.numbers).toEqual([1, 2, 3]);
  });

  it("writes no row while every client is connected", async () => {
    const stub = newLine();
    const [ann, ben] = await Promise.all([open(stub, "&user=ann"), open(stub, "&user=ben")]);
    for (let n = 0; n < 50; n++) ann.emit("channel", { channel: "default", n });
    await ann.settle();
    await ben.settle();
    expect(await calls(stub).rows()).toEqual([]);
  });
});

describe("a session of protocol 3 in a durable room", () => {
  it("receives what it missed after a crash that took the memory and all sockets", async () => {
    const stub = env.LASTING_LINE.getByName(freshName()) as never as LineStub;
    const [ann, ben] = await Promise.all([open(stub, "&user=ann"), open(stub, "&user=ben")]);
    const { resume } = ann;
    ben.emit("channel", { channel: "default", n: 1 });
    ben.emit("user", { user: "ann", n: 2 });
    await ben.settle();
    await evictDurableObject(stub, { webSockets: "close" });
    await calls(stub).emit({ channel: "default", n: 3 });
    const again = new Client(stub, "&user=ann");
    again.numbers = [];
    expect(await again.connect(resume)).toMatchObject({ resumed: true, replayed: 3 });
    await again.settle();
    expect(again.numbers).toEqual([1, 2, 3]);
  });
});

describe("an answer that a client of a durable room missed", () => {
  it("comes again after the actor slept, to a session that still had its socket, and is not run again", async () => {
    const stub = env.LASTING_LINE.getByName(freshName()) as never as LineStub;
    const ann = await open(stub, "&user=ann");
    const { resume } = ann;
    const text = freshName();
    ann.emit("run", { text }, "the-emit");
    await ann.settle();
    await evictDurableObject(stub);
    const again = new Client(stub, "&user=ann");
    again.hello = ann.hello;
    again.frames = [];
    expect(await again.connect(resume)).toMatchObject({ resumed: true, replayed: 1 });
    again.emit("run", { text }, "the-emit");
    await again.settle();
    expect(again.frames[0]).toMatchObject({ type: "ack", id: "the-emit", data: { ran: text } });
    expect(runs.get(text)).toBe(1);
  });
});

describe("a session of a durable room without a handler for connections", () => {
  it("is resumed after a crash, also if it never sent anything and was never cut before", async () => {
    const stub = env.INCURIOUS_LINE.getByName(freshName()) as never as LineStub;
    const { resume } = await open(stub, "&user=ann");
    await evictDurableObject(stub, { webSockets: "close" });
    const again = new Client(stub, "&user=ann");
    expect(await again.connect(resume)).toMatchObject({ resumed: true });
  });
});

describe("sessions of protocol 3 under random cuts, resumes and evictions", () => {
  it.each([
    ["in memory", false],
    ["durable", true],
  ])(
    "receive everything once and in order, or a reason, with a log %s",
    async (_, durable) => {
      await checkContinuity(inject("plays"), durable);
    },
    600_000,
  );
});
