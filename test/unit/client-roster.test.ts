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

describe("fields that a newer server adds to a user", () => {
  const newer = (more: object) => ({
    ...{ userId: "a", username: "A", devices: 1, status: "online" as const },
    ...more,
  });

  it("are kept of a snapshot, and their changes taken from a diff", () => {
    const known = rosterOf({ ...snapshot([newer({ team: "red", badge: 1 })]), more: 1 } as never);
    expect(known.get("a")).toEqual(newer({ team: "red", badge: 1 }));
    const update = { userId: "a", badge: 2 };
    const join = { ...newer({ team: "blue" }), userId: "b" };
    const events = applyDiff(known, {
      ...{ joins: [join], leaves: [], updates: [update], timestamp: 1 },
    });
    expect(known.get("a")).toEqual(newer({ team: "red", badge: 2 }));
    expect(known.get("b")).toEqual(join);
    expect(events).toEqual([{ event: "presence.online", data: { ...join, timestamp: 1 } }]);
  });

  it("are kept of single events, without the event's name and time", () => {
    const known: Roster = new Map();
    const fold = (event: string, data: object) =>
      applyEvent(known, { event, data: { type: event, timestamp: 1, ...data } } as never);
    fold("presence.online", newer({ team: "red" }));
    expect(known.get("a")).toEqual(newer({ team: "red" }));
    fold("presence.update", { userId: "a", username: "A", devices: 2, badge: 1 });
    fold("presence.status", { userId: "a", username: "A", status: "busy", mood: "fine" });
    const all = { devices: 2, status: "busy", team: "red", badge: 1, mood: "fine" };
    expect(known.get("a")).toEqual(newer(all));
    // An arrival replaces what was known.
    fold("presence.online", newer({}));
    expect(known.get("a")).toEqual(newer({}));
  });
});

function isSame(a: Roster, b: Roster): boolean {
  return [...a].every(([userId, one]) => {
    const other = b.get(userId);
    return other?.devices === one.devices && other.status === one.status;
  });
}
