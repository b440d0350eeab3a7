import { datasetOf, type Metric, writePoint } from "../metrics.ts";

/** Least time between two writes, and the wait for what follows a first event, in ms. */
const WRITE_MS = 1_000;
const FIRST_MS = 100;

/** Counters of one instance of an actor. They are written at most once a second, each as one data point. */
export class Counters {
  readonly #env: unknown;
  readonly #label: string;
  readonly #counts = new Map<
    string,
    { metric: Metric; outcome: string; count: number; value: number }
  >();
  #writtenAtMs = 0;

  /** @param label names the room */
  constructor(env: unknown, label: string) {
    this.#env = env;
    this.#label = label;
  }

  /** Counts, where the deployment has a dataset. */
  add(metric: Metric, outcome = "", count = 1, value = 0): void {
    if (!datasetOf(this.#env)) return;
    const key = `${metric} ${outcome}`;
    const known = this.#counts.get(key) ?? { metric, outcome, count: 0, value: 0 };
    known.count += count;
    known.value += value;
    this.#counts.set(key, known);
    if (this.#counts.size > 1 || known.count > count) return;
    const waitMs = Math.max(FIRST_MS, this.#writtenAtMs + WRITE_MS - Date.now());
    setTimeout(() => this.#write(), Math.min(waitMs, WRITE_MS));
  }

  #write(): void {
    this.#writtenAtMs = Date.now();
    const dataset = datasetOf(this.#env);
    for (const { metric, outcome, count, value } of this.#counts.values()) {
      if (dataset) writePoint(dataset, this.#label, metric, outcome, count, value);
    }
    this.#counts.clear();
  }
}
