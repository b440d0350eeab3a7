import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { afterEach, describe, expect, it, vi } from "vitest";
import type { VeraniActor } from "../../src/actor/room.ts";
import type { ActorStub } from "../../src/actor/stub.ts";
import { journal, type LabStub, newLab, read, times } from "./lab.ts";
import { newPlanned, type PlannedActor, type PlannedStub } from "./planned.ts";
import type { Lab } from "./rooms.ts";
import { connect } from "./socket.ts";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const never = () => new Promise<void>(() => {});

/** When the alarm stands, in ms since the epoch; undefined for none. */
async function alarmOf(stub: ActorStub): Promise<number | undefined> {
  const { alarm } = await stub.inspect();
  return alarm === null ? undefined : Date.parse(alarm);
}

function setTime(atMs: number): void {
  vi.useFakeTimers({ toFake: ["Date"], now: atMs });
}

/** Lets one alarm after another come, each in an instance of its own, until `untilMs`. @returns their times */
async function letAlarmsCome(stub: PlannedStub, untilMs: number): Promise<number[]> {
  const rang: number[] = [];
  for (;;) {
    const alarmAt = await alarmOf(stub);
    if (alarmAt === undefined || alarmAt > untilMs) return rang;
    if (rang.length === 200) throw new Error(`200 alarms: ${rang.slice(-5)}`);
    setTime(Math.max(Date.now(), alarmAt));
    rang.push(Date.now());
    await runDurableObjectAlarm(stub);
    await evictDurableObject(stub);
  }
}

/** Runs `task` with the actor as its room sees it. */
function inside<T>(
  stub: PlannedStub,
  task: (actor: PlannedActor, state: DurableObjectState) => T | Promise<T>,
): Promise<T> {
  return runInDurableObject(stub, (actor, state) =>
    task(actor as unknown as PlannedActor, state),
  ) as Promise<T>;
}

afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

describe("timers", () => {
  it("of many names share one alarm, run at their deadlines, and survive hibernation", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    const start = Date.now();
    await socket.ask("timer.set", { name: "bell", atMs: start + 3_000_000 });
    await socket.ask("timer.set", { name: "ring", atMs: start + 1_000_000 });
    await socket.ask("timer.set", { name: "chime", atMs: start + 1_000_500 });
    await socket.ask("timer.set", { name: "flaky", atMs: start + 9_000_000 });
    await socket.ask("timer.clear", { name: "flaky" });
    await evictDurableObject(stub, { webSockets: "close" });

    expect(await read(stub, "deadline", "flaky")).toBeNull();
    vi.useFakeTimers({ toFake: ["Date"], now: start + 1_000_600 });
    await runDurableObjectAlarm(stub);
    const rang = async () => (await journal(stub)).filter((line) => line.startsWith("rang"));
    expect(await rang()).toEqual(["rang ring", "rang chime"]);
    expect((await stub.inspect()).alarm).toBe(new Date(start + 3_000_000).toISOString());

    vi.setSystemTime(start + 3_000_001);
    await evictDurableObject(stub);
    await runDurableObjectAlarm(stub);
    expect(await rang()).toEqual(["rang ring", "rang chime", "rang bell"]);
    expect(await runDurableObjectAlarm(stub)).toBe(false);
  });

  it("run by the alarm of the runtime itself, and their events reach the clients", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    await socket.ask("timer.set", { name: "ring", atMs: Date.now() + 50 });
    expect(await socket.event("rang")).toMatchObject({ name: "ring" });
  });

  it("run again when their handler throws", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    const start = Date.now();
    await socket.ask("timer.set", { name: "flaky", atMs: start + 1_000_000 });
    for (const atMs of [1_000_000, 1_010_000, 1_020_000]) {
      vi.useFakeTimers({ toFake: ["Date"], now: start + atMs });
      await runDurableObjectAlarm(stub);
      await evictDurableObject(stub);
    }
    expect(await journal(stub)).toContain("rang flaky after 3");
    expect(await read(stub, "deadline", "flaky")).toBeNull();
  });
});

describe("the stored timers", () => {
  /** Stores `row` in place of the deadlines and lets the actor sleep. */
  async function rewrite(stub: LabStub, row: unknown): Promise<void> {
    await runInDurableObject(stub, (_, state) => state.storage.kv.put("rollcall:timers", row));
    await evictDurableObject(stub);
  }
  async function stored(stub: LabStub): Promise<unknown> {
    return runInDurableObject(stub, (_, state) => state.storage.kv.get("rollcall:timers"));
  }

  it("run although the row also holds garbage, and fields that are no deadlines stay in it", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    const start = Date.now();
    const unknown = { text: "soon", next: { release: [2] }, none: null };
    await rewrite(stub, { ...unknown, ring: start + 1_000_000, chime: Number.NaN });
    expect(await read(stub, "deadline", "ring")).toBe(start + 1_000_000);
    expect(await read(stub, "deadline", "chime")).toBeNull();
    await socket.ask("timer.set", { name: "bell", atMs: start + 2_000_000 });
    expect(await stored(stub)).toEqual({
      ...unknown,
      ring: start + 1_000_000,
      bell: start + 2_000_000,
    });

    vi.useFakeTimers({ toFake: ["Date"], now: start + 1_000_001 });
    await runDurableObjectAlarm(stub);
    expect(await times(stub, "rang ring")).toBe(1);
    // The first one has been silent for too long.
    const later = await connect(stub, "/ws?v=2");
    await later.ask("timer.clear", { name: "bell" });
    expect(await stored(stub)).toEqual(unknown);
  });

  it.each([["a text"], [["a list"]], [5], [null]])(
    "are none, and new ones can be set, when the row is %j",
    async (row) => {
      const stub = newLab();
      const socket = await connect(stub, "/ws?v=2");
      await rewrite(stub, row);
      const atMs = Date.now() + 1_000_000;
      await socket.ask("timer.set", { name: "ring", atMs });
      expect(await stored(stub)).toEqual({ ring: atMs });
    },
  );

  it("refuse a deadline that is no time, and others still run", async () => {
    const stub = newLab();
    const socket = await connect(stub, "/ws?v=2");
    await runInDurableObject(stub, (actor: Lab) => {
      const { timers } = actor as unknown as Pick<VeraniActor, "timers">;
      for (const atMs of [Number.NaN, 0, -1, Number.NEGATIVE_INFINITY]) {
        expect(() => timers.set("ring", atMs)).toThrow(RangeError);
        expect(() => timers.soonest("ring", atMs)).toThrow(RangeError);
      }
    });
    expect(await stored(stub)).toBeUndefined();
    await socket.ask("timer.set", { name: "ring", atMs: Date.now() - 1_000 });
    expect(await socket.event("rang")).toMatchObject({ name: "ring" });
  });
});

describe("a timer whose handler fails", () => {
  it("is tried ever more rarely and given up after a day, also if it sets itself again before it throws", async () => {
    let runs = 0;
    const stub = newPlanned({
      timer({ timers }) {
        runs += 1;
        timers.set("timer", Date.now() + 1_000);
        throw new Error("always");
      },
    });
    const start = Date.now() + HOUR_MS;
    await inside(stub, ({ timers }) => timers.set("timer", start));
    const rang = await letAlarmsCome(stub, start + 3 * DAY_MS);
    expect(runs).toBeGreaterThan(20);
    expect(runs).toBeLessThan(50);
    expect((rang.at(-1) ?? 0) - start).toBeGreaterThan(DAY_MS);
    expect((rang.at(-1) ?? 0) - start).toBeLessThan(DAY_MS + 2 * HOUR_MS);
    expect(await alarmOf(stub)).toBeUndefined();
  });

  it("keeps the later deadline that it sets for itself while it is tried again, and after", async () => {
    let fails = true;
    const ran: number[] = [];
    const stub = newPlanned({
      timer({ timers }) {
        ran.push(Date.now());
        timers.soonest("timer", Date.now() + 2 * DAY_MS);
        if (fails) throw new Error("for now");
      },
    });
    const start = Date.now() + HOUR_MS;
    await inside(stub, ({ timers }) => timers.set("timer", start));
    await letAlarmsCome(stub, start + HOUR_MS);
    fails = false;
    await letAlarmsCome(stub, start + DAY_MS);
    expect(ran.length).toBeGreaterThan(5);
    expect(await alarmOf(stub)).toBe(start + 2 * DAY_MS);
  });

  it("is not given up for a failure of another day", async () => {
    let fails = true;
    const stub = newPlanned({
      timer() {
        if (fails) throw new Error("once a week");
      },
    });
    const start = Date.now() + HOUR_MS;
    await inside(stub, ({ timers }) => timers.set("timer", start));
    setTime(start);
    await runDurableObjectAlarm(stub);
    // The actor is unreachable for days, as in an outage.
    setTime(start + 3 * DAY_MS);
    await runDurableObjectAlarm(stub);
    expect(await alarmOf(stub)).toBe(start + 3 * DAY_MS + 5_000);
    fails = false;
    await letAlarmsCome(stub, start + 4 * DAY_MS);
    await inside(stub, (_, { storage }) =>
      expect(storage.kv.get("rollcall:timers")).toBeUndefined(),
    );
  });

  it("is forgotten, with its next try, when the room clears it", async () => {
    const stub = newPlanned({
      timer() {
        throw new Error("always");
      },
    });
    const start = Date.now() + HOUR_MS;
    await inside(stub, ({ timers }) => timers.set("timer", start));
    setTime(start);
    await runDurableObjectAlarm(stub);
    await inside(stub, async ({ timers }, { storage }) => {
      timers.clear("timer");
      expect(storage.kv.get("rollcall:timers")).toBeUndefined();
    });
    expect(await alarmOf(stub)).toBeUndefined();
  });
});

describe("a handler that does not end", () => {
  it("is not run twice at once, and the alarm does not come over and over for it", async () => {
    let runs = 0;
    const stub = newPlanned({
      async timer({ timers }) {
        runs += 1;
        timers.set("timer", Date.now() + 1);
        await never();
      },
    });
    const start = Date.now() + HOUR_MS;
    await inside(stub, ({ timers }) => timers.set("timer", start));
    setTime(start);
    await runDurableObjectAlarm(stub);
    expect(await alarmOf(stub)).toBe(start + 5_000);
    setTime(start + 5_000);
    await runDurableObjectAlarm(stub);
    expect(runs).toBe(1);
    // Ever more rarely, here as well.
    expect(await alarmOf(stub)).toBe(start + 5_000 + 10_000);
  });

  it("of onDue keeps no timer waiting, and the alarm does not come over and over for it", async () => {
    let rang = 0;
    const start = Date.now() + HOUR_MS;
    const stub = newPlanned({
      dueAt: () => start,
      onDue: never,
      timer() {
        rang += 1;
      },
    });
    await inside(stub, ({ timers }) => timers.set("timer", start + 1));
    setTime(start);
    await runDurableObjectAlarm(stub);
    expect(await alarmOf(stub)).toBe(start + 1);
    setTime(start + 1);
    await runDurableObjectAlarm(stub);
    expect(rang).toBe(1);
    expect(await alarmOf(stub)).toBe(start + 5_000);
  });

  it("does not keep the alarm for longer than 5 s, however many there are, and others run in the end", async () => {
    const rang = Promise.withResolvers<void>();
    const stub = newPlanned({
      dueAt: () => 1,
      onDue: never,
      timer: never,
      other: () => rang.resolve(),
    });
    const start = Date.now() + HOUR_MS;
    await inside(stub, ({ timers }) => {
      timers.set("timer", start);
      timers.set("other", start);
    });
    setTime(start);
    const startedAt = performance.now();
    await runDurableObjectAlarm(stub);
    await rang.promise;
    expect(performance.now() - startedAt).toBeLessThan(9_000);
  });
});

describe("a deadline that follows from the room's state", () => {
  it("that always fails is given up after a day for good, and tried again for a later one", async () => {
    let runs = 0;
    const start = Date.now() + HOUR_MS;
    let dueAtMs = start;
    const stub = newPlanned({
      dueAt: () => dueAtMs,
      onDue() {
        runs += 1;
        throw new Error("always");
      },
    });
    await inside(stub, ({ timers }) => timers.wakeAt(start));
    await letAlarmsCome(stub, start + 5 * DAY_MS);
    expect(runs).toBeGreaterThan(20);
    expect(runs).toBeLessThan(50);
    for (let i = 0; i < 3; i++) {
      expect(await alarmOf(stub)).toBeUndefined();
      await evictDurableObject(stub);
    }

    dueAtMs = Date.now() + HOUR_MS;
    await inside(stub, ({ timers }) => timers.wakeAt(dueAtMs));
    setTime(dueAtMs);
    const before = runs;
    await runDurableObjectAlarm(stub);
    expect(runs).toBe(before + 1);
    expect(await alarmOf(stub)).toBe(dueAtMs + 5_000);
  });

  it("is asked for again later when dueAt throws, and not lost", async () => {
    let isBroken = true;
    let runs = 0;
    let dueAtMs: number | undefined = Date.now() + HOUR_MS;
    const stub = newPlanned({
      dueAt() {
        if (isBroken) throw new Error("for now");
        return dueAtMs;
      },
      onDue() {
        runs += 1;
        dueAtMs = undefined;
      },
    });
    expect(await alarmOf(stub)).toBeLessThan(Date.now() + 6_000);
    isBroken = false;
    await letAlarmsCome(stub, dueAtMs + 1);
    expect(runs).toBe(1);
    expect(await alarmOf(stub)).toBeUndefined();
  });

  it("comes at once when it is 0 or has passed", async () => {
    let dueAtMs: number | undefined = 0;
    const stub = newPlanned({
      dueAt: () => dueAtMs,
      onDue() {
        dueAtMs = undefined;
      },
    });
    await stub.inspect();
    await vi.waitFor(() => expect(dueAtMs).toBeUndefined());
  });

  it("that onDue does not move wakes the actor ever more rarely", async () => {
    let runs = 0;
    const start = Date.now() + HOUR_MS;
    const stub = newPlanned({
      dueAt: () => start,
      onDue() {
        runs += 1;
      },
    });
    await inside(stub, ({ timers }) => timers.wakeAt(start));
    await letAlarmsCome(stub, start + 2 * DAY_MS);
    expect(runs).toBeLessThan(50);
  });

  it.each([Number.NaN, Number.POSITIVE_INFINITY])("is none when it is %d", async (atMs) => {
    const stub = newPlanned({ dueAt: () => atMs, onDue() {} });
    expect(await alarmOf(stub)).toBeUndefined();
    await inside(stub, ({ timers }) => timers.wakeAt(atMs));
    expect(await alarmOf(stub)).toBeUndefined();
  });
});

describe("the alarm", () => {
  const alarmInStorage = (stub: PlannedStub) =>
    inside(stub, (_, { storage }) => storage.getAlarm());

  it("is set again when setting it failed", async () => {
    const stub = newPlanned({});
    const atMs = Date.now() + HOUR_MS;
    await inside(stub, async ({ timers }, { storage }) => {
      vi.spyOn(Object.getPrototypeOf(storage), "setAlarm").mockRejectedValueOnce(new Error("busy"));
      timers.set("timer", atMs);
    });
    await vi.waitFor(async () => expect(await alarmInStorage(stub)).toBe(atMs), { timeout: 5_000 });
    expect(await alarmOf(stub)).toBe(atMs);
  });

  it("outlasts the rollback of a transaction in which it was moved", async () => {
    let dueAtMs: number | undefined;
    const stub = newPlanned({ dueAt: () => dueAtMs, onDue() {} });
    const atMs = Date.now() + HOUR_MS;
    await inside(stub, async (actor) => {
      await actor.getStorage().transaction(async (txn) => {
        dueAtMs = atMs;
        actor.timers.wakeAt(atMs);
        txn.rollback();
      });
    });
    await vi.waitFor(async () => expect(await alarmInStorage(stub)).toBe(atMs));
    expect(await alarmOf(stub)).toBe(atMs);
  });

  it("and the deadlines that others set meanwhile outlast the rollback of a transaction", async () => {
    const stub = newPlanned({});
    const start = Date.now() + HOUR_MS;
    await inside(stub, async (actor) => {
      const began = Promise.withResolvers<void>();
      const end = Promise.withResolvers<void>();
      const transaction = actor.getStorage().transaction(async (txn) => {
        began.resolve();
        await end.promise;
        txn.rollback();
      });
      await began.promise;
      actor.timers.set("timer", start);
      end.resolve();
      await transaction;
    });
    await vi.waitFor(async () => expect(await alarmInStorage(stub)).toBe(start));
    await evictDurableObject(stub);
    await inside(stub, ({ timers }) => expect(timers.get("timer")).toBe(start));
  });

  it("comes although a deadline set in a transaction could not be stored, and the commit holds", async () => {
    const stub = newPlanned({});
    const start = Date.now() + HOUR_MS;
    await inside(stub, async (actor, { storage }) => {
      const put = vi.spyOn(Object.getPrototypeOf(storage.kv), "put");
      await actor.getStorage().transaction(async () => {
        storage.kv.put("n", 1);
        actor.timers.set("timer", start);
        put.mockImplementationOnce(() => {
          throw new Error("too big");
        });
      });
      expect(storage.kv.get("n")).toBe(1);
      expect(actor.timers.get("timer")).toBeUndefined();
      actor.timers.set("other", start + 1);
    });
    expect(await alarmOf(stub)).toBe(start + 1);
  });

  it.each([
    ["a text", "1" as unknown as number],
    ["a Date", new Date() as unknown as number],
    ["a bigint", 5n as unknown as number],
    ["undefined", undefined as unknown as number],
  ])("is not set for a deadline that is %s, which is refused", async (_, atMs) => {
    const stub = newPlanned({});
    await inside(stub, ({ timers }) => {
      expect(() => timers.set("timer", atMs)).toThrow(RangeError);
      expect(() => timers.set("", Date.now())).toThrow(RangeError);
      expect(() => timers.set("x".repeat(257), Date.now())).toThrow(RangeError);
    });
    expect(await alarmOf(stub)).toBeUndefined();
  });
});
