import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, describe, expect, inject, it, onTestFinished, vi } from "vitest";
import { shardName, shardOf } from "../../src/shards/layout.ts";
import { encodeEvent } from "../../src/wire/frames.ts";
import { arenaClient, arenaOf, callsTo, faults, shardCounts, shardStub } from "./arena.ts";
import type { Client } from "./continuity.ts";
import { checkShards } from "./shards-model.ts";
import { freshName } from "./socket.ts";

afterEach(() => {
  faults.clear();
  vi.useRealTimers();
});

/** A user of the shard with this number, of 4. */
function userOf(index: number, n = 0): string {
  for (let i = n * 1_000; ; i++) if (shardOf(`u${i}`, 4) === index) return `u${i}`;
}

/** One client in each of the four shards. */
async function fill(room: string): Promise<Client[]> {
  const clients = [0, 1, 2, 3].map((index) => arenaClient(room, userOf(index)));
  await Promise.all(clients.map((client) => client.connect()));
  return clients;
}

async function receives(client: Client, numbers: number[]): Promise<void> {
  await vi.waitFor(async () => {
    await client.settle();
    expect(client.numbers).toEqual(numbers);
  }, 8_000);
}

async function crash(stub: ReturnType<typeof shardStub>): Promise<void> {
  const aborted = runInDurableObject(stub, (_, state) => state.abort("Killed"));
  await expect(aborted).rejects.toThrow();
}

describe("a room with shards", () => {
  it("has all connections of a user in one actor, and the same number of shards has the same actors", async () => {
    const room = freshName();
    const clients = [0, 0, 1, 2].map((index) => arenaClient(room, userOf(index)));
    for (const client of clients) await client.connect();
    const counts = [0, 1, 2, 3].map((index) => shardStub(room, index).getSessionCount());
    expect(await Promise.all(counts)).toEqual([2, 1, 1, 0]);
  });

  it("answers for the whole room how many are there, and which users", async () => {
    const room = freshName();
    await fill(room);
    const stub = arenaOf(room);
    expect(await stub.getSessionCount()).toBe(4);
    const users = [0, 1, 2, 3].map((index) => userOf(index));
    expect((await stub.getConnectedUserIds()).sort()).toEqual([...users].sort());
  });

  it("sends an event to a channel to all of it, wherever it was emitted, once", async () => {
    const room = freshName();
    const clients = await fill(room);
    clients[1]?.emit("channel", { channel: "default", n: 7 });
    for (const client of clients) await receives(client, [7]);
    expect(await arenaOf(room).emitToChannel("default", "n", { n: 8 })).toBeGreaterThan(0);
    for (const client of clients) await receives(client, [7, 8]);
    expect(
      callsTo.get(`${room}|0`)?.filter((name) => name === "rollcall:relay").length,
    ).toBeLessThan(3);
  });

  it("leaves out the sender where an event is for the others, and only there", async () => {
    const room = freshName();
    const clients = await fill(room);
    clients[2]?.emit("others", { channel: "default", n: 1 });
    clients[2]?.emit("channel", { channel: "default", n: 2 });
    await receives(clients[2] as Client, [2]);
    for (const client of [clients[0], clients[1], clients[3]])
      await receives(client as Client, [1, 2]);
  });

  it("sends an event to a user to that user's shard only, in the order of its emitter's events", async () => {
    const room = freshName();
    const clients = await fill(room);
    const [from, to] = [clients[0] as Client, clients[3] as Client];
    for (let n = 0; n < 20; n += 2) {
      from.emit("channel", { channel: "default", n });
      from.emit("user", { user: userOf(3), n: n + 1 });
    }
    await receives(
      to,
      Array.from({ length: 20 }, (_, n) => n),
    );
    await receives(
      clients[1] as Client,
      Array.from({ length: 10 }, (_, n) => 2 * n),
    );
    await arenaOf(room).emitToUser(userOf(1), "n", { n: 99 });
    await vi.waitFor(async () => {
      await clients[1]?.settle();
      expect(clients[1]?.numbers.at(-1)).toBe(99);
    });
    await from.settle();
    expect(from.numbers).not.toContain(99);
  });

  it("replays to a client whose line broke what other shards emitted meanwhile", async () => {
    const room = freshName();
    const clients = await fill(room);
    const [from, to] = [clients[0] as Client, clients[2] as Client];
    await to.cut();
    for (let n = 0; n < 5; n++) from.emit("channel", { channel: "default", n });
    await receives(clients[1] as Client, [0, 1, 2, 3, 4]);
    expect(await to.connect()).toMatchObject({ resumed: true });
    await receives(to, [0, 1, 2, 3, 4]);
  });

  it("relays on to an actor that has slept, from one that has slept", async () => {
    const room = freshName();
    const clients = await fill(room);
    clients[0]?.emit("channel", { channel: "default", n: 1 });
    for (const client of clients) await receives(client, [1]);
    for (const index of [0, 1, 2, 3]) await evictDurableObject(shardStub(room, index));
    clients[0]?.emit("channel", { channel: "default", n: 2 });
    for (const client of clients) await receives(client, [1, 2]);
  });

  it("sends an event once to an actor whose answer was lost, even if it sleeps before the next try", async () => {
    const room = freshName();
    const clients = await fill(room);
    faults.set(`${room}|2`, "mute");
    clients[0]?.emit("channel", { channel: "default", n: 1 });
    await receives(clients[2] as Client, [1]);
    await evictDurableObject(shardStub(room, 2));
    faults.clear();
    clients[0]?.emit("channel", { channel: "default", n: 2 });
    for (const client of clients) await receives(client, [1, 2]);
  });

  it("lets a shard that is out of reach keep back only its own connections", async () => {
    const room = freshName();
    const clients = await fill(room);
    faults.set(`${room}|1`, "down");
    for (const n of [1, 2, 3]) clients[0]?.emit("channel", { channel: "default", n });
    for (const index of [0, 2, 3]) await receives(clients[index] as Client, [1, 2, 3]);
    await clients[1]?.settle();
    expect(clients[1]?.numbers).toEqual([]);
    faults.clear();
    await receives(clients[1] as Client, [1, 2, 3]);
  });

  it("closes the connections of a shard that was out of reach for a minute: what they missed is gone", async () => {
    const logs = vi.spyOn(console, "log").mockImplementation(() => {});
    onTestFinished(() => logs.mockRestore());
    const room = freshName();
    const clients = await fill(room);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() });
    faults.set(`${room}|1`, "down");
    clients[0]?.emit("channel", { channel: "default", n: 1 });
    await receives(clients[2] as Client, [1]);
    vi.setSystemTime(Date.now() + 61_000);
    await vi.waitFor(async () => {
      const gaps = await runInDurableObject(shardStub(room, 0), (_, { storage }) =>
        storage.kv.get("rollcall:gaps"),
      );
      expect(gaps).toEqual([1]);
    }, 8_000);
    // The shard that could not send sleeps, and must not forget.
    await evictDurableObject(shardStub(room, 0));
    faults.clear();
    clients[0]?.emit("channel", { channel: "default", n: 2 });
    const cut = clients[1] as Client;
    expect(await cut.socket?.ended()).toMatchObject({ code: 1001 });
    expect(await cut.connect()).toMatchObject({ resumed: false, reason: "restarted" });
    for (const index of [2, 3]) await receives(clients[index] as Client, [1, 2]);
    clients[0]?.emit("channel", { channel: "default", n: 3 });
    await receives(cut, [3]);
  });

  it("gets what a shard with a durable log had stored and not relayed when it crashed, once it is back, and no more", async () => {
    const room = `lasting-${freshName()}`;
    const clients = await fill(room);
    const [first, ...others] = clients as [Client, ...Client[]];
    first.emit("channel", { channel: "default", n: 1 });
    for (const client of clients) await receives(client, [1]);
    for (const index of [1, 2, 3]) faults.set(`${room}|${index}`, "down");
    await first.socket?.ask("channel", { channel: "default", n: 2 });
    await crash(shardStub(room, 0));
    faults.clear();
    expect(await first.connect()).toMatchObject({ resumed: true });
    for (const client of others) await receives(client, [1, 2]);
    await receives(first, [1, 2]);
    // Its next instance, also without sockets, has nothing to relay.
    await first.leave();
    await vi.waitFor(async () => expect(await shardStub(room, 0).getSessionCount()).toBe(0));
    await evictDurableObject(shardStub(room, 0));
    callsTo.clear();
    await shardStub(room, 0).cleanupStaleSessions();
    await scheduler.wait(300);
    expect(callsTo.get(`${room}|1`)).toBeUndefined();
  });

  it("has stored what was relayed to it when it answers, where its log is durable", async () => {
    const room = `lasting-${freshName()}`;
    const to = arenaClient(room, userOf(1));
    await to.connect();
    const relay = (n: number) => {
      const text = encodeEvent("n", { n }, "default");
      const events = [{ seq: n, text, scope: { channel: "default" } }];
      return { from: 0, shards: 4, epoch: "0", events };
    };
    const crashed = runInDurableObject(shardStub(room, 1), async (shard, state) => {
      // After the first, the next ones wait for a turn of the event loop before they are sent.
      for (const n of [1, 2, 3]) await shard.ingest("rollcall:relay", relay(n));
      await state.storage.sync();
      state.abort("Killed");
    });
    await expect(crashed).rejects.toThrow();
    expect(await to.connect()).toMatchObject({ resumed: true });
    await receives(to, [1, 2, 3]);
  });

  it("wakes no actor while nothing happens", async () => {
    const room = freshName();
    const clients = await fill(room);
    clients[0]?.emit("channel", { channel: "default", n: 1 });
    for (const client of clients) await receives(client, [1]);
    callsTo.clear();
    await scheduler.wait(1_500);
    expect([...callsTo.keys()].filter((name) => name.startsWith(room))).toEqual([]);
  });
});

describe("another number of shards", () => {
  const setShards = (room: string, shards: number) => shardCounts.set(room, shards);

  /** Lets the actors of a room sleep: the next instances read the number of shards anew. */
  async function sleep(room: string, shards: number): Promise<void> {
    const names = Array.from({ length: shards }, (_, i) => shardName(room, i));
    for (const name of shards === 1 ? [room] : [room, ...names]) {
      const stub = env.ARENA.getByName(name);
      await stub.getSessionCount();
      await evictDurableObject(stub);
    }
  }

  it.each([
    [4, 8],
    [8, 4],
    [4, 1],
    [1, 4],
  ])(
    "closes old connections with 1001, of %i shards as of %i, once one actor wakes; resumes are answered with restarted",
    async (before, after) => {
      const room = freshName();
      setShards(room, before);
      const users = [0, 1, 2, 3].map((index) => userOf(index));
      const clients = users.map((user) => arenaClient(room, user));
      for (const client of clients) await client.connect();
      await sleep(room, before);
      setShards(room, after);
      const newcomer = arenaClient(room, "newcomer");
      await newcomer.connect();
      for (const client of clients) {
        expect(await client.socket?.ended()).toMatchObject({ code: 1001 });
      }
      for (const client of clients) {
        expect(await client.connect()).toMatchObject({ resumed: false, reason: "restarted" });
      }
      expect(await arenaOf(room).getSessionCount()).toBe(5);
      newcomer.emit("channel", { channel: "default", n: 1 });
      for (const client of clients) await receives(client, [1]);
    },
  );
});

describe("events across shards", () => {
  const more = inject("plays") > 50;
  // 15 in `npm test`, 300 in `npm run test:slow`: each takes half a second.
  it.each([
    ["in memory", more ? 300 : 15, false],
    ["durable", more ? 100 : 10, true],
  ])(
    "arrive once and in the order of their emitter, whatever happens to lines and shards, with a log %s",
    async (_, runs, isDurable) => {
      const logs = vi.spyOn(console, "log").mockImplementation(() => {});
      onTestFinished(() => logs.mockRestore());
      await checkShards(runs, isDurable);
    },
    900_000,
  );
});
