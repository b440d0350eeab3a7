/**
 * Anonymous presence with moods: `rollcall/rooms/moods`.
 *
 * @module
 *
 * @example
 * const focus = moods({ moods: ["deep", "light", "break"], ttlMs: 60_000 });
 * export class MoodRoom extends createActorHandler(focus) {}
 * export default focus.routes();
 */
import type { System } from "../../src/http/system.ts";
import type { MoodEnv } from "./access.ts";
import { GONE } from "./journal.ts";
import { defineMoods, type MoodRoom } from "./room.ts";
import { moodRoutes } from "./routes.ts";
import { DEFAULT_MOOD, MOODS, type Mood, type MoodOptions, SESSION_TTL_MS } from "./tally.ts";

export type { MoodEnv } from "./access.ts";
export { describeMoods } from "./contract.ts";
export type { MoodMeta } from "./count.ts";
export type { MoodCalls, MoodRoom } from "./room.ts";
export {
  DEFAULT_MOOD,
  MOODS,
  type Mood,
  type MoodEvents,
  type MoodOptions,
  type MoodState,
  SESSION_ID_LENGTH,
  SESSION_TTL_MS,
} from "./tally.ts";

const MIN_TTL_MS = 3_000;

/**
 * Counts anonymous sessions by mood. The variable `MOOD_SHARDS` is the number of actors that count.
 *
 * @returns the room, for `createActorHandler`, with its `routes()`, for the Worker
 * @throws RangeError when an option is out of its range
 */
export function moods<E extends object = MoodEnv, const M extends string = Mood>(
  options: MoodOptions<M> = {},
): MoodRoom<E, M> & System<E> {
  const {
    name = "mood-room",
    websocketPath = "/ws/moods",
    binding = "MOODS",
    moods = MOODS as readonly string[] as readonly [M, ...M[]],
    defaultMood = (options.moods?.[0] ?? DEFAULT_MOOD) as M,
    ttlMs = SESSION_TTL_MS,
  } = options;
  if (moods.length === 0 || moods.length > GONE || new Set(moods).size < moods.length) {
    throw new RangeError(`moods must be 1 to ${GONE} different texts`);
  }
  if (!moods.includes(defaultMood)) throw new RangeError("defaultMood must be one of moods");
  if (!(ttlMs >= MIN_TTL_MS)) throw new RangeError(`ttlMs must be at least ${MIN_TTL_MS}`);
  const settings = { websocketPath, binding, moods, defaultMood };
  const room = defineMoods<E, M>({ ...settings, name, ttlMs });
  return Object.assign(room, { routes: () => moodRoutes<E, M>(settings) });
}
