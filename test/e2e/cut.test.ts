import { expect, onTestFinished, test } from "vitest";
import { RollcallError, VeraniClient } from "../../client/client.ts";
import { startWorker } from "../bench/server.ts";
import { FaultProxy, type Link } from "../kit/proxy.ts";
import type { CounterEvents } from "./cut.events.ts";

/** So many lines are cut at the same time. */
const AT_ONCE = 12;
/** No answer is waited for longer: it would be one that never comes. */
const ANSWER_MS = 10_000;

test("an emit with an ack whose line is cut at any byte of it, or of its ack, is executed once or nacked", async () => {
  const server = await startWorker("test/e2e/cut.worker.ts", { COUNTERS: "Counter" });
  onTestFinished(() => server.stop());
  const port = Number(new URL(server.url).port);

  /** What became of an emit whose line is cut when so many more bytes have come from one side. */
  async function cutAfter(side: "client" | "server", bytes: number) {
    let line: Link | undefined;
    const proxy = new FaultProxy(() => port, {
      onConnect: (link) => {
        line ??= link;
      },
    });
    await proxy.listen();
    const key = `${side}-${bytes}`;
    const client = new VeraniClient<CounterEvents>(`${proxy.wsUrl}/ws`, {
      reconnection: { initialDelay: 20, maxDelay: 40 },
      pingInterval: 0,
    });
    try {
      await client.waitForConnection();
      // The line is idle afterwards: the next bytes are the emit's.
      await client.emitWithAck("count", { key: `${key}-before` });
      let isCut = false;
      void line?.cutAfter(side, bytes).then(() => {
        isCut = true;
      });
      const answer = await client
        .emitWithAck("count", { key }, { timeoutMs: ANSWER_MS })
        .catch((error: unknown) => error);
      return { key, answer, isCut };
    } finally {
      client.close();
      await proxy.stop();
    }
  }

  const results: Awaited<ReturnType<typeof cutAfter>>[] = [];
  for (const side of ["client", "server"] as const) {
    // On, until an emit and its ack come through whole.
    for (let from = 0, isWhole = false; !isWhole; from += AT_ONCE) {
      const bytes = Array.from({ length: AT_ONCE }, (_, i) => from + i);
      const some = await Promise.all(bytes.map((n) => cutAfter(side, n)));
      results.push(...some);
      isWhole = some.some(({ isCut }) => !isCut);
    }
  }
  expect(results.length).toBeGreaterThan(100);

  const client = new VeraniClient<CounterEvents>(`${server.url}/ws`);
  onTestFinished(() => client.close());
  const counts = await client.emitWithAck("counts");
  for (const { key, answer } of results) {
    const times = counts[key] ?? 0;
    if (answer instanceof RollcallError) {
      expect([key, answer.code, times <= 1]).toEqual([key, "disconnected", true]);
    } else expect([key, answer, times]).toEqual([key, { times: 1 }, 1]);
  }
  // A cut alone is no reason for a nack: the actor lived on, and knew what it had answered.
  expect(results.filter(({ answer }) => answer instanceof RollcallError)).toEqual([]);
});
