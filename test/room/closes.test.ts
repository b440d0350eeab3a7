import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { afterEach, describe, expect, it, vi } from "vitest";
import { newPlanned, type PlannedStub, pathTo } from "./planned.ts";
import { connect, type TestSocket } from "./socket.ts";

function connectAll(stub: PlannedStub, count: number): Promise<TestSocket[]> {
  return Promise.all(
    Array.from({ length: count }, (_, i) => connect(stub, pathTo(stub, `v=2&user=u${i}`))),
  );
}

afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

describe("sockets that close while their actor sleeps", () => {
  it.each([500, 2_000])(
    "cost a read or two for each of %d, and a few restores of the room for all",
    async (count) => {
      const left = new Set<string>();
      let restored = 0;
      const stub = newPlanned({
        onHibernationRestore(actor) {
          restored += 1;
          for (const _ of actor.sessions.values());
        },
        onDisconnect({ meta }) {
          left.add(meta.userId);
        },
      });
      const sockets = await connectAll(stub, count);
      await evictDurableObject(stub);
      restored = 0;
      const read = vi.spyOn(WebSocket.prototype, "deserializeAttachment");
      for (const socket of sockets) void socket.close();
      await vi.waitFor(() => expect(left.size).toBe(count), { timeout: 30_000 });
      expect(read.mock.calls.length).toBeLessThanOrEqual(2 * count + 10);
      expect(restored).toBeLessThan(count / 20);
      expect(await stub.getSessionCount()).toBe(0);
    },
  );

  it("leave for good if their clients said so, although the room restores itself meanwhile", async () => {
    const left = vi.fn();
    let isSlow = false;
    const stub = newPlanned({
      onHibernationRestore: () => (isSlow ? scheduler.wait(200) : undefined),
      onDisconnect: ({ meta }) => left(meta.userId),
    });
    const [leaver, other] = await Promise.all([
      connect(stub, pathTo(stub, "v=3&user=leaver")),
      connect(stub, pathTo(stub, "v=3&user=other")),
    ]);
    await leaver.caughtUp();
    await evictDurableObject(stub);
    isSlow = true;
    other.emit("say", {});
    await scheduler.wait(50);
    await leaver.close(1000);
    await vi.waitFor(() => expect(left).toHaveBeenCalledWith("leaver"), { timeout: 3_000 });
  });

  it("are noticed by whichever call over RPC comes first", async () => {
    for (const first of [
      "getSessionCount",
      "getConnectedUserIds",
      "cleanupStaleSessions",
    ] as const) {
      const left = vi.fn();
      const stub = newPlanned({ onDisconnect: left });
      const [gone] = await connectAll(stub, 2);
      await evictDurableObject(stub);
      void gone?.close();
      await stub[first]();
      await vi.waitFor(() => expect(left).toHaveBeenCalledTimes(1));
      expect(await stub.getSessionCount()).toBe(1);
    }
  });
});

describe("a session whose meta nearly fills its attachment", () => {
  it("still keeps what a resume needs, and is there after a sleep", async () => {
    const stub = newPlanned({
      more: "x".repeat(14_500),
      do: ({ actor }) => actor.emit.to("default").emit("said", {}),
    });
    const sockets = await Promise.all(
      ["a", "b", "c"].map((user) => connect(stub, pathTo(stub, `v=3&user=${user}`))),
    );
    const [a, b, c] = sockets;
    const { session, epoch } = (await a?.event("hello")) ?? {};
    // Enough of them that what is kept of the lost ones has no room beside the meta.
    await b?.close(3001);
    await c?.close(3001);
    await a?.ask("do");
    await a?.caughtUp();
    const seq = Math.max(...(a?.received ?? []).map(({ frame }) => frame.seq ?? 0));
    await evictDurableObject(stub);
    expect(await stub.getSessionCount()).toBe(3);
    await a?.close(3001);
    const back = await connect(stub, pathTo(stub, `v=3&user=a&resume=${session}:${epoch}:${seq}`));
    const hello = await back.event("hello");
    expect(hello, JSON.stringify(hello)).toMatchObject({ resumed: true });
  });
});

describe("metas in storage", () => {
  it("are deleted an hour after their sessions were missed, whatever the row that notes it holds", async () => {
    const stub = newPlanned({});
    await connect(stub, pathTo(stub));
    const start = Date.now();
    for (const row of [
      { id: "x" },
      { id: Number.NaN },
      { id: start * 2 },
      { id: -1 },
      "text",
      [1],
    ]) {
      vi.useRealTimers();
      await runInDurableObject(stub, (_, { storage }) => {
        storage.kv.put("rollcall:session:id", { userId: "gone" });
        storage.kv.put("rollcall:orphans", row);
      });
      for (const hours of [0, 1.1]) {
        await evictDurableObject(stub);
        vi.useFakeTimers({ toFake: ["Date"], now: start + hours * 3_600_000 });
        await stub.ingest("nothing", undefined);
      }
      await runInDurableObject(stub, (_, { storage }) => {
        expect(storage.kv.get("rollcall:session:id"), JSON.stringify(row)).toBeUndefined();
        expect(storage.kv.get("rollcall:orphans"), JSON.stringify(row)).toBeUndefined();
      });
    }
  });
});

describe("a clock that is set back by an hour", () => {
  const HOUR_MS = 3_600_000;

  function setTime(atMs: number): void {
    vi.useFakeTimers({ toFake: ["Date"], now: atMs });
  }

  async function alarmOf(stub: PlannedStub): Promise<number> {
    return Date.parse((await stub.inspect()).alarm ?? "");
  }

  it.each(["awake", "asleep"])(
    "does not keep the dead for longer than a minute, nor closes the living (%s)",
    async (state) => {
      const stub = newPlanned({});
      const start = Date.now();
      // What was set by the later time: frames, attachments and the alarm.
      setTime(start + HOUR_MS);
      const [dead, pinging, alive] = await Promise.all([
        connect(stub, pathTo(stub, "v=2&user=dead")),
        connect(stub, pathTo(stub, "v=2&user=pinging")),
        connect(stub, pathTo(stub, "v=2&user=alive")),
      ]);
      for (const socket of [dead, pinging, alive]) await socket.ask("say", {});
      if (state === "asleep") await evictDurableObject(stub);
      setTime(start);
      await alive.ask("say", {});
      for (let passedMs = 0; passedMs <= 60_000 && !dead.closed; ) {
        const alarmAt = await alarmOf(stub);
        expect(alarmAt - start).toBeLessThanOrEqual(60_000);
        passedMs = alarmAt - start;
        setTime(alarmAt);
        for (const socket of [pinging, alive]) socket.emit("say", {});
        await alive.caughtUp();
        await pinging.caughtUp();
        await runDurableObjectAlarm(stub);
        if (state === "asleep") await evictDurableObject(stub);
      }
      expect((await dead.ended()).code).toBe(4408);
      expect(alive.closed).toBeNull();
      expect(pinging.closed).toBeNull();
    },
  );

  it("does not make the grace of a lost session longer", async () => {
    const left = vi.fn();
    const stub = newPlanned({ onDisconnect: ({ meta }) => left(meta.userId) });
    const start = Date.now();
    setTime(start + HOUR_MS);
    const [lost, other] = await Promise.all([
      connect(stub, pathTo(stub, "v=3&user=lost")),
      connect(stub, pathTo(stub, "v=3&user=other")),
    ]);
    await lost.close(3001);
    setTime(start);
    await other.ask("say", {});
    expect((await alarmOf(stub)) - start).toBeLessThanOrEqual(5_000);
    setTime(start + 5_000);
    await runDurableObjectAlarm(stub);
    await vi.waitFor(() => expect(left).toHaveBeenCalledWith("lost"));
  });
});
