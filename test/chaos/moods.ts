import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { ReconnectingSocket } from "../../client/socket.ts";
import { MOODS, type Mood, SESSION_TTL_MS } from "../../rooms/moods/tally.ts";
import { judgeMoods, Poller, readMoods } from "../kit/moods.ts";
import type { Random } from "../kit/random.ts";
import { IMPATIENT } from "../kit/sockets.ts";
import type { Stage } from "../kit/stage.ts";
import { ANSWER_MS, attempt, type Cast, SLACK_MS } from "./cast.ts";

const POLLERS = 6;
const SOCKETS = 6;
const POLL_MS = 1_500;
/** Heartbeats of this age may have been in memory only when the server crashed. */
const WINDOW_MS = 10_000;

/** One visitor. It is `here`, it left, or it fell silent and counts for a while. */
abstract class Visitor {
  mood: Mood = "presence";
  state: "here" | "left" | "silent" = "here";
  /** Of a silent one: it counts before the first time, perhaps between them, never after the second. */
  fadesFromMs = 0;
  fadesToMs = 0;
  isPaused = false;

  abstract readonly id: string;
  abstract join(): void;
  abstract leave(): void;
  abstract vanish(): void;
  abstract stop(): void;

  setMood(mood: Mood): void {
    this.mood = mood;
  }

  /** Until this time it counts for certain, although it sends nothing more. */
  get countsUntilMs(): number {
    return this.state === "silent" ? this.fadesFromMs : 0;
  }

  /** Whether the server must count it. */
  get isHere(): boolean | "maybe" {
    if (this.state !== "silent") return this.state === "here";
    const now = Date.now();
    return now < this.fadesFromMs || (now < this.fadesToMs && "maybe");
  }

  crashed(): void {
    this.isPaused = true;
    if (this.state === "silent") this.fadesToMs += SESSION_TTL_MS + WINDOW_MS;
  }

  abandoned(_request: string): void {}
}

class PollingVisitor extends Visitor {
  readonly #stage: Stage;
  #poller: Poller;
  /** When the newest accepted heartbeat was sent. */
  #acceptedMs = 0;
  #triedMs = 0;
  /** The mood that the server knows, unless a heartbeat is on its way or was lost. */
  #sentMood: Mood | undefined;
  #isStopped = false;

  constructor(stage: Stage) {
    super();
    this.#stage = stage;
    this.#poller = this.#start();
  }

  get id(): string {
    return this.#poller.sessionId;
  }

  join(): void {
    this.state = "here";
    this.#acceptedMs = Number.NEGATIVE_INFINITY;
    this.#poller = this.#start();
  }

  #start(): Poller {
    return new Poller(this.#stage, {
      pollMs: POLL_MS,
      answerMs: ANSWER_MS,
      mood: () => (this.isPaused ? undefined : this.mood),
      onBeat: ({ sentAtMs, mood, status }) => {
        this.#sentMood = status === 200 ? mood : undefined;
        if (status !== undefined) this.#triedMs = Date.now();
        if (status === 200) this.#acceptedMs = sentAtMs;
      },
    });
  }

  override get countsUntilMs(): number {
    return this.state === "here" ? this.#acceptedMs + SESSION_TTL_MS : super.countsUntilMs;
  }

  leave(): void {
    this.state = "left";
    void this.#leave(this.#poller);
  }

  /** Until it succeeds: a leave without an answer lets the session live for its 30 s. */
  async #leave(poller: Poller): Promise<void> {
    while (!this.#isStopped && (await poller.leave()) !== 200) await sleep(300);
  }

  vanish(): void {
    // It may expire in either mood.
    if (this.#sentMood !== this.mood) {
      this.leave();
      return;
    }
    this.#poller.vanish();
    this.state = "silent";
    this.fadesFromMs = this.#acceptedMs + SESSION_TTL_MS;
    this.fadesToMs = Math.max(this.#triedMs, Date.now()) + ANSWER_MS + SESSION_TTL_MS + SLACK_MS;
  }

  stop(): void {
    this.#poller.vanish();
    this.#isStopped = true;
  }
}

class SocketVisitor extends Visitor {
  id = randomUUID();
  readonly #socket: ReconnectingSocket;
  /** Until this time the server may count a socket that ended in the middle of its upgrade. */
  #ghostUntilMs = 0;

  constructor(stage: Stage) {
    super();
    this.#socket = new ReconnectingSocket(
      async () => {
        const query = new URLSearchParams({ sessionId: this.id, mood: this.mood });
        return { url: `${stage.wsUrl}/ws/moods?${query}` };
      },
      IMPATIENT,
      { state() {}, open() {}, message() {}, error() {}, close() {} },
    );
    this.#socket.open();
  }

  join(): void {
    this.state = "here";
    this.id = randomUUID();
    this.#socket.open();
  }

  override setMood(mood: Mood): void {
    super.setMood(mood);
    this.#socket.send(JSON.stringify({ type: "mood.set", data: { mood } }));
  }

  leave(): void {
    this.#socket.stop();
    this.state = Date.now() < this.#ghostUntilMs ? "silent" : "left";
    this.fadesFromMs = 0;
    this.fadesToMs = this.#ghostUntilMs;
  }

  /** Without its socket it is gone: there is no time to wait. */
  vanish(): void {
    this.leave();
  }

  override abandoned(request: string): void {
    if (!request.includes(this.id)) return;
    this.#ghostUntilMs = Date.now() + SESSION_TTL_MS + SLACK_MS;
    if (this.state === "left") this.leave();
  }

  override crashed(): void {
    super.crashed();
    this.#ghostUntilMs = 0;
    if (this.state === "silent") this.state = "left";
  }

  stop(): void {
    this.#socket.stop();
  }
}

/** Anonymous visitors, half by polling and half by socket. */
export class MoodCast implements Cast {
  readonly name = "moods";
  // No debug route reports them.
  readonly actors = [];
  readonly faults: string[] = [];
  readonly #stage: Stage;
  #visitors: Visitor[] = [];
  #checks = 0;
  #exact = 0;

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  async start(): Promise<void> {
    this.#visitors = [
      ...Array.from({ length: POLLERS }, () => new PollingVisitor(this.#stage)),
      ...Array.from({ length: SOCKETS }, () => new SocketVisitor(this.#stage)),
    ];
  }

  act(random: Random): string {
    const visitor = random.pick(this.#visitors);
    const who = visitor.id.slice(0, 4);
    if (visitor.state !== "here") {
      if (visitor.isHere) return `${who} is away`;
      visitor.join();
      return `visitor ${visitor.id.slice(0, 4)} joins`;
    }
    const what = random.int(0, 9);
    if (what < 6) {
      visitor.setMood(random.pick(MOODS));
      return `visitor ${who} has the mood ${visitor.mood}`;
    }
    if (what < 9) {
      visitor.leave();
      return `visitor ${who} leaves`;
    }
    visitor.vanish();
    return `visitor ${who} vanishes`;
  }

  crashed(): void {
    for (const visitor of this.#visitors) visitor.crashed();
  }

  pause(): void {
    for (const visitor of this.#visitors) visitor.isPaused = true;
  }

  /** Sessions whose heartbeat was answered less than 30 s ago, although they sent nothing since. */
  checkKept(): Promise<string[]> {
    return attempt(async () => {
      const { count } = await readMoods(this.#stage);
      const now = Date.now();
      const least = this.#visitors.filter(({ countsUntilMs }) => now < countsUntilMs).length;
      return count < least
        ? [`${least} sessions live by their heartbeats, ${count} are counted`]
        : [];
    });
  }

  resume(): void {
    for (const visitor of this.#visitors) visitor.isPaused = false;
  }

  abandoned(request: string): void {
    for (const visitor of this.#visitors) visitor.abandoned(request);
  }

  check(): Promise<string[]> {
    return attempt(async () => {
      const wrong = judgeMoods("the server", await readMoods(this.#stage), this.#visitors);
      this.#checks += 1;
      if (this.#visitors.every(({ isHere }) => isHere !== "maybe")) this.#exact += 1;
      return wrong;
    });
  }

  figures(): Record<string, number> {
    return {
      visitors: this.#visitors.length,
      here: this.#visitors.filter(({ state }) => state === "here").length,
      checks: this.#checks,
      "exact checks": this.#exact,
    };
  }

  stop(): void {
    for (const visitor of this.#visitors) visitor.stop();
  }
}
