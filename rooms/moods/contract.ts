import * as z from "zod/mini";
import { MOODS, type Mood, type MoodState } from "./tally.ts";

export const mood = z.enum(MOODS, { error: `mood must be one of ${MOODS.join(", ")}` });
const count = z.int().check(z.nonnegative());

/** Events of the mood contract. */
export const moodEvents = {
  in: { "mood.set": z.object({ mood }) },
  out: {
    "mood.state": z.object({ count, moods: z.record(mood, count), timestamp: z.int() }),
  },
};
export interface MoodEvents {
  in: { "mood.set": { mood: Mood } };
  out: { "mood.state": MoodState };
}
