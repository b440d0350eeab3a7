import { describe, expect, it } from "vitest";
import * as z from "zod/mini";
import { defineRecord } from "../../src/actor/record.ts";

const note = defineRecord({ version: 1, schema: z.object({ text: z.string() }) });
const status = defineRecord({
  version: 1,
  schema: z.object({ status: z.enum(["away", "busy"]) }),
  bare: "status",
});

describe("a stored record", () => {
  it("is written with its version and read back", () => {
    expect(note.write({ text: "a" })).toEqual({ v: 1, text: "a" });
    expect(note.read(note.write({ text: "a" }))).toMatchObject({ text: "a" });
  });

  it("without a version is read as version 1", () => {
    expect(note.read({ text: "a" })).toEqual({ text: "a" });
  });

  it("of a newer version keeps its unknown fields and its version when it is changed and rewritten", () => {
    const known = note.read({ v: 3, text: "a", colour: "red" });
    expect(known && note.write({ ...known, text: "b" })).toEqual({
      v: 3,
      text: "b",
      colour: "red",
    });
  });

  it("of an older version is migrated step by step", () => {
    const third = defineRecord({
      version: 3,
      schema: z.object({ words: z.array(z.string()), lang: z.string() }),
      migrations: {
        1: ({ text, ...rest }) => ({ ...rest, words: String(text).split(" ") }),
        2: (fields) => ({ ...fields, lang: "en" }),
      },
    });
    expect(third.read({ text: "a b" })).toEqual({ v: 3, words: ["a", "b"], lang: "en" });
    expect(third.read({ v: 2, words: ["c"] })).toEqual({ v: 3, words: ["c"], lang: "en" });
  });

  it("that is garbage is none, whatever its form", () => {
    for (const garbage of [undefined, null, 1, "x", [], {}, { text: 1 }, { v: 0, text: "a" }]) {
      expect(note.read(garbage)).toBeUndefined();
    }
    expect(note.read({ v: "1", text: "a" })).toBeUndefined();
    expect(status.read("asleep")).toBeUndefined();
    expect(status.read(7)).toBeUndefined();
  });

  it("whose version 1 is a bare value stays bare, so that the release before reads it", () => {
    expect(status.read("away")).toEqual({ status: "away" });
    expect(status.write({ status: "busy" })).toBe("busy");
  });

  it("that was bare keeps the fields of a newer version", () => {
    const known = status.read({ v: 2, status: "away", until: 5 });
    expect(known && status.write({ ...known, status: "busy" })).toEqual({
      v: 2,
      status: "busy",
      until: 5,
    });
  });
});
