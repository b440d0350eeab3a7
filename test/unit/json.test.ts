import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { encodeEvent } from "../../src/wire/frames.ts";
import { assertJson } from "../../src/wire/json.ts";

const CYCLE: Record<string, unknown> = {};
CYCLE.self = CYCLE;

describe("data of an emit", () => {
  it.each([
    ["a Uint8Array", { bytes: new Uint8Array(2) }],
    ["a Map", { map: new Map([[1, 2]]) }],
    ["a Set", [new Set([1])]],
    ["a BigInt", { n: 1n }],
    ["a function", { f: () => 1 }],
    ["a symbol", { s: Symbol("x") }],
    ["NaN", { n: Number.NaN }],
    ["Infinity", [Number.POSITIVE_INFINITY]],
    ["undefined in a list", [undefined]],
    ["an Error", { error: new Error("x") }],
    ["a Promise", { later: Promise.resolve() }],
    ["itself", CYCLE],
  ])("throws a TypeError when JSON would change or lose it: %s", (_, data) => {
    expect(() => assertJson(data)).toThrow(TypeError);
    expect(() => encodeEvent("said", data, "default")).toThrow(TypeError);
  });

  it("may have fields that are undefined, dates, and objects of a class", () => {
    class Point {
      x = 1;
    }
    for (const data of [undefined, null, { a: undefined }, { at: new Date(0) }, new Point()]) {
      expect(() => assertJson(data)).not.toThrow();
    }
  });

  it("passes when it is any value of JSON", () => {
    fc.assert(fc.property(fc.jsonValue(), (value) => assertJson(value)));
  });
});
