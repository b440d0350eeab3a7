import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { MOODS, type Mood, type MoodState } from "../../rooms/moods/tally.ts";
import { getJson, post } from "./http.ts";
import type { Stage } from "./stage.ts";

export interface Beat {
  sentAtMs: number;
  mood: Mood;
  /** Undefined while the answer is on its way. */
  status?: number;
}

export interface PollerOptions {
  pollMs: number;
  answerMs?: number;
  /** The mood at this moment; undefined: no heartbeat now. */
  mood(): Mood | undefined;
  /** Called when a heartbeat is sent, and again when its answer came or did not come in time. */
  onBeat(beat: Beat): void;
}

/** A visitor that polls: one session, from now until it leaves or vanishes. */
export class Poller {
  readonly sessionId = randomUUID();
  readonly #stopping = new AbortController();
  readonly #stage: Stage;
  #lastBeat: Promise<unknown> = Promise.resolve();

  constructor(stage: Stage, options: PollerOptions) {
    this.#stage = stage;
    void this.#poll(options);
  }

  async #poll({ pollMs, answerMs, mood: moodNow, onBeat }: PollerOptions): Promise<void> {
    const { signal } = this.#stopping;
    const options = answerMs === undefined ? {} : { timeoutMs: answerMs };
    while (!signal.aborted) {
      const mood = moodNow();
      if (mood !== undefined) {
        const beat: Beat = { sentAtMs: Date.now(), mood };
        onBeat(beat);
        const { sessionId } = this;
        const posting = post(`${this.#stage.url}/api/heartbeat`, { sessionId, mood }, options);
        this.#lastBeat = posting;
        beat.status = (await posting).status;
        if (!signal.aborted) onBeat(beat);
      }
      const waitMs = mood === undefined ? 50 : pollMs;
      await sleep(waitMs, undefined, { signal }).catch(() => {});
    }
  }

  /** Sends no more heartbeats: the session expires. */
  vanish(): void {
    this.#stopping.abort();
  }

  /** Leaves, after the heartbeat that is on its way. @returns the status of the answer; 0: none came */
  async leave(): Promise<number> {
    this.vanish();
    await this.#lastBeat;
    return (await post(`${this.#stage.direct}/api/leave`, { sessionId: this.sessionId })).status;
  }
}

export function readMoods({ direct }: Stage): Promise<MoodState> {
  return getJson(`${direct}/api/presence`);
}

/** A visitor as the counts must have it: surely counted, perhaps, or surely not. */
export interface Counted {
  mood: Mood;
  isHere: boolean | "maybe";
  /** Whether its mood is not certain. */
  isChanging?: boolean;
}

/** What is wrong with a head-count, for these visitors. `who` shows it: `the server`, `a page`. */
export function judgeMoods(
  who: string,
  { count, moods }: MoodState,
  visitors: readonly Counted[],
): string[] {
  const wrong: string[] = [];
  const sum = MOODS.reduce((total, mood) => total + moods[mood], 0);
  if (sum !== count) wrong.push(`count ${count} is not the sum ${sum}`);
  const changing = visitors.filter(({ isChanging }) => isChanging).length;
  for (const mood of MOODS) {
    const own = visitors.filter((visitor) => visitor.mood === mood && !visitor.isChanging);
    const least = own.filter(({ isHere }) => isHere === true).length;
    const most = own.filter(({ isHere }) => isHere !== false).length + changing;
    if (moods[mood] >= least && moods[mood] <= most) continue;
    wrong.push(`${least} to ${most} visitors have the mood ${mood}, ${who} shows ${moods[mood]}`);
  }
  return wrong;
}
