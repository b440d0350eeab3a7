import { evictDurableObject, runDurableObjectAlarm } from "cloudflare:test";
import { afterEach, describe, expect, it, vi } from "vitest";
import { newPlanned, type Plan, pathTo } from "./planned.ts";
import { connect, type TestSocket } from "./socket.ts";

const never = () => new Promise<void>(() => {});
function fail(): never {
  throw new Error("secret of the house");
}

function setTime(atMs: number): void {
  vi.useFakeTimers({ toFake: ["Date"], now: atMs });
}

/** Whether events still reach all. */
async function talks(from: TestSocket, to: TestSocket): Promise<void> {
  const text = crypto.randomUUID();
  from.emit("say", { text });
  await to.event("said", (data) => data.text === text);
}

afterEach(() => {
  vi.useRealTimers();
});

describe("a handler that throws", () => {
  it.each<[string, unknown]>([
    ["nothing", undefined],
    ["null", null],
    ["a bigint, which JSON cannot hold", 5n],
    ["an object without a text", Object.create(null)],
    ["an object that holds itself", Object.assign([], { 0: [] })],
    ["a symbol", Symbol("thrown")],
  ])("%s gives its client an error, and all that follows works", async (_, thrown) => {
    const left = vi.fn();
    const onError = vi.fn();
    const stub = newPlanned({
      do() {
        throw thrown;
      },
      onError,
      onDisconnect: left,
    });
    const [socket, other] = await Promise.all([
      connect(stub, pathTo(stub)),
      connect(stub, pathTo(stub)),
    ]);
    const answers = await Promise.all([socket.ask("do"), socket.ask("do")]);
    for (const { error } of answers) expect(error).toMatchObject({ code: "internal" });
    await talks(socket, other);
    await socket.close();
    await vi.waitFor(() => expect(left).toHaveBeenCalledTimes(1));
    expect(onError.mock.calls.length).toBeLessThanOrEqual(2);
  });
});

describe("a hook that throws affects only itself:", () => {
  it.each<[string, Plan]>([
    ["onError", { onError: fail, do: fail }],
    ["onError with a promise", { onError: async () => fail(), do: fail }],
    ["onDisconnect", { onDisconnect: fail }],
    ["onHibernationRestore", { onHibernationRestore: fail }],
    ["onDue", { dueAt: () => 1, onDue: fail }],
    ["dueAt", { dueAt: fail, onDue: fail }],
    ["a schema", { validate: fail }],
    ["the codec's encodeError", { encodeError: fail, do: fail }],
  ])("%s", async (_, plan) => {
    const stub = newPlanned(plan);
    const [leaver, sender, receiver] = await Promise.all([
      connect(stub, pathTo(stub)),
      connect(stub, pathTo(stub)),
      connect(stub, pathTo(stub)),
    ]);
    await evictDurableObject(stub);
    if (plan.do) expect((await sender.ask("do")).type).toBe("nack");
    if (plan.validate) expect((await sender.ask("checked")).type).toBe("nack");
    await talks(sender, receiver);
    await leaver.close();
    await vi.waitFor(async () => expect(await stub.getSessionCount()).toBe(2));
    await runDurableObjectAlarm(stub);
    await talks(receiver, sender);
    expect((await stub.ingest("nothing", undefined)).ok).toBe(true);
  });

  it("onConnect, which closes its own socket", async () => {
    const stub = newPlanned({ onConnect: ({ meta }) => (meta.userId === "bad" ? fail() : null) });
    const [a, b] = await Promise.all([connect(stub, pathTo(stub)), connect(stub, pathTo(stub))]);
    const bad = await connect(stub, pathTo(stub, "v=2&user=bad"));
    expect((await bad.ended()).code).toBe(1011);
    await talks(a, b);
    expect(await stub.getSessionCount()).toBe(2);
  });

  it("a codec that cannot encode an error does not keep a token from expiring", async () => {
    const stub = newPlanned({ encodeError: fail });
    const expiresAtMs = Date.now() + 3_600_000;
    const [first, second] = await Promise.all([
      connect(stub, pathTo(stub, `v=2&expiresAtMs=${expiresAtMs}`)),
      connect(stub, pathTo(stub, `v=2&expiresAtMs=${expiresAtMs}`)),
    ]);
    setTime(expiresAtMs);
    await runDurableObjectAlarm(stub);
    expect((await first.ended()).code).toBe(4401);
    expect((await second.ended()).code).toBe(4401);
    expect((await stub.inspect()).alarm).toBeNull();
  });
});

describe("a hook that does not end", () => {
  it.concurrent("of one client's handler does not keep onDisconnect from running", async () => {
    const left = vi.fn();
    const stub = newPlanned({ do: never, onDisconnect: left });
    const socket = await connect(stub, pathTo(stub));
    socket.emit("do");
    await socket.caughtUp();
    await socket.close();
    await vi.waitFor(() => expect(left).toHaveBeenCalledTimes(1), { timeout: 8_000 });
  });

  it.concurrent("of onHibernationRestore does not keep the actor from answering", async () => {
    const stub = newPlanned({ onHibernationRestore: never });
    const [a, b] = await Promise.all([connect(stub, pathTo(stub)), connect(stub, pathTo(stub))]);
    await talks(a, b);
    await evictDurableObject(stub);
    await talks(b, a);
  });

  it("of onConnect ends the session within a minute, also for a client that need not ping", async () => {
    const stub = newPlanned({
      onConnect: ({ meta }) => (meta.userId === "stuck" ? never() : undefined),
    });
    const other = await connect(stub, pathTo(stub, "v=1"));
    // Its upgrade is never answered.
    void connect(stub, pathTo(stub, "v=1&user=stuck")).catch(() => {});
    await vi.waitFor(async () => expect(await stub.getSessionCount()).toBe(2));
    const alarmAt = async () => Date.parse((await stub.inspect()).alarm ?? "");
    const limitAt = Date.now() + 40_000;
    await vi.waitFor(async () => expect(await alarmAt()).toBeLessThan(limitAt), { timeout: 8_000 });
    setTime(await alarmAt());
    await runDurableObjectAlarm(stub);
    expect(await stub.getSessionCount()).toBe(1);
    await talks(other, other);
  });
});

describe("a handler that writes a meta of no use", () => {
  it.each<[string, (ctx: { meta: object }) => void]>([
    [
      "null",
      (ctx) => {
        ctx.meta = null as never;
      },
    ],
    [
      "an expiry that is a text",
      ({ meta }) => {
        Object.assign(meta, { expiresAtMs: "soon" });
      },
    ],
    [
      "an expiry that is NaN",
      ({ meta }) => {
        Object.assign(meta, { expiresAtMs: Number.NaN });
      },
    ],
    [
      "no channels",
      ({ meta }) => {
        Object.assign(meta, { channels: undefined });
      },
    ],
  ])("disturbs no other while it runs: %s", async (_, write) => {
    let end: (() => void) | undefined;
    const stub = newPlanned({
      async do(ctx) {
        if (ctx.session.meta.userId === "a") {
          end?.();
          return;
        }
        try {
          write(ctx);
        } finally {
          await new Promise<void>((resolve) => {
            end = resolve;
          });
        }
      },
    });
    const [bad, dead, a, b] = await Promise.all(
      ["bad", "dead", "a", "b"].map((user) => connect(stub, pathTo(stub, `v=2&user=${user}`))),
    );
    const answer = bad?.ask("do");
    await vi.waitFor(() => expect(end).toBeDefined());
    if (!a || !b) throw new Error("not connected");
    await talks(a, b);
    setTime(Date.now() + 14_000);
    for (const socket of [a, b, bad]) socket?.emit("say", {});
    await a.caughtUp();
    setTime(Date.now() + 8_000);
    await runDurableObjectAlarm(stub);
    expect((await dead?.ended())?.code).toBe(4408);
    expect(Date.parse((await stub.inspect()).alarm ?? "")).toBeGreaterThan(Date.now());
    await a.ask("do");
    await answer;
    await talks(a, b);
    expect(await stub.getSessionCount()).toBe(3);
  });
});

describe("what a flush does", () => {
  it("goes on when a task of actor.atFlush throws", async () => {
    const built = vi.fn();
    const stub = newPlanned({
      do({ actor }) {
        actor.atFlush("bad", fail);
        actor.atFlush("good", built);
      },
    });
    const [a, b] = await Promise.all([connect(stub, pathTo(stub)), connect(stub, pathTo(stub))]);
    await a.ask("do");
    await vi.waitFor(() => expect(built).toHaveBeenCalledTimes(1));
    await talks(a, b);
  });

  it("reaches all while a session is lost whose meta JSON cannot hold", async () => {
    const stub = newPlanned({ more: [5n, new Set(["kept"])] });
    const [lost, a, b] = await Promise.all([
      connect(stub, pathTo(stub, "v=3&user=lost")),
      connect(stub, pathTo(stub, "v=3&user=a")),
      connect(stub, pathTo(stub, "v=3&user=b")),
    ]);
    await lost.close(3001);
    await talks(a, b);
    expect(await stub.getSessionCount()).toBe(3);
  });
});

describe("a session that is resumed", () => {
  it("keeps what a handler wrote into a Set of its meta", async () => {
    const stub = newPlanned({
      more: new Set(["first"]),
      do({ meta }) {
        (meta.more as Set<string>).add("second");
      },
    });
    const socket = await connect(stub, pathTo(stub, "v=3"));
    const { session, epoch } = await socket.event("hello");
    const { seq } = await socket.ask("do");
    await socket.close(3001);
    const back = await connect(stub, pathTo(stub, `v=3&resume=${session}:${epoch}:${seq}`));
    expect(await back.event("hello")).toMatchObject({ resumed: true });
    expect((await back.ask("more")).data).toEqual({ more: ["first", "second"] });
  });
});
