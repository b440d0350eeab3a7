import type { Random } from "../kit/random.ts";

/** Clients of one system, and what they know must be true. */
export interface Cast {
  readonly name: string;
  start(): Promise<void>;
  /** Does something that users do; returns what. */
  act(random: Random): string;
  /** The server was killed at this moment. Until `resume`, nobody posts anything. */
  crashed(): void;
  /** Until `resume`, nobody posts, joins or leaves, so that actors can fall asleep. */
  pause(): void;
  /** The server answers, and received nothing since the crash: what it must have kept but has not. */
  checkKept(): Promise<string[]>;
  resume(): void;
  /** A connection with this request ended before its answer, and the server may not have noticed. */
  abandoned?(request: string): void;
  /** Its actors, as the debug routes name them: `presence/lobby`. */
  readonly actors: readonly string[];
  /** What is wrong at present; it has 10 s to heal. Empty: all is well. */
  check(): Promise<string[]>;
  /** What can never heal, such as a second delivery. */
  readonly faults: string[];
  figures(): Record<string, number>;
  stop(): void;
}

/** Time for an answer, in ms: a lost one must not delay a client. */
export const ANSWER_MS = 2_500;
/** Stalls of the machine, on top of the limits that the contracts give, in ms. */
export const SLACK_MS = 2_000;

/** A check that fails itself, for example by a timeout, is also something that is wrong. */
export async function attempt(check: () => Promise<string[]>): Promise<string[]> {
  try {
    return await check();
  } catch (error) {
    return [`the check failed: ${error}`];
  }
}
