import { env, exports } from "cloudflare:workers";
import { describe, expect, it, vi } from "vitest";
import type { Dataset } from "../../src/metrics.ts";
import worker from "../../src/server/worker.ts";
import { CONSUMER } from "./consumer.ts";
import { connect, freshName } from "./socket.ts";

type Point = Parameters<Dataset["writeDataPoint"]>[0];

/** Sums by metric and outcome. */
function sums(points: readonly Point[]): Record<string, number> {
  const all: Record<string, number> = {};
  for (const { blobs, doubles } of points) {
    const key = blobs.slice(1).filter(Boolean).join(" ");
    all[key] = (all[key] ?? 0) + (doubles[0] ?? 0);
  }
  return all;
}

describe("a room's counters", () => {
  it("have connections, frames, publishes, resumes and webhooks, each by outcome, as data points", async () => {
    const room = `hook-${freshName()}`;
    const points: Point[] = [];
    const { METRICS } = env as unknown as { METRICS: Dataset };
    const spy = vi.spyOn(METRICS, "writeDataPoint");
    spy.mockImplementation((point: Point) => points.push(point));
    try {
      const enter = (query: string) =>
        connect(null, `/ws/presence?room=${room}&token=user:anna&v=3${query}`);
      const anna = await enter("");
      const hello = await anna.event("hello");
      await anna.event("presence.sync");
      const publish = () =>
        exports.default.fetch(`https://rollcall.test/api/v1/rooms/${room}/events`, {
          method: "POST",
          headers: {
            Authorization: "Bearer user:backend",
            "Content-Type": "application/json",
            "Idempotency-Key": "k",
          },
          body: '{"event":"news"}',
        });
      await publish();
      await publish();
      await anna.caughtUp();
      await anna.close(4000);
      const seq = anna.received.findLast(({ frame }) => frame.seq !== undefined)?.frame.seq;
      await enter(`&resume=${hello.session}:${hello.epoch}:${seq}`);
      const wrong = await enter("&resume=rubbish");
      await wrong.close();
      await vi.waitFor(
        () => {
          expect(sums(points)).toMatchObject({
            opened: 2,
            "closed 4000": 1,
            "closed 1000": 1,
            "publishes delivered": 1,
            "publishes repeated": 1,
            "resumes resumed": 1,
            "webhooks delivered": 1,
            out: expect.any(Number),
            in: expect.any(Number),
          });
        },
        { timeout: 5_000 },
      );
      const [{ indexes, blobs, doubles } = { indexes: [], blobs: [], doubles: [] }] = points;
      expect([indexes, blobs.length, doubles.length]).toEqual([["presence-room"], 3, 2]);
      // At most one point for each counter and second.
      expect(points.filter(({ blobs }) => blobs[1] === "out").length).toBeLessThanOrEqual(4);
      expect(JSON.stringify(points)).not.toContain("anna");
    } finally {
      spy.mockRestore();
    }
    expect(await (await fetch(`${CONSUMER}?room=${room}`)).text()).toContain("user.joined");
  });
});

describe("the Worker's counters", () => {
  it("have refused upgrades by close code or status, and refused publishes", async () => {
    const points: Point[] = [];
    const vars = { ...env, METRICS: { writeDataPoint: (point: Point) => points.push(point) } };
    const ask = (path: string, init: RequestInit) =>
      worker.fetch(new Request(`https://rollcall.test${path}`, init), vars as unknown as Env);
    const headers = { Upgrade: "websocket" };
    await ask("/ws/presence?token=bad", { headers });
    await ask("/ws/presence?token=bad&v=3", { headers });
    await ask("/publish", { method: "POST" });
    await ask("/api/v1/presence", {});
    expect(sums(points)).toEqual({ "refused 401": 1, "refused 4401": 1, "publishes 401": 1 });
  });

  it("are none where the binding does not exist, or fails", async () => {
    const broken = {
      writeDataPoint() {
        throw new Error("Too many");
      },
    };
    for (const METRICS of [undefined, broken]) {
      const answer = await worker.fetch(
        new Request("https://rollcall.test/ws/presence?token=bad", {
          headers: { Upgrade: "websocket" },
        }),
        { ...env, METRICS } as unknown as Env,
      );
      expect(answer.status).toBe(401);
    }
  });
});
