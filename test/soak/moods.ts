import { joinMoods, type MoodSession } from "../../client/moods.ts";
import { MOODS, type Mood, type MoodState } from "../../rooms/moods/tally.ts";
import { Faults, SETTLE_MS } from "../kit/ledger.ts";
import { Life } from "../kit/life.ts";
import { type Counted, judgeMoods, Poller, readMoods } from "../kit/moods.ts";
import { PlainWebSocket } from "../kit/sockets.ts";
import { AWAY_MS, type Cast, type Census, type SoakStage, STAY_MS } from "./cast.ts";

const POLL_MS = 10_000;
const CHANGES_PER_SECOND = 1 / 60;

/** One visitor, by socket or by polling. */
interface Visitor {
  mood: Mood;
  /** When it last joined, left or changed its mood. */
  changedAtMs: number;
  isHere: boolean;
  session?: MoodSession;
  /** What its page shows. */
  shown?: MoodState;
  poller?: Poller;
}

/** Anonymous visitors, half by socket and half by polling. */
export class MoodCast implements Cast {
  readonly name = "moods";
  readonly faults = new Faults();
  readonly latencies = {};
  readonly #stage: SoakStage;
  readonly #life: Life;
  readonly #visitors: Visitor[];
  #joins = 0;
  #received = 0;

  constructor(stage: SoakStage, clients: number) {
    this.#stage = stage;
    this.#life = new Life(stage.seed, 4);
    this.#visitors = Array.from({ length: clients }, () => ({
      mood: "presence",
      changedAtMs: 0,
      isHere: false,
    }));
  }

  async start(): Promise<void> {
    for (const [i, visitor] of this.#visitors.entries()) {
      const join = async () => this.#join(visitor, i % 2 === 0);
      const leave = () => void this.#leave(visitor);
      void this.#life.joinAndLeave([this.#stage.rampMs, STAY_MS, AWAY_MS], join, leave);
    }
    void this.#life.repeat(this.#visitors.length * CHANGES_PER_SECOND, () => {
      const visitor = this.#life.random.pick(this.#visitors);
      if (!visitor.session) return;
      this.#change(visitor, true);
      visitor.session.setMood(visitor.mood);
    });
  }

  #change(visitor: Visitor, isHere: boolean): void {
    visitor.changedAtMs = performance.now();
    visitor.isHere = isHere;
    visitor.mood = this.#life.random.pick(MOODS);
  }

  #join(visitor: Visitor, bySocket: boolean): void {
    this.#joins += 1;
    this.#change(visitor, true);
    if (bySocket) {
      visitor.session = joinMoods({
        url: this.#stage.url,
        mood: visitor.mood,
        WebSocket: PlainWebSocket,
        onState: (state) => {
          this.#received += 1;
          visitor.shown = state;
        },
      });
      return;
    }
    visitor.poller = new Poller(this.#stage, {
      pollMs: POLL_MS,
      mood: () => visitor.mood,
      onBeat: ({ status = 200 }) => this.#judge("heartbeat", status),
    });
  }

  #judge(route: string, status: number): void {
    if (status !== 200) this.faults.add(`/api/${route} was answered ${status}`);
  }

  async #leave(visitor: Visitor): Promise<void> {
    const { session, poller } = visitor;
    this.#change(visitor, false);
    delete visitor.session;
    delete visitor.poller;
    delete visitor.shown;
    session?.leave();
    if (!poller) return;
    this.#judge("leave", await poller.leave());
    visitor.changedAtMs = performance.now();
  }

  sweep(): void {}

  /** The server's count, and that on every page, against who is here. */
  async check(): Promise<void> {
    this.#compare("the server", await readMoods(this.#stage));
    for (const { shown, changedAtMs } of this.#visitors) {
      if (shown && performance.now() - changedAtMs > SETTLE_MS) this.#compare("a page", shown);
    }
  }

  #compare(who: string, state: MoodState): void {
    const now = performance.now();
    const visitors = this.#visitors.map(
      ({ mood, isHere, changedAtMs }): Counted => ({
        mood,
        isHere,
        isChanging: now - changedAtMs < SETTLE_MS,
      }),
    );
    for (const wrong of judgeMoods(who, state, visitors)) this.faults.add(wrong);
  }

  hold(): void {
    this.#life.stop();
  }

  async census(): Promise<Census> {
    return { live: this.#live, counted: (await readMoods(this.#stage)).count };
  }

  get #live(): number {
    return this.#visitors.filter(({ isHere }) => isHere).length;
  }

  leave(): void {
    for (const visitor of this.#visitors) if (visitor.isHere) void this.#leave(visitor);
  }

  figures(): Record<string, number> {
    return { live: this.#live, joins: this.#joins, received: this.#received };
  }
}
