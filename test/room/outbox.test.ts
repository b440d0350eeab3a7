import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Outbox } from "../../src/actor/outbox.ts";

const WINDOW_MS = 20;

beforeEach(() => void vi.useFakeTimers({ toFake: ["setTimeout", "performance"] }));
afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

/** One socket, and how many frames each of its messages has. */
function newSocket(outbox: Outbox) {
  let queued = 0;
  const messages: number[] = [];
  const recipient = {
    protocol: 3 as const,
    isDue: false,
    flush() {
      messages.push(queued);
      queued = 0;
    },
  };
  return {
    messages,
    /** So many frames, each in a tick of its own. */
    async queue(frames: number) {
      for (let i = 0; i < frames; i++) {
        queued += 1;
        outbox.request(recipient);
        await Promise.resolve();
      }
    },
  };
}

describe("the outbox", () => {
  it("sends a lone frame at once, and those that keep coming together", async () => {
    const { messages, queue } = newSocket(new Outbox(WINDOW_MS, () => 1));
    await queue(1);
    expect(messages).toEqual([1]);
    await vi.advanceTimersByTimeAsync(1);
    await queue(40);
    expect(messages).toEqual([1, 1]);
    await vi.advanceTimersByTimeAsync(WINDOW_MS);
    expect(messages).toEqual([1, 1, 39]);
  });

  it("sends frames that come in waves together from the second wave on, until there is none for a while", async () => {
    const { messages, queue } = newSocket(new Outbox(WINDOW_MS, () => 1));
    await queue(40);
    await vi.advanceTimersByTimeAsync(WINDOW_MS);
    expect(messages).toEqual([1, 39]);
    for (let wave = 0; wave < 3; wave++) {
      await vi.advanceTimersByTimeAsync(2 * WINDOW_MS);
      await queue(40);
      await vi.advanceTimersByTimeAsync(WINDOW_MS / 4);
    }
    expect(messages).toEqual([1, 39, 40, 40, 40]);
    await vi.advanceTimersByTimeAsync(5 * WINDOW_MS);
    await queue(1);
    expect(messages).toEqual([1, 39, 40, 40, 40, 1]);
  });

  it("gathers frames for longer than its thread was busy when the last ones had been sent", async () => {
    const { messages, queue } = newSocket(new Outbox(WINDOW_MS, () => 1));
    await queue(40);
    await vi.advanceTimersByTimeAsync(1);
    expect(messages).toEqual([1, 39]);
    // The window ends 200 ms late.
    const now = performance.now.bind(performance);
    vi.spyOn(performance, "now").mockImplementation(() => now() + 200);
    await queue(5);
    await vi.advanceTimersByTimeAsync(WINDOW_MS);
    expect(messages).toEqual([1, 39, 5]);
    for (let i = 0; i < 27; i++) {
      await queue(5);
      await vi.advanceTimersByTimeAsync(10);
    }
    expect(messages).toEqual([1, 39, 5]);
    await vi.advanceTimersByTimeAsync(60);
    expect(messages).toEqual([1, 39, 5, 135]);
  });
});
