/** Cloudflare's Analytics Engine, as far as it is used. */
export interface Dataset {
  writeDataPoint(point: { indexes: string[]; blobs: string[]; doubles: number[] }): void;
}

/** What is counted. `docs/operating.md` has queries. */
export type Metric =
  /** Connections that opened, and that ended, by close code. */
  | "opened"
  | "closed"
  /** Upgrades that were refused, by close code or status. */
  | "refused"
  /** Frames from clients, and to them. */
  | "in"
  | "out"
  /** Sessions that clients came back for: `resumed`, `reloaded`, or why not. */
  | "resumes"
  /** Messages over HTTP: `delivered`, `repeated`, `conflict`, or the status of a refusal. */
  | "publishes"
  /** Attempts of webhooks: `delivered` or `failed`. The value is the age of the oldest change, in ms. */
  | "webhooks";

/** The binding of the dataset, where the deployment has one. */
export function datasetOf(env: unknown): Dataset | undefined {
  const dataset = (env as { METRICS?: Partial<Dataset> } | null | undefined)?.METRICS;
  return typeof dataset?.writeDataPoint === "function" ? (dataset as Dataset) : undefined;
}

/**
 * Writes a data point: blobs are the room's label, the metric and the outcome; doubles the count, and the sum
 * of the values. Nothing waits for it, and no failure of it matters.
 */
export function writePoint(
  dataset: Dataset,
  label: string,
  metric: Metric,
  outcome: string,
  count: number,
  value = 0,
): void {
  try {
    dataset.writeDataPoint({
      indexes: [label],
      blobs: [label, metric, outcome],
      doubles: [count, value],
    });
  } catch {
    // Too many in one invocation, for example: the counts are approximate.
  }
}
