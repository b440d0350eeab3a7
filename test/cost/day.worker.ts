/** A day that is played event by event, as fast as the machine can. */
import { PROBE, parseFrames } from "../../src/wire/frames.ts";
import { Random } from "../kit/random.ts";
import { type Counters, scaled } from "./bill.ts";
import { clock, MIDNIGHT_MS } from "./clock.worker.ts";
import {
  evictIdle,
  type Meter,
  type Meters,
  meteredEnv,
  newMeters,
  ringAlarm,
  settle,
} from "./meter.worker.ts";
import { ENDS, JITTER_MS, SEED, WAKING } from "./model.ts";

const DAY_MS = 24 * 3_600_000;
const ORIGIN = "https://rollcall.test";

/** An answer, or nothing where nobody has to be waited for. */
type Step = () => void | Promise<void>;

/** A Worker as its `fetch` is called. */
export type Fetch<E> = (request: Request, env: E) => Response | Promise<Response>;

/** What a client says all the time, and whether the actor's code answers it. */
export interface Ping {
  text: string;
  everyMs: number;
  wakes: boolean;
}

export class Day<E extends object> {
  readonly random = new Random(SEED);
  readonly env: E;
  readonly #meters: Meters;
  readonly #fetch: Fetch<E>;
  readonly #unanswered = new Set<Promise<void>>();
  /** Latest first. */
  readonly #steps: { atMs: number; step: Step }[] = [];

  constructor(fetch: Fetch<E>, env: E) {
    clock.reset();
    this.#fetch = fetch;
    this.#meters = newMeters(env);
    this.env = meteredEnv(env);
  }

  /** Has `step` taken at `atMs` after midnight. Steps of the same time keep their order. */
  at(wishMs: number, step: Step): void {
    const atMs = Math.ceil(wishMs);
    let [low, high] = [0, this.#steps.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#steps[middle]?.atMs ?? 0) > atMs) low = middle + 1;
      else high = middle;
    }
    this.#steps.splice(low, 0, { atMs, step });
  }

  /** Now, in ms after midnight. */
  get nowMs(): number {
    return clock.now - MIDNIGHT_MS;
  }

  /** A time of the waking day that leaves `lengthMs` until its end. */
  wakingTime(lengthMs = 0): number {
    const { fromMs, toMs } = WAKING;
    return fromMs + this.random.unit() * (toMs - fromMs - lengthMs);
  }

  /** A little late, as all is on a network. */
  late(): number {
    return this.random.unit() * JITTER_MS;
  }

  /** Plays all until `endMs` after midnight: steps, timers, alarms, whichever is next. */
  async play(endMs = DAY_MS): Promise<Counters> {
    for (;;) {
      const step = this.#steps.at(-1);
      const timer = clock.nextTimer();
      const alarmed = this.#nextAlarm();
      const times = [
        step ? MIDNIGHT_MS + step.atMs : Number.POSITIVE_INFINITY,
        timer?.atMs ?? Number.POSITIVE_INFINITY,
        alarmed?.alarmAtMs ?? Number.POSITIVE_INFINITY,
      ];
      const next = Math.min(...times);
      if (next >= MIDNIGHT_MS + endMs) break;
      clock.now = next;
      if (timer && next === times[1]) {
        await clock.ring(timer);
        // A Worker's may have sent something to an actor.
        if (!timer.owner) await settle();
      } else if (alarmed && next === times[2]) await ringAlarm(alarmed);
      else {
        this.#steps.pop();
        await step?.step();
      }
    }
    clock.now = MIDNIGHT_MS + endMs;
    await settle();
    await Promise.all(this.#unanswered);
    return this.counters();
  }

  /** What was counted so far, of all actors or of some. */
  counters(isMeant?: (key: string) => boolean): Counters {
    return this.#meters.counters(isMeant);
  }

  /** Lets something go on that waits for the clock. */
  async meanwhile(task: Promise<void>): Promise<void> {
    this.#unanswered.add(task);
    await settle();
  }

  #nextAlarm(): Meter | undefined {
    let next: Meter | undefined;
    for (const meter of this.#meters.actors.values()) {
      if (meter.alarmAtMs === null) continue;
      if (!next || meter.alarmAtMs < (next.alarmAtMs ?? 0)) next = meter;
    }
    return next;
  }

  /** A request from outside to the Worker. */
  async request(path: string, init: RequestInit = {}): Promise<Response> {
    this.#meters.workerRequests += 1;
    return this.#fetch(new Request(ORIGIN + path, init), this.env);
  }

  /** A request whose answer is not looked at, as long as it is a good one. */
  async ask(path: string, init: RequestInit = {}): Promise<void> {
    const response = await this.request(path, init);
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
    await response.body?.cancel();
  }

  /** A socket that pings until it is closed. */
  async connect(path: string, ping: Ping, headers: Record<string, string> = {}): Promise<Client> {
    const response = await this.request(path, { headers: { Upgrade: "websocket", ...headers } });
    const { webSocket } = response;
    const meter = this.#meters.called;
    if (!webSocket || !meter) {
      throw new Error(`no upgrade: ${response.status} ${await response.text()}`);
    }
    const client = new Client(webSocket, meter, this.#meters);
    const beat = async (): Promise<void> => {
      if (client.isClosed) return;
      this.at(this.nowMs + ping.everyMs, beat);
      await client.ping(ping);
    };
    this.at(this.nowMs + ping.everyMs, beat);
    await settle();
    return client;
  }

  /** A stream of server-sent events, read until it is left; how to leave it. */
  async stream(path: string, init: RequestInit = {}): Promise<() => Promise<void>> {
    const leaving = new AbortController();
    const response = await this.request(path, { ...init, signal: leaving.signal });
    if (!response.ok || !response.body) throw new Error(`no stream: ${response.status}`);
    const reader = response.body.getReader();
    const read = (async () => {
      while (!(await reader.read()).done);
    })().catch(() => {});
    return async () => {
      leaving.abort();
      await reader.cancel().catch(() => {});
      await read;
      await settle();
    };
  }
}

/** A client's end of a socket to an actor. */
export class Client {
  isClosed = false;
  onMessage: (text: string) => void = () => {};
  readonly #ws: WebSocket;
  readonly #meter: Meter;
  readonly #meters: Meters;
  /** The server's end of it, if the actor took it with hibernation. */
  readonly #socket: string;
  /** How long after the last `probed` a ping is to be a probe: `lookMs` of `hello`. */
  #probeMs = Number.POSITIVE_INFINITY;
  #probedAtMs = clock.now;
  #onNext: () => void = () => {};

  constructor(ws: WebSocket, meter: Meter, meters: Meters) {
    this.#ws = ws;
    this.#meter = meter;
    this.#meters = meters;
    this.#socket = String(meters.sockets);
    ws.addEventListener("message", ({ data }) => {
      this.#onNext();
      for (const { type, data: hello } of parseFrames(data)) {
        if (type === "hello") this.#probeMs = hello.lookMs ?? this.#probeMs;
        if (type === "probed") this.#probedAtMs = clock.now;
      }
      this.onMessage(String(data));
    });
    ws.addEventListener("close", () => {
      this.isClosed = true;
    });
    ws.accept();
  }

  /** Pings; where the actor's code answers, waits until it has. */
  async ping({ text, wakes }: Ping): Promise<void> {
    await evictIdle(this.#meter);
    if (this.isClosed) return;
    if (clock.now - this.#probedAtMs >= this.#probeMs) {
      this.#probedAtMs = clock.now;
      await this.tell(PROBE);
      return;
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#onNext = resolve;
    this.#ws.send(text);
    if (wakes) await promise;
  }

  /** Sends what the actor is to handle, and waits until it has. */
  async tell(text: string): Promise<void> {
    await evictIdle(this.#meter);
    if (this.isClosed) return;
    const before = this.#meter.messages;
    this.#ws.send(text);
    await settle(() => this.#meter.messages > before);
  }

  async close(code = 1000): Promise<void> {
    await evictIdle(this.#meter);
    this.isClosed = true;
    this.#ws.close(code, "");
    await settle();
  }

  /** Its network is gone: it says nothing more, not even that. */
  lose(): void {
    this.isClosed = true;
    this.#meters.lostAtMs.set(this.#socket, clock.now);
  }

  /** Ends as {@link ENDS} says, by a number from 0 to 1. */
  async end(chance: number): Promise<void> {
    if (this.isClosed) return;
    if (chance < ENDS.lost) return this.lose();
    await this.close(chance < ENDS.lost + ENDS.gone ? 1001 : 1000);
  }
}

/** Counters of one user's day. */
export async function perUser(day: Promise<Counters>, users: number): Promise<Counters> {
  return scaled(await day, 1 / users);
}

/** A Worker that plays the day that its path names, and answers with the counters. */
export function serveDays<E extends object>(
  days: Record<string, (env: E) => Promise<Counters>>,
  prepare: (env: E) => E = (env) => env,
): ExportedHandler<E> {
  return {
    async fetch(request, env) {
      const day = days[new URL(request.url).pathname.slice(1)];
      if (!day) return new Response("No such day", { status: 404 });
      return Response.json(await day(prepare(env)));
    },
  };
}
