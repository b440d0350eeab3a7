import { randomUUID } from "node:crypto";
import { joinMoods, type MoodSession } from "../../client/moods.ts";
import { MOODS, type Mood, type MoodState } from "../../rooms/moods/tally.ts";
import {
  type Cast,
  type Census,
  Faults,
  getJson,
  Life,
  PlainWebSocket,
  request,
  SETTLE_MS,
  type Stage,
} from "./cast.ts";

const STAY_MS = 8 * 60_000;
const AWAY_MS = 8_000;
const POLL_MS = 10_000;
const CHANGES_PER_SECOND = 1 / 60;

/** One visitor, by socket or by polling. */
interface Visitor {
  mood: Mood;
  /** When it last came, went or felt otherwise. */
  stirredAtMs: number;
  isHere: boolean;
  session?: MoodSession;
  /** What its page shows, and since when. */
  shown?: MoodState;
  poll?: AbortController;
}

/** Anonymous visitors, half by socket and half by polling. */
export class MoodCast implements Cast {
  readonly name = "moods";
  readonly faults = new Faults();
  readonly latencies = {};
  readonly #stage: Stage;
  readonly #life: Life;
  readonly #visitors: Visitor[];
  #comings = 0;
  #received = 0;

  constructor(stage: Stage, clients: number) {
    this.#stage = stage;
    this.#life = new Life(stage.seed, 4);
    this.#visitors = Array.from({ length: clients }, () => ({
      mood: "presence",
      stirredAtMs: 0,
      isHere: false,
    }));
  }

  async start(): Promise<void> {
    for (const [i, visitor] of this.#visitors.entries()) {
      const come = async () => (i % 2 === 0 ? this.#join(visitor) : this.#poll(visitor));
      const go = () => this.#go(visitor);
      void this.#life.comeAndGo(this.#stage.rampMs, STAY_MS, AWAY_MS, come, go);
    }
    void this.#life.keepDoing(this.#visitors.length * CHANGES_PER_SECOND, () => {
      const visitor = this.#life.random.pick(this.#visitors);
      if (!visitor.session) return;
      this.#stir(visitor, true);
      visitor.session.setMood(visitor.mood);
    });
  }

  #stir(visitor: Visitor, isHere: boolean): void {
    visitor.stirredAtMs = performance.now();
    visitor.isHere = isHere;
    visitor.mood = this.#life.random.pick(MOODS);
  }

  #join(visitor: Visitor): void {
    this.#comings += 1;
    this.#stir(visitor, true);
    visitor.session = joinMoods({
      url: this.#stage.url,
      mood: visitor.mood,
      WebSocket: PlainWebSocket,
      onState: (state) => {
        this.#received += 1;
        visitor.shown = state;
      },
    });
  }

  #poll(visitor: Visitor): void {
    this.#comings += 1;
    this.#stir(visitor, true);
    const sessionId = randomUUID();
    const poll = new AbortController();
    visitor.poll = poll;
    const beat = async () => {
      while (!poll.signal.aborted) {
        await this.#post("heartbeat", { sessionId, mood: visitor.mood });
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, POLL_MS);
          poll.signal.addEventListener("abort", () => {
            clearTimeout(timer);
            resolve();
          });
        });
      }
      await this.#post("leave", { sessionId });
      visitor.stirredAtMs = performance.now();
    };
    void beat();
  }

  async #post(route: string, body: object): Promise<void> {
    try {
      const url = `${this.#stage.url}/api/${route}`;
      const response = await request(url, { method: "POST", body: JSON.stringify(body) });
      await response.arrayBuffer();
      if (!response.ok) this.faults.add(`/api/${route} answered ${response.status}`);
    } catch (error) {
      this.faults.add(`/api/${route} failed: ${error}`);
    }
  }

  #go(visitor: Visitor): void {
    this.#stir(visitor, false);
    visitor.session?.leave();
    visitor.poll?.abort();
    delete visitor.session;
    delete visitor.poll;
    delete visitor.shown;
  }

  sweep(): void {}

  /** The server's count, and that on every page, against who is here. */
  async look(): Promise<void> {
    this.#compare("the server says", await getJson<MoodState>(`${this.#stage.url}/api/presence`));
    for (const { shown, stirredAtMs } of this.#visitors) {
      if (shown && performance.now() - stirredAtMs > SETTLE_MS)
        this.#compare("a page shows", shown);
    }
  }

  #compare(who: string, { moods, count }: MoodState): void {
    const now = performance.now();
    const sum = MOODS.reduce((total, mood) => total + moods[mood], 0);
    if (sum !== count) this.faults.add(`count ${count} is not the sum ${sum}`);
    const unsure = this.#visitors.filter(({ stirredAtMs }) => now - stirredAtMs < SETTLE_MS).length;
    for (const mood of MOODS) {
      const sure = this.#visitors.filter(
        (visitor) =>
          visitor.isHere && visitor.mood === mood && now - visitor.stirredAtMs >= SETTLE_MS,
      ).length;
      if (moods[mood] >= sure && moods[mood] <= sure + unsure) continue;
      this.faults.add(`${sure} to ${sure + unsure} feel ${mood}, ${who} ${moods[mood]}`);
    }
  }

  hold(): void {
    this.#life.stop();
  }

  async census(): Promise<Census> {
    const { count } = await getJson<MoodState>(`${this.#stage.url}/api/presence`);
    return { live: this.#live, told: count };
  }

  get #live(): number {
    return this.#visitors.filter(({ isHere }) => isHere).length;
  }

  leave(): void {
    for (const visitor of this.#visitors) if (visitor.isHere) this.#go(visitor);
  }

  figures(): Record<string, number> {
    return { live: this.#live, comings: this.#comings, received: this.#received };
  }
}
