import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { losesDigits, sliceElements, sliceMember } from "../../rooms/fanout/slice.ts";

/** JSON as somebody may write it: with blanks between the tokens. */
const written = fc
  .record({ value: fc.jsonValue(), indent: fc.constantFrom(0, 1, 3) })
  .map(({ value, indent }) => ({ value, text: JSON.stringify(value, null, indent) }));

describe("a part of a JSON text", () => {
  it("is what was written, digit by digit", () => {
    const body =
      ' { "a" : "}\\"" , "payload" :\n{"id": 154284075601887489, "x":[1.0,-0, 1E3]} , "b":1}';
    expect(sliceMember(body, "payload")).toBe('{"id": 154284075601887489, "x":[1.0,-0, 1E3]}');
    expect(sliceMember(body, "b")).toBe("1");
    expect(sliceMember(body, "c")).toBeUndefined();
  });

  it("is the last of several members with one name, however the name is spelled", () => {
    expect(sliceMember('{"payload":1,"p\\u0061yload":[2]}', "payload")).toBe("[2]");
    expect(sliceMember('{"__proto__":7}', "__proto__")).toBe("7");
  });

  it("is not found inside strings or nested values", () => {
    expect(sliceMember('{"a":{"payload":1},"b":"\\"payload\\":2"}', "payload")).toBeUndefined();
    expect(sliceMember('["payload"]', "payload")).toBeUndefined();
  });

  it("is found in an object of any members, in any order", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.string(), written)),
        fc.string(),
        written,
        (others, key, own) => {
          const members = [...others, [key, own] as const];
          const text = `{${members.map(([name, { text }]) => `${JSON.stringify(name)} : ${text}`).join(" ,\n")}}`;
          expect(sliceMember(text, key)).toBe(own.text);
        },
      ),
    );
  });

  it("splits a list into the texts of its elements", () => {
    fc.assert(
      fc.property(fc.array(written), (values) => {
        const text = ` [ ${values.map(({ text }) => text).join(" , ")} ] `;
        expect(sliceElements(text)).toEqual(values.map(({ text }) => text));
      }),
    );
  });

  it("of 256 KiB is found without recursion", () => {
    const deep = `${"[".repeat(100_000)}${"]".repeat(100_000)}`;
    expect(sliceMember(`{"payload":${deep}}`, "payload")).toBe(deep);
  });
});

describe("a JSON text", () => {
  it("loses digits only where a number has many, or an exponent", () => {
    for (const text of ["154284075601887489", '{"a":[1E400]}', "[0.1000000000000000055]"]) {
      expect(losesDigits(text)).toBe(true);
    }
    for (const text of ["1.0", '"154284075601887489"', '{"154284075601887489":"\\"1e5"}', "true"]) {
      expect(losesDigits(text)).toBe(false);
    }
  });
});
