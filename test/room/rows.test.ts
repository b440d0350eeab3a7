import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { type CallsOf, call } from "../../src/actor/call.ts";
import { rowsOf } from "../../testing/room.ts";
import { Client } from "./continuity.ts";
import { publish, Subscriber } from "./fanout-client.ts";
import { connect, freshName, type TestSocket } from "./socket.ts";

interface LineCalls {
  "~calls"?: { emit: { in: { channel: string; n: number }; out: number } };
}
const calls = (stub: unknown): CallsOf<LineCalls> => call<LineCalls>(stub as never) as never;

async function open(stub: DurableObjectStub, query: string): Promise<Client> {
  const client = new Client(stub, query);
  await client.connect();
  await client.settle();
  return client;
}

describe("the rows of", () => {
  it("a durable event are one for each flush, however many events it has", async () => {
    const stub = env.LASTING_LINE.getByName(freshName());
    const ann = await open(stub, "&user=ann");
    const alone = await rowsOf(stub, async () => {
      for (let n = 0; n < 20; n++) {
        await calls(stub).emit({ channel: "default", n });
        await ann.settle();
        await scheduler.wait(25);
      }
    });
    const together = await rowsOf(stub, async () => {
      for (let n = 0; n < 200; n++) ann.emit("self", { n });
      await ann.settle();
      await scheduler.wait(50);
    });
    expect(alone).toBeLessThanOrEqual(20);
    expect(alone).toBeGreaterThan(0);
    expect(together).toBeLessThanOrEqual(3);
  });

  it("a lost session are few", async () => {
    const stub = env.LINE.getByName(freshName());
    const ann = await open(stub, "&user=ann");
    const ben = await open(stub, "&user=ben");
    const accompanied = await rowsOf(stub, async () => {
      await ann.cut();
      await ben.settle();
      for (let n = 0; n < 50; n++) ben.emit("channel", { channel: "default", n });
      await ben.settle();
      await ann.connect();
      await ann.settle();
    });
    await ann.leave();
    await ben.settle();
    const alone = await rowsOf(stub, async () => {
      await ben.cut();
      await scheduler.wait(50);
      await ben.connect();
      await ben.settle();
    });
    // The alarm for the end of the grace, and what was sent meanwhile.
    expect(accompanied).toBeLessThanOrEqual(4);
    expect(alone).toBeLessThanOrEqual(3);
  });

  it("a publish are one, with an idempotency key too", async () => {
    const user = `user-${crypto.randomUUID()}`;
    const subscriber = await Subscriber.connect(user);
    await subscriber.subscribe("*");
    const stub = env.FANOUT.getByName(user);
    const plain = await rowsOf(stub, async () => {
      for (let n = 0; n < 10; n++) await publish(user, { type: "x", payload: n });
    });
    const keyed = await rowsOf(stub, async () => {
      for (let n = 0; n < 10; n++)
        await publish(user, { type: "x", payload: n }, { "Idempotency-Key": crypto.randomUUID() });
    });
    expect(plain).toBe(10);
    expect(keyed).toBeLessThanOrEqual(12);
  });

  describe("a user who joins an occupied room and leaves it", () => {
    /** Rows of the room and of the user's actor, and calls of both, for a join and for the leave. */
    async function costOf(namespace: "BOARD" | "PRESENCE", room: string) {
      const stub = env[namespace].getByName(room) as unknown as DurableObjectStub;
      const user = freshName();
      const actor = env.FANOUT.getByName(user);
      const enter = (who: string) =>
        namespace === "BOARD"
          ? connect(stub as never, `/board?v=1&user=${who}`)
          : connect(null, `/ws/presence?v=1&room=${room}&token=user:${who}`);
      await enter("first");
      await scheduler.wait(100);
      // The name of the actor is stored once.
      await actor.ingest("report", {
        ...{ binding: "PRESENCE", room: "other", atMs: 1, isPresent: true, isListed: false },
      });
      const measure = async (during: () => Promise<unknown>) => {
        const calls = async () => (await actor.inspect()).wakeUps.rpc;
        const before = await calls();
        let inRoom = 0;
        const inActor = await rowsOf(actor as never, async () => {
          inRoom = await rowsOf(stub, async () => {
            await during();
            await scheduler.wait(300);
          });
        });
        return { inRoom, inActor, calls: (await calls()) - before };
      };
      const joined: TestSocket[] = [];
      const join = await measure(async () => joined.push(await enter(user)));
      const leave = await measure(async () => joined[0]?.close());
      return { join, leave };
    }
    const nothing = { inRoom: 0, inActor: 0, calls: 0 };

    it("are none without directory and webhooks, and no calls", async () => {
      expect(await costOf("BOARD", freshName())).toEqual({ join: nothing, leave: nothing });
    });

    it("are two for each with the directory: one in the room, one in the user's actor, by one call", async () => {
      const each = { inRoom: 1, inActor: 1, calls: 1 };
      expect(await costOf("PRESENCE", freshName())).toEqual({ join: each, leave: each });
    });

    it("are four for each with a webhook: the roster, the log, the batch and its delivery", async () => {
      const each = { inRoom: 4, inActor: 0, calls: 0 };
      expect(await costOf("BOARD", `hook-${freshName()}`)).toEqual({ join: each, leave: each });
    });

    it("are two for each where changes are only kept", async () => {
      const each = { inRoom: 2, inActor: 0, calls: 0 };
      expect(await costOf("BOARD", `pull-${freshName()}`)).toEqual({ join: each, leave: each });
    });

    it("are one more for a leave with both, until it is reported", async () => {
      expect(await costOf("PRESENCE", `pull-${freshName()}`)).toEqual({
        join: { inRoom: 2, inActor: 1, calls: 1 },
        leave: { inRoom: 3, inActor: 1, calls: 1 },
      });
    });
  });
});
