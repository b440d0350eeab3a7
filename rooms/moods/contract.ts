import * as z from "zod/mini";
import type { EventSchemas, EventsOf } from "../presence/contract.ts";
import { MOODS } from "./tally.ts";

export const mood = z.enum(MOODS, { error: `mood must be one of ${MOODS.join(", ")}` });
const count = z.int().check(z.nonnegative());

/** Events of the mood contract. */
export const moodEvents = {
  in: { "mood.set": z.object({ mood }) },
  out: {
    "mood.state": z.object({ count, moods: z.record(mood, count), timestamp: z.int() }),
  },
} satisfies EventSchemas;
export type MoodEvents = EventsOf<typeof moodEvents>;
