import { describe, expect, it } from "vitest";
import { type Counters, monthOf } from "../cost/bill.ts";

const nothing: Counters = {
  workerRequests: 0,
  actorCalls: 0,
  messages: 0,
  pings: 0,
  alarms: 0,
  wakeUps: 0,
  awakeSeconds: 0,
  residentSeconds: 0,
  rowsRead: 0,
  rowsWritten: 0,
  kvReads: 0,
  kvWrites: 0,
  d1RowsRead: 0,
  d1RowsWritten: 0,
};

describe("a month's bill", () => {
  it("is the price of the plan alone while the use stays within the allowances", () => {
    expect(monthOf({ ...nothing, workerRequests: 300_000, kvWrites: 30_000, pings: 1e9 })).toEqual({
      total: 5,
      lines: [],
    });
  });

  // Example 4 of https://developers.cloudflare.com/durable-objects/platform/pricing/
  it("equals Cloudflare's own example of 100 hibernating actors with 100 sockets each", () => {
    const messages = 100 * 100 * 60 * 24;
    const { total, lines } = monthOf({ ...nothing, messages, awakeSeconds: messages * 0.01 });
    expect(lines.map(({ name, dollars }) => [name, dollars.toFixed(2)])).toEqual([
      ["actor requests", "3.09"],
      ["time awake", "1.91"],
    ]);
    expect(total.toFixed(2)).toBe("10.00");
  });
});
