import type { Latencies } from "../kit/latency.ts";
import type { Faults } from "../kit/ledger.ts";
import type { Stage } from "../kit/stage.ts";

/** A service with the plan of a soak. It is sent to the clients' processes. */
export interface SoakStage extends Stage {
  seed: number;
  /** The first clients join over this time, in ms. */
  rampMs: number;
}

/** Clients of one system: they join and leave, and know what must be true. */
export interface Cast {
  readonly name: string;
  /** By kind of delivery: from the call that sends to the handler that receives. */
  readonly latencies: Readonly<Record<string, Latencies>>;
  readonly faults: Faults;
  start(): Promise<void>;
  /** Called each second: a message that is too late is a fault. */
  sweep(): void;
  /** Compares what the server and all clients show with what is true. Called each 10 s. */
  check(): Promise<void>;
  /** From now on nobody joins, leaves or sends. */
  hold(): void;
  /** How many are connected, and how many the server counts. They are equal once all is quiet. */
  census(): Promise<Census>;
  /** Everybody leaves. */
  leave(): void;
  figures(): Record<string, number>;
}

/** Connections: how many there are, and how many the server's actors count. */
export interface Census {
  live: number;
  counted: number;
}

/** Means of exponentially distributed times, in ms. */
export const STAY_MS = 8 * 60_000;
export const AWAY_MS = 8_000;

/** Asks actors one after another, so that the census is no load of its own. */
export async function sumOf<T>(
  items: Iterable<T>,
  ask: (item: T) => Promise<number>,
): Promise<number> {
  let sum = 0;
  for (const item of items) sum += await ask(item);
  return sum;
}
