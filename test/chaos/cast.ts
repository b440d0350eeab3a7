import type { Random } from "./random.ts";

/** Where a cast's clients connect (through the proxy), and where the truth is asked for. */
export interface Stage {
  /** `http://…` of the proxy. */
  url: string;
  wsUrl: string;
  /** `http://…` of the server itself. */
  direct: string;
  sign(userId: string): Promise<string>;
  ingestToken: string;
  watchToken(userId: string): Promise<string>;
}

/** Clients of one system, and what they know must be true. */
export interface Cast {
  readonly name: string;
  start(): Promise<void>;
  /** Does something that users do; says what. */
  stir(random: Random): string;
  /** The server was killed, now. Until `back`, nobody posts anything. */
  crashed(): void;
  /** Until `back`, nobody posts anything or comes or goes, so that actors can fall asleep. */
  rest(): void;
  /** It answers, and nobody has told it anything since: what it must have kept, but has not. */
  recall(): Promise<string[]>;
  /** Life goes on. */
  back(): void;
  /** A connection with this request went, and the server may not have been told. */
  lostUntold?(request: string): void;
  /** Its actors, as the debug routes name them: `presence/lobby`. */
  readonly actors: readonly string[];
  /** What does not hold now; it has 10 s to. Empty: all is well. */
  check(): Promise<string[]>;
  /** What can never be mended, such as a second delivery. */
  readonly faults: string[];
  figures(): Record<string, number>;
  stop(): void;
}

/** Time for an answer, in ms: a lost one shall not hold a client up. */
export const ANSWER_MS = 2_500;
/** The same for a look at the truth, on machines that stall. */
const LOOK_MS = 15_000;

export async function getJson<T>(url: string, headers: Record<string, string> = {}): Promise<T> {
  const response = await fetch(url, { headers, signal: AbortSignal.timeout(LOOK_MS) });
  if (!response.ok) throw new Error(`${new URL(url).pathname} answered ${response.status}`);
  return (await response.json()) as T;
}

/** A mistake of the check itself, a timeout say, is also a thing that does not hold now. */
export async function looked(look: () => Promise<string[]>): Promise<string[]> {
  try {
    return await look();
  } catch (error) {
    return [`could not look: ${error}`];
  }
}
