import { afterEach, describe, inject, it, vi } from "vitest";
import { checkDevices } from "./device-model.ts";

afterEach(() => {
  vi.useRealTimers();
});

describe("devices under random heartbeats, sleeps, moves, crashes and watchers", () => {
  it("have the status that time and their last sign of life give them, in snapshots and for who watches", async () => {
    await checkDevices(inject("plays"));
  }, 600_000);
});
