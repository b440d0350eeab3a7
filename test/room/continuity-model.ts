/**
 * A property of continuity: random emits, joins, cuts, resumes and evictions in one room, beside a
 * model that knows what each client must have received.
 */
import { evictDurableObject, runDurableObjectAlarm } from "cloudflare:test";
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { expect, vi } from "vitest";
import { call } from "../../src/actor/call.ts";
import type { MessageFrame } from "../../src/wire/frames.ts";
import { Client, runs } from "./continuity.ts";
import { freshName } from "./socket.ts";

const USERS = ["ann", "ann", "ben", "cat"];
const CHANNELS = ["default", "side"];

type Cursor = "own" | "old" | "future" | "foreign";
type Step =
  | { do: "channel" | "others" | "commit" | "rollback" | "rpc"; who: number; channel: number }
  | { do: "user" | "some"; who: number; whom: number }
  | { do: "self" | "run" | "join" | "leave" | "cut" | "vanish" | "reload"; who: number }
  | { do: "resume"; who: number; cursor: Cursor }
  | { do: "sleep" | "crash" | "expire" };

const who = fc.nat({ max: USERS.length - 1 });
const channel = fc.nat({ max: CHANNELS.length - 1 });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constantFrom("channel", "others", "commit", "rollback", "rpc"),
      who,
      channel,
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom("user", "some"), who, whom: who }) },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constantFrom("self", "run", "join", "leave", "cut", "cut", "vanish", "reload"),
      who,
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant("resume" as const),
      who,
      cursor: fc.constantFrom<Cursor>("own", "own", "own", "old", "future", "foreign"),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constantFrom("sleep", "sleep", "crash", "expire") }),
  },
);

/** What the model knows of a client. */
interface Known {
  client: Client;
  user: string;
  channels: Set<string>;
  /** Whether the server may still have its session. */
  hasSession: boolean;
  /** A crash took the memory of the room: the server has its session only if it had stored it. */
  mayBeGone: boolean;
  isConnected: boolean;
  /** The server takes its socket for open. */
  hasVanished: boolean;
  /** What it must have received since its session began, and the answers to its emits. */
  expected: number[];
  answers: Map<string, MessageFrame | null>;
  /** Cursors that it had, with the length of `numbers` then. */
  past: { cursor: number; length: number; frames: number }[];
  /** The memory of the room since its cursor may be gone. */
  isShaken: boolean;
  mayBeTrimmed: boolean;
}

/** @param durable whether the room's log survives a crash */
async function play(steps: readonly Step[], durable: boolean): Promise<void> {
  const namespace = durable ? env.LASTING_LINE : env.LINE;
  const stub = namespace.getByName(freshName()) as unknown as DurableObjectStub;
  const rpc = call(stub as never) as {
    emit(data: unknown): Promise<number>;
    rows(): Promise<unknown>;
  };
  let n = 0;
  let isTrimmed = false;
  let hasCrashed = false;
  vi.useFakeTimers({ toFake: ["Date"], now: Date.now() });
  const all: Known[] = USERS.map((user) => ({
    client: new Client(stub as never, `&user=${user}`),
    user,
    channels: new Set(["default"]),
    hasSession: false,
    mayBeGone: false,
    isConnected: false,
    hasVanished: false,
    expected: [],
    answers: new Map(),
    past: [],
    isShaken: false,
    mayBeTrimmed: false,
  }));

  const deliver = (number: number, isFor: (one: Known) => boolean): void => {
    for (const one of all) if (one.hasSession && isFor(one)) one.expected.push(number);
  };
  const begin = (one: Known): void => {
    one.hasSession = true;
    one.mayBeGone = false;
    one.isConnected = true;
    one.hasVanished = false;
    one.channels = new Set(["default"]);
    one.expected = [];
    one.answers.clear();
    one.past = [];
    one.isShaken = false;
    one.mayBeTrimmed = false;
  };
  const end = (one: Known): void => {
    one.hasSession = false;
    one.isConnected = false;
  };
  /** All that was sent has arrived, and is what it should be. */
  const settle = async (): Promise<void> => {
    for (const one of all) {
      if (!one.isConnected) continue;
      await one.client.settle();
      expect(one.client.numbers).toEqual(one.expected);
      one.past.push({
        cursor: one.client.cursor,
        length: one.client.numbers.length,
        frames: one.client.frames.length,
      });
    }
  };

  async function resume(one: Known, wish: Cursor): Promise<void> {
    const { client } = one;
    const other = all[(all.indexOf(one) + 2) % all.length];
    const cursor = wish === "foreign" && !other?.client.hello ? "own" : wish;
    if (!client.hello) {
      await client.connect();
      begin(one);
      return;
    }
    const before = { numbers: [...client.numbers], cursor: client.cursor };
    let wanted = client.cursor;
    if (cursor === "old") {
      const past = one.past[Math.floor(one.past.length / 2)];
      if (past) {
        wanted = past.cursor;
        client.numbers = client.numbers.slice(0, past.length);
      }
    } else if (cursor === "future") wanted += 1_000_000_000_000_00;
    const hello =
      cursor === "foreign" && other?.client.hello
        ? await client.connect(other.client.resume)
        : await client.connect(`${client.hello.session}:${client.hello.epoch}:${wanted}`);
    if (hello.resumed) {
      expect(cursor).not.toBe("foreign");
      expect(cursor).not.toBe("future");
      expect(one.hasSession).toBe(true);
      one.mayBeGone = false;
      one.isConnected = true;
      one.hasVanished = false;
      one.isShaken = false;
      one.mayBeTrimmed = false;
    } else {
      expect(hello.reason).toBeTypeOf("string");
      const missedNothing = before.numbers.length === one.expected.length && cursor === "own";
      const mustResume =
        one.hasSession &&
        !one.mayBeGone &&
        (cursor === "own" || cursor === "old") &&
        (!one.isShaken || missedNothing) &&
        !(one.mayBeTrimmed && hello.reason === "trimmed");
      expect(mustResume, `${hello.reason} for cursor ${wanted}`).toBe(false);
      begin(one);
    }
  }

  for (const one of steps) {
    const actor = "who" in one ? (all[one.who] as Known) : undefined;
    const canEmit = actor?.isConnected === true;
    const number = ++n;
    if (one.do === "resume" && actor) await resume(actor, one.cursor);
    else if (one.do === "cut" && canEmit) {
      await actor.client.cut();
      actor.isConnected = false;
    } else if (one.do === "vanish" && canEmit) {
      // The server takes the socket for open, and the client reads no more.
      actor.client.socket = undefined;
      actor.isConnected = false;
      actor.hasVanished = true;
    } else if (one.do === "reload" && actor?.client.hello && actor.hasSession) {
      const { session, epoch } = actor.client.hello;
      const hello = await actor.client.connect(`${session}:${epoch}`);
      expect(hello.resumed).toBe(false);
      const { channels } = actor;
      begin(actor);
      if (hello.reason === "reloaded") actor.channels = channels;
    } else if (one.do === "sleep" || one.do === "crash") {
      await settle();
      hasCrashed ||= one.do === "crash";
      for (const known of all) {
        if (durable) {
          // Nothing proves what a session was sent before the oldest event that is left.
          if (one.do === "crash") known.mayBeTrimmed = isTrimmed;
        } else {
          known.isShaken = true;
          known.past = [];
        }
      }
      // An actor that does not run cannot be evicted.
      await rpc.rows();
      if (one.do === "sleep") await evictDurableObject(stub);
      else {
        await evictDurableObject(stub, { webSockets: "close" });
        for (const known of all) {
          known.hasVanished = false;
          known.isConnected = false;
          if (!durable) known.mayBeGone = true;
        }
      }
    } else if (one.do === "expire") {
      await settle();
      // Lost sessions are over; those whose client vanished are found dead.
      for (const known of all) {
        known.past = [];
        if (known.isConnected) continue;
        // A client that vanished is found dead only now, and can resume what is not too old.
        if (known.hasVanished) known.mayBeTrimmed = true;
        else end(known);
        known.hasVanished = false;
      }
      isTrimmed = true;
      // After a crash, sessions count as lost from the actor's next start on.
      await rpc.rows();
      vi.setSystemTime(Date.now() + 200_000);
      for (const { isConnected, client, channels } of all) {
        if (!isConnected) continue;
        client.emit("move", { channels: [...channels] });
        await client.settle();
      }
      await runDurableObjectAlarm(stub);
      await settle();
    } else if (one.do === "rpc") {
      const name = CHANNELS[one.channel] as string;
      await rpc.emit({ channel: name, n: number });
      deliver(number, ({ channels }) => channels.has(name));
    } else if (canEmit) {
      const { client } = actor;
      if ("channel" in one) {
        const name = CHANNELS[one.channel] as string;
        const isIn = ({ channels }: Known) => channels.has(name);
        if (one.do === "channel") {
          client.emit("channel", { channel: name, n: number });
          deliver(number, isIn);
        } else if (one.do === "others") {
          client.emit("others", { channel: name, n: number });
          if (actor.channels.has(name)) deliver(number, (k) => k !== actor && isIn(k));
        } else {
          client.emit("transact", { channel: name, n: number, commits: one.do === "commit" });
          if (one.do === "commit") deliver(number, isIn);
        }
      } else if ("whom" in one) {
        const user = USERS[one.whom] as string;
        if (one.do === "user") client.emit("user", { user, n: number });
        else client.emit("some", { users: [user], n: number });
        deliver(number, (k) => k.user === user);
      } else if (one.do === "self") {
        client.emit("self", { n: number });
        deliver(number, (k) => k === actor);
      } else if (one.do === "run") {
        const text = `${stub.id}:${number}`;
        client.emit("run", { text }, text);
        await client.settle();
        const answer = client.frames.at(-1);
        if (answer?.type === "nack" && hasCrashed) {
          // Just after a crash, nobody can know whether an emit ran before it.
          expect(answer.error?.code).toBe("disconnected");
          expect(runs.get(text)).toBeUndefined();
        } else {
          expect(answer).toMatchObject({ type: "ack", id: text });
          expect(runs.get(text)).toBe(1);
        }
        runs.delete(text);
      } else if (one.do === "join") {
        actor.channels.add("side");
        client.emit("move", { channels: [...actor.channels] });
      } else if (one.do === "leave") {
        actor.channels.delete("side");
        client.emit("move", { channels: [...actor.channels] });
      }
      await client.settle();
    }
    await settle();
  }
  // Every client comes back once more.
  for (const one of all) if (one.hasSession && !one.isConnected) await resume(one, "own");
  await settle();
}

/** Plays `numRuns` random sequences. @throws for the first that breaks the contract, with its seed */
export async function checkContinuity(numRuns: number, durable: boolean): Promise<void> {
  const steps = fc.array(step, { minLength: 5, maxLength: 40 });
  await fc.assert(
    fc.asyncProperty(steps, (sequence) => play(sequence, durable)),
    {
      numRuns,
      examples: [
        [
          [
            { do: "resume", who: 0, cursor: "own" },
            { do: "cut", who: 0 },
            { do: "crash" },
            { do: "resume", who: 0, cursor: "own" },
            { do: "channel", who: 0, channel: 0 },
            { do: "channel", who: 0, channel: 0 },
            { do: "self", who: 0 },
            { do: "self", who: 0 },
          ],
        ],
      ],
    },
  );
}
