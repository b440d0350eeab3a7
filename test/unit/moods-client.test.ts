import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { joinMoods } from "../../client/moods.ts";
import { attempts, FakeWebSocket, installFakes, latest, pass } from "./client-fake.ts";

installFakes();

/** What the server answers when it is asked for a session, and how often it was. */
const asked = vi.fn<() => Response>();
beforeEach(() => {
  let issued = 0;
  asked.mockReset().mockImplementation(() => Response.json({ sessionId: `issued-${++issued}` }));
  vi.stubGlobal("fetch", async (url: string) => {
    if (url.endsWith("/api/session")) return asked();
    throw new Error(`Nobody is at ${url}`);
  });
});
afterEach(() => {
  vi.unstubAllGlobals();
});

const join = (more: object = {}) =>
  joinMoods({ url: "http://test", onState() {}, WebSocket: FakeWebSocket, ...more });

test("a visitor gets a session of the server, and sends it beside the URL", async () => {
  const me = join();
  await pass();
  expect(me.sessionId).toBe("issued-1");
  expect(latest().token).toBe("issued-1");
  expect(latest().url.href).not.toContain("issued");
  me.leave();
});

test("a visitor with an id of its own asks for none", async () => {
  const me = join({ sessionId: "own" });
  await pass();
  expect(asked).not.toHaveBeenCalled();
  expect(latest().url.searchParams.get("sessionId")).toBe("own");
  expect(latest().token).toBeNull();
  me.leave();
});

test("a server of an earlier release gets an id that the visitor made up", async () => {
  asked.mockImplementation(() => new Response(null, { status: 404 }));
  const me = join();
  await pass();
  expect(me.sessionId).not.toBe("");
  expect(latest().url.searchParams.get("sessionId")).toBe(me.sessionId);
  me.leave();
});

test("a session that is refused, since another key signs now, is replaced", async () => {
  const me = join();
  await pass();
  latest().accept();
  latest().end(4401);
  await pass(5_000);
  expect([attempts(), me.sessionId, latest().token]).toEqual([2, "issued-2", "issued-2"]);
  me.leave();
});

test("a server that issues none just now is asked again, and a visitor who leaves says nothing", async () => {
  const beacon = vi.fn(() => true);
  vi.stubGlobal("navigator", { sendBeacon: beacon });
  asked.mockImplementationOnce(() => new Response(null, { status: 429 }));
  const me = join();
  await pass();
  expect([attempts(), me.sessionId]).toEqual([0, ""]);
  const other = join();
  other.leave();
  expect(beacon).not.toHaveBeenCalled();
  await pass(5_000);
  expect([attempts(), me.sessionId.startsWith("issued")]).toEqual([1, true]);
  me.leave();
});
