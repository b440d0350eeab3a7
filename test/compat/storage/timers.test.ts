import { env } from "cloudflare:workers";
import { describe, expect, it, vi } from "vitest";
import type { Lab } from "../../room/rooms.ts";
import { connect, freshName } from "../../room/socket.ts";
import { GARBAGE, LATER, replaceMemory, rowsOf } from "./actor.ts";

const KEY = "rollcall:timers";
/** Time until a deadline of these tests, in ms. */
const SOON_MS = 300;

/** An actor that finds `timers` in its storage. */
async function actor(timers: unknown): Promise<DurableObjectStub<Lab>> {
  const stub = env.LAB.getByName(freshName()) as unknown as DurableObjectStub<Lab>;
  await replaceMemory(stub, { rows: { [KEY]: timers } });
  return stub;
}

/** Starts the actor, and waits until its timer `name` has fired. */
async function fires(stub: DurableObjectStub<Lab>, name: string): Promise<void> {
  await vi.waitFor(
    async () => {
      const journal = await stub.ingest("journal", undefined);
      expect(journal).toMatchObject({ ok: true, value: expect.arrayContaining([`rang ${name}`]) });
    },
    { timeout: 5_000 },
  );
}

const stored = async (stub: DurableObjectStub<Lab>) => (await rowsOf(stub))[KEY];

describe("deadlines in storage", () => {
  it("of the previous release fire, and those that are not due stay stored", async () => {
    const tomorrow = Date.now() + 24 * 3_600_000;
    const stub = await actor({ ring: Date.now() + SOON_MS, chime: tomorrow });
    await fires(stub, "ring");
    await vi.waitFor(async () => expect(await stored(stub)).toMatchObject({ chime: tomorrow }));
    expect(await stored(stub)).not.toHaveProperty("ring");
  });

  // The row has no version: every number in it is a deadline.
  it("of a next release fire, and unknown fields stay in the row", async () => {
    const tomorrow = Date.now() + 24 * 3_600_000;
    const stub = await actor({ ring: Date.now() + SOON_MS, unheardOf: tomorrow, ...LATER });
    await fires(stub, "ring");
    await vi.waitFor(async () => expect(await stored(stub)).not.toHaveProperty("ring"));
    expect(await stored(stub)).toMatchObject({ unheardOf: tomorrow, ...LATER });
  });

  it("that are garbage do not fire and do not stop others from firing", async () => {
    const bad = { nothing: null, text: "soon", never: Number.NaN, list: [1], endless: Infinity };
    const stub = await actor({ ...bad, ring: Date.now() + SOON_MS });
    await fires(stub, "ring");
    const socket = await connect(stub, "/ws?v=2");
    await socket.ask("timer.set", { name: "chime", atMs: Date.now() + SOON_MS });
    await fires(stub, "chime");
  });

  // The previous release stored them, and from then on set no alarm: the runtime refuses these times.
  it.each([0, -5, Number.NEGATIVE_INFINITY, 1])(
    "that are no times (%d) fire at once, and the others in time",
    async (atMs) => {
      const stub = await actor({ ring: atMs, chime: Date.now() + SOON_MS, bell: Number.NaN });
      await fires(stub, "ring");
      await fires(stub, "chime");
      expect(await stored(stub)).toBeUndefined();
    },
  );

  it("fire although what is noted of handlers that fail is garbage, or far ahead", async () => {
    const failures = [null, 0, "text", [1], { ring: null }, { ring: { sinceMs: 0, failures: -1 } }];
    const ahead = { sinceMs: Date.now() * 2, failures: 2_000, notBeforeMs: Date.now() * 2 };
    const rings = [...failures, { other: ahead, "": ahead }].map(async (failing) => {
      const stub = await actor({ "rollcall:failing": failing, ring: Date.now() + SOON_MS });
      await fires(stub, "ring");
    });
    await Promise.all(rings);
    const stub = await actor({ "rollcall:failing": { ring: ahead } });
    const { alarm } = await stub.inspect();
    expect(Date.parse(alarm ?? "")).toBeLessThanOrEqual(Date.now() + 3_600_000);
  });

  it("can be set where the whole row is garbage", async () => {
    const rings = GARBAGE.map(async (row) => {
      const stub = await actor(row);
      const socket = await connect(stub, "/ws?v=2");
      await socket.ask("timer.set", { name: "ring", atMs: Date.now() + SOON_MS });
      await fires(stub, "ring");
    });
    await Promise.all(rings);
  });
});
