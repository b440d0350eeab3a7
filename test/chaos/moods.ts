import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { ReconnectingSocket } from "../../client/socket.ts";
import { MOODS, type Mood, type MoodState, SESSION_TTL_MS } from "../../rooms/moods/tally.ts";
import { ANSWER_MS, type Cast, getJson, looked, type Stage } from "./cast.ts";
import type { Random } from "./random.ts";

const POLLERS = 6;
const SOCKETS = 6;
const POLL_MS = 1_500;
/** How long heartbeats may have been in memory only when the server crashed. */
const WINDOW_MS = 10_000;
const SLACK_MS = 2_000;

/** One visitor. It is `here`, or it left, or it fell silent and counts for a while. */
abstract class Visitor {
  id = randomUUID();
  mood: Mood = "presence";
  state: "here" | "left" | "silent" = "here";
  /** Between these it may count or not; before it does, afterwards it does not. */
  fadesFromMs = 0;
  fadesToMs = 0;
  abstract come(): void;
  abstract say(mood: Mood): void;
  abstract leave(): void;
  abstract vanish(): void;
  /** Says nothing for now. */
  held = false;
  /** Until when it counts for sure, though it says nothing any more. */
  get countsUntilMs(): number {
    return this.state === "silent" ? this.fadesFromMs : 0;
  }
  crashed(): void {
    this.held = true;
    if (this.state === "silent") this.fadesToMs += SESSION_TTL_MS + WINDOW_MS;
  }
  stop(): void {}
}

async function post(url: string, body: object): Promise<boolean> {
  try {
    const answer = await fetch(url, {
      method: "POST",
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(ANSWER_MS),
    });
    await answer.arrayBuffer();
    return answer.ok;
  } catch {
    return false;
  }
}

class Poller extends Visitor {
  readonly #stage: Stage;
  #beat = { sessionId: "", atMs: 0 };
  #lastTryMs = 0;
  /** The mood that the server knows, unless a heartbeat is on its way or was lost. */
  #toldMood: Mood | undefined;
  #turn = 0;
  #beating: Promise<unknown> = Promise.resolve();
  #stopped = false;

  constructor(stage: Stage) {
    super();
    this.#stage = stage;
    this.come();
  }

  come(): void {
    this.state = "here";
    this.id = randomUUID();
    void this.#poll(++this.#turn);
  }

  async #poll(turn: number): Promise<void> {
    while (turn === this.#turn) {
      while (this.held) await sleep(50);
      if (turn !== this.#turn) return;
      const sentAtMs = Date.now();
      const { id: sessionId, mood } = this;
      this.#toldMood = undefined;
      const beating = post(`${this.#stage.url}/api/heartbeat`, { sessionId, mood });
      this.#beating = beating;
      const accepted = await beating;
      if (turn === this.#turn) {
        this.#lastTryMs = Date.now();
        if (accepted) {
          this.#beat = { sessionId, atMs: sentAtMs };
          this.#toldMood = mood;
        }
      }
      await sleep(POLL_MS);
    }
  }

  get #beatsUntilMs(): number {
    return this.#beat.sessionId === this.id ? this.#beat.atMs + SESSION_TTL_MS : 0;
  }

  override get countsUntilMs(): number {
    return this.state === "here" ? this.#beatsUntilMs : super.countsUntilMs;
  }

  say(mood: Mood): void {
    this.mood = mood;
  }

  leave(): void {
    this.state = "left";
    this.#turn += 1;
    void this.#leave(this.id);
  }

  /** Until it is done: a leave that nobody took leaves the session for its 30 s. */
  async #leave(sessionId: string): Promise<void> {
    // A heartbeat of ours may still be on its way.
    await this.#beating;
    while (!this.#stopped) {
      if (await post(`${this.#stage.direct}/api/leave`, { sessionId })) return;
      await sleep(300);
    }
  }

  vanish(): void {
    // In which mood it would go on to count, nobody could say.
    if (this.#toldMood !== this.mood) {
      this.leave();
      return;
    }
    this.#turn += 1;
    this.state = "silent";
    this.fadesFromMs = this.#beatsUntilMs;
    this.fadesToMs = Math.max(this.#lastTryMs, Date.now()) + ANSWER_MS + SESSION_TTL_MS + SLACK_MS;
  }

  override stop(): void {
    this.#turn += 1;
    this.#stopped = true;
  }
}

class SocketVisitor extends Visitor {
  readonly #socket: ReconnectingSocket;
  /** Until then a socket may be counted that went in the middle of its upgrade. */
  #ghostUntilMs = 0;

  constructor(stage: Stage) {
    super();
    this.#socket = new ReconnectingSocket(
      async () => {
        const query = new URLSearchParams({ sessionId: this.id, mood: this.mood });
        return `${stage.wsUrl}/ws/moods?${query}`;
      },
      {
        reconnection: {
          enabled: true,
          maxAttempts: 0,
          initialDelay: 200,
          maxDelay: 1_500,
          backoffMultiplier: 2,
        },
        pingInterval: 2_000,
        pongTimeout: 2_000,
        connectionTimeout: 3_000,
      },
      { state() {}, open() {}, message() {}, error() {}, close() {} },
    );
    this.come();
  }

  come(): void {
    this.state = "here";
    this.id = randomUUID();
    this.#socket.open();
  }

  say(mood: Mood): void {
    this.mood = mood;
    this.#socket.send(JSON.stringify({ type: "mood.set", data: { mood } }));
  }

  leave(): void {
    this.#socket.stop();
    this.state = Date.now() < this.#ghostUntilMs ? "silent" : "left";
    this.fadesFromMs = 0;
    this.fadesToMs = this.#ghostUntilMs;
  }

  lostUntold(): void {
    this.#ghostUntilMs = Date.now() + SESSION_TTL_MS + SLACK_MS;
    if (this.state === "left") this.leave();
  }

  override crashed(): void {
    super.crashed();
    this.#ghostUntilMs = 0;
    if (this.state === "silent") this.state = "left";
  }

  /** A socket that goes is gone: there is no silence to wait for. */
  vanish(): void {
    this.leave();
  }

  override stop(): void {
    this.#socket.stop();
  }
}

/** Anonymous visitors, half by polling and half by socket. */
export class MoodCast implements Cast {
  readonly name = "moods";
  // No debug route tells of them.
  readonly actors = [];
  readonly faults: string[] = [];
  readonly #stage: Stage;
  #visitors: Visitor[] = [];
  #looks = 0;
  #exact = 0;

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  async start(): Promise<void> {
    this.#visitors = [
      ...Array.from({ length: POLLERS }, () => new Poller(this.#stage)),
      ...Array.from({ length: SOCKETS }, () => new SocketVisitor(this.#stage)),
    ];
  }

  stir(random: Random): string {
    const visitor = random.pick(this.#visitors);
    const who = visitor.id.slice(0, 4);
    if (visitor.state !== "here") {
      // A new session: the old one, if it only fell silent, fades on its own.
      if (visitor.state === "silent" && Date.now() < visitor.fadesToMs) return `${who} is away`;
      visitor.come();
      return `visitor ${visitor.id.slice(0, 4)} comes`;
    }
    const what = random.int(0, 9);
    if (what < 6) {
      visitor.say(random.pick(MOODS));
      return `visitor ${who} feels ${visitor.mood}`;
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

  rest(): void {
    for (const visitor of this.#visitors) visitor.held = true;
  }

  /** Sessions whose heartbeat was answered less than 30 s ago, though they have said nothing since. */
  recall(): Promise<string[]> {
    return looked(async () => {
      const url = `${this.#stage.direct}/api/presence`;
      const { count } = await getJson<MoodState>(url);
      const now = Date.now();
      const least = this.#visitors.filter(({ countsUntilMs }) => now < countsUntilMs).length;
      return count < least
        ? [`${least} sessions live by their heartbeats, ${count} are counted`]
        : [];
    });
  }

  back(): void {
    for (const visitor of this.#visitors) visitor.held = false;
  }

  lostUntold(request: string): void {
    for (const visitor of this.#visitors) {
      if (visitor instanceof SocketVisitor && request.includes(visitor.id)) visitor.lostUntold();
    }
  }

  check(): Promise<string[]> {
    return looked(async () => {
      const state = await getJson<MoodState>(`${this.#stage.direct}/api/presence`);
      const now = Date.now();
      const wrong: string[] = [];
      let fading = 0;
      for (const mood of MOODS) {
        const own = this.#visitors.filter((visitor) => visitor.mood === mood);
        const here = own.filter(
          (visitor) =>
            visitor.state === "here" || (visitor.state === "silent" && now < visitor.fadesFromMs),
        ).length;
        const maybe = own.filter(
          ({ state, fadesFromMs, fadesToMs }) =>
            state === "silent" && now >= fadesFromMs && now < fadesToMs,
        ).length;
        fading += maybe;
        const told = state.moods[mood];
        if (told < here || told > here + maybe) {
          wrong.push(
            `${here}${maybe ? `–${here + maybe}` : ""} feel ${mood}, the server says ${told}`,
          );
        }
      }
      const sum = MOODS.reduce((total, mood) => total + state.moods[mood], 0);
      if (sum !== state.count) this.faults.push(`count ${state.count} is not the sum ${sum}`);
      this.#looks += 1;
      if (fading === 0) this.#exact += 1;
      return wrong;
    });
  }

  figures(): Record<string, number> {
    return {
      visitors: this.#visitors.length,
      here: this.#visitors.filter(({ state }) => state === "here").length,
      looks: this.#looks,
      "looks to the unit": this.#exact,
    };
  }

  stop(): void {
    for (const visitor of this.#visitors) visitor.stop();
  }
}
