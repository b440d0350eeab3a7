import { describe, expect, it } from "vitest";
import type { DroppedMessage, VeraniClient } from "../../client/client.ts";
import { RollcallError } from "../../client/client.ts";
import { attempts, connected, installFakes, latest, newClient, pass, pick } from "./client-fake.ts";

installFakes();

const failure = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    (data) => ({ resolved: data }),
    (error) => error,
  );

const user = (userId: string, devices = 1, status = "online") => ({
  userId,
  username: userId.toUpperCase(),
  devices,
  status,
});

describe("hearing", () => {
  it("takes single frames and lists of frames, wrapped as Verani does or plain, in order", async () => {
    const { client, socket } = await connected();
    const heard: unknown[] = [];
    client.on("a", (data) => heard.push(data));
    client.on("b", (data) => heard.push(data));
    socket.say({ type: "event", channel: "default", data: { type: "a", n: 1 } });
    socket.say([
      { type: "b", channel: "default", data: { type: "not the name", n: 2 } },
      { type: "event", channel: "default", data: { type: "a", n: 3 } },
      { type: "b", data: [4] },
    ]);
    expect(heard).toEqual([
      { type: "a", n: 1 },
      { type: "not the name", n: 2 },
      { type: "a", n: 3 },
      [4],
    ]);
  });

  it("tells all who listen, some once, and not those who left", async () => {
    const { client, socket } = await connected();
    const heard: string[] = [];
    const left = () => heard.push("left");
    client.on("a", () => heard.push("on"));
    client.once("a", () => heard.push("once"));
    client.on("a", left);
    client.once("a", left);
    client.off("a", left);
    client.off("never heard of", left);
    const both = () => heard.push("both");
    client.on("a", both);
    client.once("a", both);
    socket.say({ type: "a" });
    socket.say({ type: "a" });
    expect(heard).toEqual(["on", "once", "both", "on", "both"]);
  });

  it("lets a once handler wait for the next one again", async () => {
    const { client, socket } = await connected();
    let heard = 0;
    const again = () => {
      heard++;
      client.once("a", again);
    };
    client.once("a", again);
    socket.say({ type: "a" });
    expect(heard).toBe(1);
    socket.say({ type: "a" });
    expect(heard).toBe(2);
  });

  it("spares the other handlers one that throws or rejects, and tells onError", async () => {
    const { client, socket } = await connected();
    const heard: string[] = [];
    const errors: unknown[] = [];
    client.onError((error) => errors.push(error));
    client.on("a", () => {
      throw new Error("thrown");
    });
    client.on("a", async () => {
      throw new Error("rejected");
    });
    client.on("a", () => heard.push("heard"));
    socket.say([{ type: "a" }, { type: "a" }]);
    await pass();
    expect(heard).toEqual(["heard", "heard"]);
    expect(errors).toHaveLength(2);
    expect(client.isConnected()).toBe(true);
  });

  it("survives whatever is no frame", async () => {
    const { client, socket } = await connected();
    const heard: unknown[] = [];
    client.on("a", (data) => heard.push(data));
    client.on("pong", (data) => heard.push(data));
    for (const bad of [
      "",
      "{",
      "null",
      "17",
      '"a"',
      "[]",
      "[[]]",
      '{"type":"pong"}',
      '{"type":7}',
      '{"data":{}}',
    ]) {
      socket.say(bad);
    }
    socket.dispatchEvent(new MessageEvent("message", { data: new ArrayBuffer(8) }));
    socket.say([null, { type: "a", data: 1 }, 7]);
    expect(heard).toEqual([1]);
    expect(client.isConnected()).toBe(true);
  });

  it("ends in the middle of a list when a handler leaves", async () => {
    const { client, socket } = await connected();
    const heard: number[] = [];
    client.on("a", (n: number) => {
      heard.push(n);
      client.disconnect();
    });
    socket.say([
      { type: "a", data: 1 },
      { type: "a", data: 2 },
    ]);
    expect(heard).toEqual([1]);
  });

  it("tells a log what happens, when asked", async () => {
    const told: string[] = [];
    const { socket } = await connected({ log: (event) => told.push(event) });
    socket.end(1006);
    expect(told).toEqual(expect.arrayContaining(["state", "close"]));
  });
});

describe("emitting", () => {
  it("sends at once while connected", async () => {
    const { client, socket } = await connected();
    client.emit("chat.message", { text: "hi" });
    client.emit("ready");
    expect(socket.frames).toEqual([
      { type: "chat.message", data: { text: "hi" } },
      { type: "ready" },
    ]);
  });

  it("keeps what is emitted while away, as it was then, and sends it in order first", async () => {
    const client = newClient();
    client.onStateChange((state) => client.emit("state", state));
    const data = { n: 1 };
    client.emit("a", data);
    data.n = 2;
    client.emit("a", data);
    client.onOpen(() => client.emit("open"));
    await pass();
    latest().accept();
    expect(latest().frames.map(({ type, data }) => [type, data])).toEqual([
      ["a", { n: 1 }],
      ["a", { n: 2 }],
      ["state", "connected"],
      ["open", undefined],
    ]);
  });

  it("keeps what is emitted while the socket is closing", async () => {
    pick(0);
    const { client, socket } = await connected();
    socket.readyState = 2;
    client.emit("a");
    socket.end(1001);
    await pass();
    latest().accept();
    expect([socket.frames, latest().frames]).toEqual([[], [{ type: "a" }]]);
  });

  it("drops the oldest beyond maxQueueSize and says what it dropped", async () => {
    const client = newClient({ maxQueueSize: 3 });
    const dropped: DroppedMessage[] = [];
    client.onDropped((message) => dropped.push(message));
    for (let n = 1; n <= 5; n++) client.emit("a", n);
    await pass();
    latest().accept();
    expect(latest().frames.map(({ data }) => data)).toEqual([3, 4, 5]);
    expect(dropped).toEqual([
      { type: "a", data: 1, reason: "full" },
      { type: "a", data: 2, reason: "full" },
    ]);
  });

  it("keeps 100 by default, none with 0, and drops nothing while connected", async () => {
    const dropped: unknown[] = [];
    const client = newClient();
    client.onDropped(({ data }) => dropped.push(data));
    for (let n = 0; n < 101; n++) client.emit("a", n);
    expect(dropped).toEqual([0]);

    const none = newClient({ maxQueueSize: 0 });
    none.onDropped(({ data }) => dropped.push(data));
    none.emit("a", "away");
    expect(dropped).toEqual([0, "away"]);
    await pass();
    latest().accept();
    none.emit("a", "here");
    expect(dropped).toEqual([0, "away"]);
    expect(latest().frames).toEqual([{ type: "a", data: "here" }]);
  });

  it("says what close throws away; disconnect keeps it for reconnect", async () => {
    const client = newClient();
    const dropped: DroppedMessage[] = [];
    client.onDropped((message) => dropped.push(message));
    client.emit("a", 1);
    client.disconnect();
    expect(dropped).toEqual([]);
    client.reconnect();
    await pass();
    latest().accept();
    expect(latest().frames).toEqual([{ type: "a", data: 1 }]);
    client.disconnect();
    client.emit("a", 2);
    client.close();
    expect(dropped).toEqual([{ type: "a", data: 2, reason: "closed" }]);
  });
});

describe("asking the server", () => {
  it("resolves to the ack's data, each question to its own", async () => {
    const { client, socket } = await connected();
    const first = client.emitWithAck("add", { a: 1 });
    const second = client.emitWithAck("add", { a: 2 });
    const [one, two] = socket.frames;
    expect(one).toMatchObject({ type: "add", data: { a: 1 }, id: expect.any(String) });
    expect(one?.id).not.toBe(two?.id);
    socket.say([
      { type: "ack", id: two?.id, data: "second" },
      { type: "ack", id: one?.id, data: null },
    ]);
    expect(await Promise.all([first, second])).toEqual([null, "second"]);
  });

  it("rejects with the code, message and path of a nack", async () => {
    const { client, socket } = await connected();
    const answer = failure(client.emitWithAck("add"));
    const error = { code: "invalid_data", message: "a is missing", path: "a" };
    socket.say({ type: "nack", id: socket.frames[0]?.id, error });
    expect(await answer).toBeInstanceOf(RollcallError);
    expect(await answer).toMatchObject(error);
  });

  it("rejects with a code of the app's own and its status, and with 422 for one without", async () => {
    const { client, socket } = await connected();
    const answers = [failure(client.emitWithAck("buy")), failure(client.emitWithAck("buy"))];
    const error = { code: "out_of_stock", message: "Sold out", status: 409 };
    const [first, second] = socket.frames;
    socket.say({ type: "nack", id: first?.id, error });
    socket.say({ type: "nack", id: second?.id, error: { code: "newer", message: "New" } });
    expect(await answers[0]).toBeInstanceOf(RollcallError);
    expect(await answers[0]).toMatchObject({ ...error, closeCode: 1013 });
    expect(await answers[1]).toMatchObject({ code: "newer", status: 422, closeCode: 4400 });
  });

  it("rejects with timeout, and lets a late answer pass", async () => {
    const { client, socket } = await connected();
    const answer = failure(client.emitWithAck("add", {}, { timeoutMs: 500 }));
    const byDefault = failure(client.emitWithAck("add"));
    const heard: unknown[] = [];
    client.on("ack", (data) => heard.push(data));
    await pass(499);
    expect(await Promise.race([answer, "waiting"])).toBe("waiting");
    await pass(1);
    expect(await answer).toMatchObject({ code: "timeout" });
    socket.say({ type: "ack", id: socket.frames[0]?.id, data: 1 });
    expect(heard).toEqual([]);
    for (let n = 0; n < 9; n++) {
      await pass(1_000);
      socket.say({ type: "pong" });
    }
    expect(await Promise.race([byDefault, "waiting"])).toBe("waiting");
    await pass(500);
    expect(await byDefault).toMatchObject({ code: "timeout" });
  });

  it("rejects with disconnected when the connection is lost before the answer", async () => {
    const { client, socket } = await connected();
    const answer = failure(client.emitWithAck("add"));
    socket.end(1006);
    expect(await answer).toMatchObject({ code: "disconnected" });
  });

  it("sends after a loss what had not been sent, within its time", async () => {
    pick(0);
    const { client, socket } = await connected();
    socket.end(1006);
    const answer = failure(client.emitWithAck("add"));
    await pass();
    latest().end(1006);
    await pass();
    latest().accept();
    latest().say({ type: "ack", id: latest().frames[0]?.id, data: 5 });
    expect(await answer).toEqual({ resolved: 5 });
  });

  it("does not send what nobody waits for any more", async () => {
    const client = newClient();
    const answer = failure(client.emitWithAck("add", {}, { timeoutMs: 500 }));
    client.emit("a");
    await pass(500);
    latest().accept();
    expect(await answer).toMatchObject({ code: "timeout" });
    expect(latest().frames).toEqual([{ type: "a" }]);
  });

  it.each([
    ["disconnect", (client: VeraniClient) => client.disconnect()],
    ["a close that is for good", () => latest().end(4403)],
  ])("rejects what was not sent either on %s", async (_, end) => {
    const client = newClient();
    const unsent = failure(client.emitWithAck("add"));
    await pass();
    end(client);
    expect(await unsent).toMatchObject({ code: "disconnected" });
    client.reconnect();
    await pass();
    latest().accept();
    expect([attempts(), latest().frames]).toEqual([2, []]);
  });

  it("rejects a question that the queue has no room for", async () => {
    const client = newClient({ maxQueueSize: 1 });
    const answer = failure(client.emitWithAck("add"));
    client.emit("a");
    expect(await answer).toMatchObject({ code: "disconnected" });
  });

  it("rejects data that JSON cannot hold, and stays usable", async () => {
    const { client, socket } = await connected();
    expect(await failure(client.emitWithAck("add", { n: 1n }))).toBeInstanceOf(TypeError);
    expect(() => client.emit("add", { n: 1n })).toThrow(TypeError);
    client.emit("a");
    expect(socket.frames).toEqual([{ type: "a" }]);
  });
});

describe("asked by the server", () => {
  const ask = { type: "event", channel: "default", data: { type: "sum", a: 1, b: 2 }, id: "q1" };

  it.each([
    ["a value", ({ a, b }: { a: number; b: number }) => a + b],
    ["a promise", async ({ a, b }: { a: number; b: number }) => a + b],
  ])("answers with %s that the handler returns", async (_, handler) => {
    const { client, socket } = await connected();
    client.on("sum", handler);
    socket.say(ask);
    await pass();
    expect(socket.frames).toEqual([{ type: "ack", id: "q1", data: 3 }]);
  });

  it("answers with the first value that a handler has, once, else with null", async () => {
    const { client, socket } = await connected();
    client.on("sum", () => undefined);
    socket.say(ask);
    await pass();
    client.on("sum", () => "first");
    client.on("sum", () => "second");
    socket.say({ ...ask, id: "q2" });
    await pass();
    expect(socket.frames).toEqual([
      { type: "ack", id: "q1", data: null },
      { type: "ack", id: "q2", data: "first" },
    ]);
  });

  it.each([
    ["its code", new RollcallError("conflict", "Taken"), { code: "conflict", message: "Taken" }],
    [
      "no detail of a bug",
      new Error("secret"),
      { code: "internal", message: expect.not.stringContaining("secret") },
    ],
  ])("refuses with %s when a handler throws", async (_, thrown, error) => {
    const { client, socket } = await connected();
    client.on("sum", () => {
      throw thrown;
    });
    socket.say(ask);
    await pass();
    expect(socket.frames).toEqual([{ type: "nack", id: "q1", error }]);
  });

  it("refuses what nobody listens to, also after the last one has left", async () => {
    const { client, socket } = await connected();
    const handler = () => 1;
    client.on("sum", handler);
    client.off("sum", handler);
    socket.say(ask);
    await pass();
    expect(socket.frames).toMatchObject([
      { type: "nack", id: "q1", error: { code: "unknown_event" } },
    ]);
  });

  it("does not answer on the next connection", async () => {
    pick(0);
    const { client, socket } = await connected();
    let answer: (value: number) => void = () => {};
    client.on("sum", () => new Promise((resolve) => (answer = resolve)));
    socket.say(ask);
    socket.end(1006);
    await pass();
    latest().accept();
    answer(3);
    await pass();
    expect([socket.frames, latest().frames]).toEqual([[], []]);
  });

  it("does not answer where no answer is asked for", async () => {
    const { client, socket } = await connected();
    client.on("sum", () => 3);
    client.on("sum", async () => 3);
    socket.say({ type: "sum", data: {} });
    await pass();
    expect(socket.frames).toEqual([]);
  });
});

describe("presence", () => {
  const sync = {
    type: "event",
    data: {
      type: "presence.sync",
      users: [user("alice"), user("bob", 2)],
      totalUsers: 2,
      totalConnections: 3,
    },
  };
  const diff = (data: object) => ({
    type: "event",
    data: { type: "presence.diff", joins: [], leaves: [], updates: [], timestamp: 7, ...data },
  });

  async function present() {
    const { client, socket } = await connected();
    const heard: unknown[] = [];
    for (const name of ["online", "offline", "update", "status"]) {
      client.on(`presence.${name}`, (data) => heard.push(data));
    }
    socket.say(sync);
    return { client, socket, heard };
  }

  it("hands a diff over as the single events that Verani's clients know", async () => {
    const { client, socket, heard } = await present();
    socket.say([
      diff({
        joins: [user("carol")],
        leaves: [{ userId: "bob", username: "BOB" }],
        updates: [{ userId: "alice", devices: 3, status: "busy" }],
      }),
    ]);
    expect(heard).toEqual([
      { type: "presence.offline", userId: "bob", username: "BOB", timestamp: 7 },
      { type: "presence.online", ...user("carol"), timestamp: 7 },
      { type: "presence.update", userId: "alice", username: "ALICE", devices: 3, timestamp: 7 },
      { type: "presence.status", userId: "alice", username: "ALICE", status: "busy", timestamp: 7 },
    ]);
    expect([...client.roster.values()]).toEqual([user("alice", 3, "busy"), user("carol")]);
  });

  it("tells nothing twice: what the sync held already is no news", async () => {
    const { socket, heard } = await present();
    socket.say(diff({ joins: [user("alice")], leaves: [{ userId: "zoe", username: "ZOE" }] }));
    expect(heard).toEqual([]);
    socket.say(diff({ joins: [user("bob", 3)] }));
    expect(heard).toMatchObject([{ type: "presence.update", userId: "bob", devices: 3 }]);
  });

  it("hands the diff itself to those who listen to it", async () => {
    const { client, socket, heard } = await present();
    const diffs: unknown[] = [];
    client.on("presence.diff", (data) => diffs.push(data));
    const frame = diff({ joins: [user("carol")] });
    socket.say(frame);
    expect(diffs).toEqual([frame.data]);
    expect(heard).toHaveLength(1);
  });

  it("folds single events in, as servers without diffs send them", async () => {
    const { client, socket, heard } = await present();
    const single = (event: string, data: object) => socket.say({ type: event, data });
    single("presence.online", { ...user("carol"), timestamp: 1 });
    single("presence.update", { userId: "bob", username: "BOB", devices: 1, timestamp: 2 });
    single("presence.status", { userId: "bob", username: "BOB", status: "away", timestamp: 3 });
    single("presence.offline", { userId: "alice", username: "ALICE", timestamp: 4 });
    expect([...client.roster.values()]).toEqual([user("bob", 1, "away"), user("carol")]);
    expect(heard).toHaveLength(4);
  });

  it("starts from each sync anew", async () => {
    const { client, socket } = await present();
    const data = { users: [user("dave")], totalUsers: 1, totalConnections: 1 };
    socket.say({ type: "presence.sync", data });
    expect([...client.roster.keys()]).toEqual(["dave"]);
  });

  it("lets a room mean something else by these names", async () => {
    const { client, socket } = await present();
    const heard: unknown[] = [];
    for (const name of ["presence.sync", "presence.diff", "presence.online"]) {
      client.on(name, (data) => heard.push(data));
      socket.say({ type: name, data: 7 });
      socket.say({ type: name });
    }
    expect(heard).toEqual([7, undefined, 7, undefined, 7, undefined]);
    expect(client.isConnected()).toBe(true);
  });
});
