import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { type CallsOf, call } from "../../src/actor/call.ts";
import { Client } from "./continuity.ts";
import { publish, Subscriber } from "./fanout-client.ts";
import { freshName } from "./socket.ts";

interface LineCalls {
  "~calls"?: { emit: { in: { channel: string; n: number }; out: number } };
}
const calls = (stub: unknown): CallsOf<LineCalls> => call<LineCalls>(stub as never) as never;

/** Counts the rows that an actor writes while `during` runs; an alarm that is set is a row, too. */
async function rowsOf(stub: DurableObjectStub, during: () => Promise<void>): Promise<number> {
  let rows = 0;
  let restore = () => {};
  await runInDurableObject(stub as DurableObjectStub<never>, (_, { storage }) => {
    const { kv } = storage;
    const originals = { put: kv.put, delete: kv.delete, setAlarm: storage.setAlarm };
    const counted =
      <T extends (...args: never[]) => unknown>(target: object, run: T) =>
      (...args: Parameters<T>) => {
        rows += 1;
        return run.apply(target as never, args);
      };
    Object.assign(kv, { put: counted(kv, kv.put), delete: counted(kv, kv.delete) });
    Object.assign(storage, { setAlarm: counted(storage, storage.setAlarm as never) });
    restore = () => {
      Object.assign(kv, { put: originals.put, delete: originals.delete });
      Object.assign(storage, { setAlarm: originals.setAlarm });
    };
  });
  await during();
  restore();
  return rows;
}

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
});
