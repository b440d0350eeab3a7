import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  applyDiff,
  applyEvent,
  diffRoster,
  type Roster,
  type RosterEntry,
  rosterOf,
  STATUSES,
  snapshot,
} from "../../rooms/presence/roster.ts";

// Few names, so that two rosters share users; a user's name does not change.
const entry: fc.Arbitrary<RosterEntry> = fc
  .record({
    userId: fc.constantFrom("a", "b", "c", "d", "__proto__", "constructor"),
    devices: fc.integer({ min: 1, max: 3 }),
    status: fc.constantFrom(...STATUSES),
  })
  .map((fields) => ({ ...fields, username: `name of ${fields.userId}` }));
const roster: fc.Arbitrary<Roster> = fc
  .array(entry)
  .map((entries) => new Map(entries.map((one) => [one.userId, one])));

const copyOf = (original: Roster): Roster => rosterOf(structuredClone(snapshot(original.values())));
const union = (a: Roster, b: Roster): Set<string> => new Set([...a.keys(), ...b.keys()]);

describe("a roster on both ends", () => {
  it("is turned from any into any other by their diff", () => {
    fc.assert(
      fc.property(roster, roster, (before, after) => {
        const diff = diffRoster(before, after, union(before, after), 1);
        const known = copyOf(before);
        if (diff) applyDiff(known, JSON.parse(JSON.stringify(diff)));
        expect(known).toEqual(after);
      }),
    );
  });

  it("is the same for one who only hears the single events", () => {
    fc.assert(
      fc.property(roster, roster, (before, after) => {
        const diff = diffRoster(before, after, union(before, after), 1);
        const known = copyOf(before);
        const events = diff ? applyDiff(copyOf(before), diff) : [];
        for (const event of structuredClone(events)) applyEvent(known, event);
        expect(known).toEqual(after);
      }),
    );
  });

  it("has a diff exactly when something changed, and a diff is news only once", () => {
    fc.assert(
      fc.property(roster, roster, (before, after) => {
        const diff = diffRoster(before, after, union(before, after), 1);
        expect(diff === null).toBe(before.size === after.size && isSame(before, after));
        const known = copyOf(before);
        if (!diff) return;
        expect(applyDiff(known, diff).length).toBeGreaterThan(0);
        expect(applyDiff(known, diff)).toEqual([]);
      }),
    );
  });
});

function isSame(a: Roster, b: Roster): boolean {
  return [...a].every(([userId, one]) => {
    const other = b.get(userId);
    return other?.devices === one.devices && other.status === one.status;
  });
}
