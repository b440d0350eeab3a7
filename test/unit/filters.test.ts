import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FilterIndex, type FilterKey, parseFilter } from "../../rooms/fanout/filters.ts";

const key = (filter: unknown) => parseFilter(filter) as FilterKey;

describe("a filter", () => {
  it("is the same whatever the order of its keys, and no other is", () => {
    expect(key({ b: "2", type: "t", a: "1" })).toBe(key({ type: "t", a: "1", b: "2" }));
    const all = [
      { type: "t" },
      { type: "t", a: "1" },
      { type: "t", a: "1,b" },
      { type: "t", 'a","1': "" },
      { type: "a", t: "1" },
      JSON.parse('{"type":"t","__proto__":"1"}'),
    ];
    expect(new Set(all.map(key)).size).toBe(all.length);
  });

  it("is an object of strings with a type, and nothing else", () => {
    for (const bad of [null, undefined, 1, "t", [], ["t"], {}, { type: "" }, { type: 1 }]) {
      expect(parseFilter(bad)).toBeNull();
    }
    expect(parseFilter({ type: "t", a: 1 })).toBeNull();
    expect(parseFilter({ type: "t", a: null })).toBeNull();
  });
});

/** The contract's rule, word by word. */
function isMatch(filter: Record<string, string>, type: string, payload: unknown): boolean {
  return Object.entries(filter).every(([field, wanted]) =>
    field === "type"
      ? wanted === type
      : typeof payload === "object" &&
        payload !== null &&
        !Array.isArray(payload) &&
        Object.hasOwn(payload, field) &&
        (payload as Record<string, unknown>)[field] === wanted,
  );
}

describe("the index", () => {
  const names = fc.constantFrom("a", "b", "c", "type", "__proto__", "constructor");
  const values = fc.constantFrom("1", "2");
  const own = <T>(entries: [string, T][]) => {
    const object: Record<string, T> = {};
    for (const [name, value] of entries) {
      Object.defineProperty(object, name, {
        value,
        enumerable: true,
        configurable: true,
        writable: true,
      });
    }
    return object;
  };
  const filter = fc
    .tuple(values, fc.array(fc.tuple(names, values), { maxLength: 4 }))
    .map(([type, fields]) => own<string>([...fields, ["type", type]]));
  const payload = fc.oneof(
    fc
      .array(fc.tuple(names, fc.oneof(values, fc.constantFrom(1, null, {}))), { maxLength: 6 })
      .map((fields) => own<unknown>(fields)),
    fc.constantFrom(undefined, null, "1", ["1", "2"]),
  );

  it("finds exactly whose filters match, through any subscribing and unsubscribing", () => {
    const step = fc.record({ subscriber: fc.nat(4), filter, add: fc.boolean() });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), values, payload, (steps, type, content) => {
        const index = new FilterIndex<number>();
        const held = new Map<number, Map<string, Record<string, string>>>();
        for (const { subscriber, filter, add } of steps) {
          const own = held.get(subscriber) ?? new Map<string, Record<string, string>>();
          held.set(subscriber, own);
          if (add) {
            index.add(key(filter), subscriber);
            own.set(key(filter), filter);
          } else {
            index.delete(key(filter), subscriber);
            own.delete(key(filter));
          }
        }
        const expected = [...held]
          .filter(([, own]) => [...own.values()].some((one) => isMatch(one, type, content)))
          .map(([subscriber]) => subscriber);
        expect([...index.match(type, content)].sort()).toEqual(expected.sort());
        for (const [subscriber, own] of held) {
          for (const one of own.values()) index.delete(key(one), subscriber);
        }
        expect(index.isEmpty).toBe(true);
      }),
      { numRuns: 500 },
    );
  });

  it("takes filters and payloads with thousands of fields", () => {
    const index = new FilterIndex<string>();
    const wide = own<string>(Array.from({ length: 5_000 }, (_, i) => [`k${i}`, "v"]));
    index.add(key({ ...wide, type: "t" }), "wide");
    expect([...index.match("t", wide)]).toEqual(["wide"]);
    index.delete(key({ ...wide, type: "t" }), "wide");
    expect(index.isEmpty).toBe(true);
  });
});
