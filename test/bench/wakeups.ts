/** What the runtime called an actor's code for, so far. */
export interface Count {
  events: number;
  /** Time in which the actor was awake: from an event until 10 s after it, or until the next one. */
  awakeMs: number;
  lastAtMs: number;
}

/** By implementation, by the actor's name. */
export type Counts = Record<string, Record<string, Count>>;
