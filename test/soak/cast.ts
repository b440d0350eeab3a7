import { setTimeout as sleep } from "node:timers/promises";
import WebSocket from "ws";
import { Random } from "../kit/random.ts";
import type { Latencies } from "./latency.ts";

/** Where clients connect, and with what. It is sent to the clients' processes. */
export interface Stage {
  url: string;
  wsUrl: string;
  jwtSecret: string;
  ingestToken: string;
  signingKey: string;
  seed: number;
  /** Time over which the first ones come, in ms. */
  rampMs: number;
}

/** Clients of one system: they come and go, and know what must be true. */
export interface Cast {
  readonly name: string;
  /** By kind of delivery: from the call that sends to the handler that receives. */
  readonly latencies: Readonly<Record<string, Latencies>>;
  start(): Promise<void>;
  /** Called each second: what should have come by now and has not is a fault. */
  sweep(): void;
  /** Compares what the server and all clients say with what is so. Called each 10 s. */
  look(): Promise<void>;
  /** From now on nobody comes, goes or sends. */
  hold(): void;
  /** How many are here, and how many the server counts. The same once all is quiet. */
  census(): Promise<Census>;
  /** Everybody goes. */
  leave(): void;
  readonly faults: Faults;
  figures(): Record<string, number>;
}

/** Connections: how many are there, and how many the server's actors say there are. */
export interface Census {
  live: number;
  told: number;
}

/** After which a message that has not come counts as lost, in ms. */
export const LOST_MS = 15_000;
/** What changed less than this ago may be told either way, in ms: machines stall for 1–3 s. */
export const SETTLE_MS = 10_000;

const KEPT_FAULTS = 20;

/** What must not happen: all are counted, the first ones kept. */
export class Faults {
  readonly #kept: string[] = [];
  count = 0;

  add(what: string): void {
    this.count += 1;
    if (this.#kept.length < KEPT_FAULTS) this.#kept.push(`${new Date().toISOString()} ${what}`);
  }

  get first(): readonly string[] {
    return this.#kept;
  }
}

/** What was sent once and is to reach certain clients, once each. */
export class Delivery<Receiver> {
  readonly sentAtMs = performance.now();
  /** Who must get it, and whether they did. */
  readonly #receivers: Map<Receiver, boolean>;
  #missing: number;

  constructor(receivers: Iterable<Receiver>) {
    this.#receivers = new Map([...receivers].map((receiver) => [receiver, false]));
    this.#missing = this.#receivers.size;
  }

  /**
   * It came.
   *
   * @returns whether it did so for the first time; undefined for who might get it or not
   */
  reached(receiver: Receiver): boolean | undefined {
    const before = this.#receivers.get(receiver);
    if (before === undefined) return undefined;
    if (!before) this.#missing -= 1;
    this.#receivers.set(receiver, true);
    return !before;
  }

  /** Who goes need not get it any more. */
  excuse(receiver: Receiver): void {
    if (this.#receivers.get(receiver) === false) this.#missing -= 1;
    this.#receivers.delete(receiver);
  }

  /** Those who were there when it was sent and are still. */
  get receivers(): Iterable<Receiver> {
    return this.#receivers.keys();
  }

  get missing(): number {
    return this.#missing;
  }

  get isLate(): boolean {
    return this.#missing > 0 && performance.now() - this.sentAtMs > LOST_MS;
  }
}

/** Without compression: it would be the clients' CPU that is measured. */
export class PlainWebSocket extends WebSocket {
  constructor(url: string) {
    super(url, { perMessageDeflate: false });
  }
}

/** Random times, and a stop that ends all waits. */
export class Life {
  readonly random: Random;
  readonly #stopping = new AbortController();

  constructor(...seeds: number[]) {
    this.random = new Random(...seeds);
  }

  get isOver(): boolean {
    return this.#stopping.signal.aborted;
  }

  stop(): void {
    this.#stopping.abort();
  }

  /** @returns whether life goes on */
  async wait(ms: number): Promise<boolean> {
    await sleep(ms, undefined, { signal: this.#stopping.signal }).catch(() => {});
    return !this.isOver;
  }

  /** Exponentially distributed, as times between independent events are; 10 means at most. */
  around(meanMs: number): number {
    return Math.min(-Math.log(1 - this.random.unit()) * meanMs, 10 * meanMs);
  }

  /**
   * Comes, stays and goes for ever; in the end it stays if it is here. The first coming is within
   * `rampMs`.
   */
  async comeAndGo(
    rampMs: number,
    stayMs: number,
    awayMs: number,
    come: () => Promise<void>,
    go: () => void,
  ): Promise<void> {
    if (!(await this.wait(this.random.unit() * rampMs))) return;
    for (;;) {
      await come();
      if (!(await this.wait(this.around(stayMs)))) return;
      go();
      if (!(await this.wait(this.around(awayMs)))) return;
    }
  }

  /** Does something about `perSecond` times a second, at random moments. */
  async keepDoing(perSecond: number, act: () => void): Promise<void> {
    while (await this.wait(this.around(1_000 / perSecond))) act();
  }
}

/** Time for an answer, in ms: well over a stall of the machine. */
const ANSWER_MS = 20_000;

export async function request(
  url: string,
  init: RequestInit & { headers?: Record<string, string> } = {},
): Promise<Response> {
  return await fetch(url, { signal: AbortSignal.timeout(ANSWER_MS), ...init });
}

export async function getJson<T>(url: string, headers: Record<string, string> = {}): Promise<T> {
  const response = await request(url, { headers });
  if (!response.ok) throw new Error(`${new URL(url).pathname} answered ${response.status}`);
  return (await response.json()) as T;
}

/** Asks actors one after another, so that asking is no load of its own. */
export async function sumUp<T>(items: Iterable<T>, ask: (item: T) => Promise<number>) {
  let sum = 0;
  for (const item of items) sum += await ask(item);
  return sum;
}
