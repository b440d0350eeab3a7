import { describe, expect, test } from "vitest";
import { missedOf, type Result, ratiosOf, toMarkdown, toPlot } from "../bench/report.ts";

const result: Result = {
  title: "Trial",
  setup: "How it was measured.",
  quantities: [
    {
      name: "rate",
      unit: "a second",
      better: "more",
      rounds: { Rollcall: [20, 30, 90], peer: [10, 20, 10], "of old": [15] },
      atLeast: { peer: 2, "of old": 3 },
    },
    { name: "delay", unit: "ms", better: "less", digits: 1, rounds: { Rollcall: [4], peer: [2] } },
    { name: "alone", unit: "ms", better: "less", rounds: { Rollcall: [1234] } },
  ],
  bounds: [
    { what: "memory", value: 64, unit: "MB", atMost: 64 },
    { what: "waste", value: 65, unit: "MB", atMost: 64 },
  ],
};

describe("a benchmark's report", () => {
  test("compares within each round and states how many times as good Rollcall is, whether more or less is better", () => {
    expect(ratiosOf(result)).toEqual([
      { quantity: "rate", peer: "peer", times: 2, atLeast: 2 },
      { quantity: "rate", peer: "of old", times: 2, atLeast: 3 },
      { quantity: "delay", peer: "peer", times: 0.5 },
    ]);
  });

  test("lists the bounds that were missed, and no others", () => {
    expect(missedOf(result)).toEqual([
      "rate: 2 times as good as of old, at least 3",
      "waste: 65 MB, at most 64",
    ]);
  });

  test("prints the ratios before the figures", () => {
    const page = toMarkdown(result);
    expect(page.indexOf("How it was measured.")).toBe(0);
    expect(page).toMatch(/\| rate +\| 2 \(≥ 2\) +\| 2 \(≥ 3\) +\|/);
    expect(page).toMatch(/\| rate, a second +\| 30 \(20 to 90\) +\| 10 \(10 to 20\) +\| 15 +\|/);
    expect(page).toMatch(/\| alone, ms +\| 1,234 +\| +\| +\|/);
    expect(page.indexOf("times as good as")).toBeLessThan(page.indexOf("median (least to most)"));
  });

  test("plots each group over the full width", () => {
    const widths = [...toPlot(result).matchAll(/<rect [^>]*width="([\d.]+)" height="16"/g)].map(
      ([, width]) => Number(width),
    );
    const longest = Math.max(...widths);
    // rate: 30, 10, 15; delay: 4, 2; alone.
    expect(widths.map((width) => Math.round((width / longest) * 100))).toEqual([
      100, 33, 50, 100, 50, 100,
    ]);
  });
});
