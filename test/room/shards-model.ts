/**
 * A property of rooms with shards: random emits, cuts and resumes, and shards that are slow, out of
 * reach, on old code, evicted or killed, beside a model that knows what each client must have received.
 */
import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import fc from "fast-check";
import { expect } from "vitest";
import { shardOf } from "../../src/shards/layout.ts";
import { arenaClient, type Fault, faults, shardStub } from "./arena.ts";
import type { Client } from "./continuity.ts";
import { freshName } from "./socket.ts";

const SHARDS = 4;
const USERS = ["ann", "ben", "cy", "fay", "gus", "hal", "joe", "sue"];
/** Numbers of one emitter: those of another are so far away. */
const STRIDE = 1_000_000;
const PATIENCE_MS = 10_000;

type Step =
  | { do: "emit" | "user"; who: number; whom: number; times: number }
  | { do: "cut" | "resume"; who: number }
  | { do: "fault"; shard: number; fault: Fault }
  | { do: "mend" | "evict" | "kill"; shard: number };

const who = fc.nat({ max: USERS.length - 1 });
const shard = fc.nat({ max: SHARDS - 1 });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constantFrom("emit", "emit", "user"),
      who,
      whom: who,
      times: fc.integer({ min: 1, max: 5 }),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constantFrom("cut", "resume"), who }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant("fault" as const),
      shard,
      fault: fc.constantFrom<Fault>("slow", "mute", "down", "old"),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constantFrom("mend", "evict", "evict", "kill"), shard }),
  },
);

interface Known {
  client: Client;
  shard: number;
  isConnected: boolean;
  /** Numbers that it must have received since its session began. */
  expected: Set<number>;
  /** Numbers that it may have received: their shard was killed before it could relay them. */
  possible: Set<number>;
  /** The shard was killed: it has no session of a client that was connected. */
  isShaken: boolean;
  /** It was not connected then: the shard may have stored its session, and then all that it missed. */
  mayResume: boolean;
}

async function play(steps: readonly Step[], isDurable: boolean): Promise<void> {
  faults.clear();
  const room = isDurable ? `lasting-${freshName()}` : freshName();
  const all: Known[] = USERS.map((user) => ({
    client: arenaClient(room, user),
    shard: shardOf(user, SHARDS),
    isConnected: true,
    expected: new Set(),
    possible: new Set(),
    isShaken: false,
    mayResume: false,
  }));
  for (const { client } of all) await client.connect();
  let count = 0;
  /** Numbers that may not have left their shard yet, by shard. */
  const unsure = Array.from({ length: SHARDS }, () => new Set<number>());

  async function emit(one: Known, whom: Known | undefined, emitter: number): Promise<void> {
    if (!one.isConnected) return;
    count += 1;
    const n = emitter * STRIDE + count;
    const user = USERS[all.indexOf(whom as Known)];
    const name = whom ? "user" : "channel";
    // The ack proves that the handler has run.
    const answer = await one.client.socket?.ask(
      name,
      whom ? { user, n } : { channel: "default", n },
    );
    // For 2 s after a crash an emit is refused, since it may be one that had come before.
    if (answer?.type !== "ack") return;
    unsure[one.shard]?.add(n);
    // A session that begins later may still get it.
    for (const known of whom ? [whom] : all) {
      known.expected.add(n);
      if (known.isShaken) known.possible.add(n);
    }
  }

  /** Takes what came, and checks all that must always be true. */
  async function take(one: Known): Promise<void> {
    await one.client.settle();
    const { numbers } = one.client;
    expect(new Set(numbers).size, "each once").toBe(numbers.length);
    for (let emitter = 0; emitter < USERS.length; emitter++) {
      const from = numbers.filter((n) => Math.floor(n / STRIDE) === emitter);
      expect(from, "in the order of the emitter").toEqual([...from].sort((a, b) => a - b));
    }
    for (const n of numbers) {
      expect(one.expected.has(n) || one.possible.has(n), `${n} is for this client`).toBe(true);
    }
  }

  async function reconnect(one: Known): Promise<void> {
    const hello = await one.client.connect();
    one.isConnected = true;
    if (!one.isShaken) expect(hello.resumed, "resumed").toBe(true);
    else if (!one.mayResume) expect(hello.resumed, "resumed").toBe(false);
    if (!hello.resumed) one.expected.clear();
    one.isShaken = false;
  }

  /** Everything works again: within a short time all have all. */
  async function settle(): Promise<void> {
    faults.clear();
    for (const one of all) if (!one.isConnected) await reconnect(one);
    const untilMs = Date.now() + PATIENCE_MS;
    for (const one of all) {
      const lacks = () => [...one.expected].filter((n) => !one.client.numbers.includes(n));
      await take(one);
      while (lacks().length > 0 && Date.now() < untilMs) {
        await scheduler.wait(20);
        await take(one);
      }
      expect(lacks(), `${USERS[all.indexOf(one)]} has all`).toEqual([]);
    }
    for (const numbers of unsure) numbers.clear();
  }

  async function kill(index: number): Promise<void> {
    const stub = shardStub(room, index);
    const aborted = runInDurableObject(stub, (_, state) => state.abort("Killed"));
    await expect(aborted).rejects.toThrow();
    if (isDurable) {
      // What was acknowledged is stored, as are the sessions: to its clients this is a cut.
      for (const known of all) if (known.shard === index) known.isConnected = false;
      return;
    }
    // What it had not relayed is lost, or some of it.
    for (const known of all) {
      for (const n of unsure[index] ?? []) if (known.expected.delete(n)) known.possible.add(n);
      if (known.shard !== index) continue;
      known.mayResume = !known.isConnected && (!known.isShaken || known.mayResume);
      known.isConnected = false;
      known.isShaken = true;
      for (const n of known.expected) known.possible.add(n);
      // Others may still be about to relay what they emitted before.
      for (const numbers of unsure) for (const n of numbers) known.possible.add(n);
    }
    unsure[index]?.clear();
  }

  for (const one of steps) {
    if (one.do === "emit" || one.do === "user") {
      for (let i = 0; i < one.times; i++) {
        const whom = one.do === "user" ? all[one.whom] : undefined;
        await emit(all[one.who] as Known, whom, one.who);
      }
    } else if (one.do === "cut") {
      const known = all[one.who] as Known;
      if (known.isConnected) await take(known);
      await known.client.cut();
      known.isConnected = false;
    } else if (one.do === "resume") {
      const known = all[one.who] as Known;
      if (!known.isConnected) await reconnect(known);
    } else if (one.do === "fault") faults.set(`${room}|${one.shard}`, one.fault);
    else if (one.do === "mend") faults.delete(`${room}|${one.shard}`);
    else if (one.do === "kill") await kill(one.shard);
    else if (one.do === "evict") {
      // An actor that still has to send does not sleep.
      if (faults.size > 0 && (unsure[one.shard]?.size ?? 0) > 0) continue;
      const stub = shardStub(room, one.shard);
      await stub.getSessionCount();
      await evictDurableObject(stub);
    }
    for (const known of all) if (known.isConnected) await take(known);
  }
  await settle();
  await Promise.all(all.map(({ client }) => client.leave()));
}

/** Plays `runs` random plays, with a log in memory or a durable one. */
export async function checkShards(runs: number, isDurable: boolean): Promise<void> {
  const steps = fc.array(step, { minLength: 1, maxLength: 16 });
  const property = fc.asyncProperty(steps, (steps) => play(steps, isDurable));
  await fc.assert(property, { numRuns: runs, endOnFailure: true });
}
