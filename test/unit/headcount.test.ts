import fc from "fast-check";
import { expect, test } from "vitest";
import { Headcount } from "../../rooms/moods/headcount.ts";
import { MOODS, SESSION_TTL_MS } from "../../rooms/moods/tally.ts";

type Step =
  | { do: "beat"; id: string; mood: number }
  | { do: "attach"; id: string; mood: number }
  | { do: "detach"; id: string }
  | { do: "leave"; id: string }
  | { do: "pass"; ms: number };

const id = fc.constantFrom("a", "b", "c", "d", "__proto__", "constructor");
const mood = fc.nat(MOODS.length - 1);
const step = fc.oneof<fc.WeightedArbitrary<Step>[]>(
  { weight: 5, arbitrary: fc.record({ do: fc.constantFrom("beat", "attach"), id, mood }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom("detach", "leave"), id }) },
  // Clocks are set back at times.
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constant("pass"), ms: fc.integer({ min: -500, max: 40_000 }) }),
  },
);

test("the headcount is the number of sessions with a socket or a heartbeat in the last 30 s, after any steps in any order", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60, size: "max" }), (steps) => {
      const headcount = new Headcount(MOODS.length, SESSION_TTL_MS);
      const model = new Map<string, { mood: number; beatAtMs: number; attached: boolean }>();
      let now = 1_000_000;
      for (const one of steps) {
        if (one.do === "pass") {
          now += one.ms;
          const before = model.size;
          for (const [id, guest] of model) {
            if (guest.beatAtMs + SESSION_TTL_MS > now) continue;
            guest.beatAtMs = 0;
            if (!guest.attached) model.delete(id);
          }
          expect(headcount.expire(now)).toBe(model.size < before);
        } else if (one.do === "leave") {
          model.delete(one.id);
          headcount.leave(one.id);
        } else if (one.do === "detach") {
          const guest = model.get(one.id);
          if (guest) guest.attached = false;
          if (guest?.beatAtMs === 0) model.delete(one.id);
          headcount.detach(one.id);
        } else {
          const { id, mood } = one;
          const guest = model.get(id) ?? { mood, beatAtMs: 0, attached: false };
          model.set(id, guest);
          guest.mood = mood;
          if (one.do === "attach") {
            guest.attached = true;
            headcount.attach(id, mood);
          } else {
            // A heartbeat is never older than the one before it.
            const others = [...model].filter(([other]) => other !== id);
            guest.beatAtMs = Math.max(now, ...others.map(([, { beatAtMs }]) => beatAtMs));
            expect(headcount.beat(id, mood, now)).toMatchObject({ id, ...guest });
          }
        }

        expect(headcount.size).toBe(model.size);
        for (const [id, guest] of model) expect(headcount.get(id)).toMatchObject({ id, ...guest });
        const guests = [...model.values()];
        expect(headcount.tally).toEqual(
          MOODS.map((_, i) => guests.filter(({ mood }) => mood === i).length),
        );
        const beats = guests.map(({ beatAtMs }) => beatAtMs).filter((beat) => beat > 0);
        const first = beats.length > 0 ? Math.min(...beats) + SESSION_TTL_MS : undefined;
        expect(headcount.expiresAtMs).toBe(first);
      }
    }),
    { numRuns: 300 },
  );
});
