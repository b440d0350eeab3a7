/** How long things took, as counts by duration: a tenth of a ms up to 100 ms, 1 % above. */
const FINE_MS = 100;
const PER_MS = 10;
const GROWTH = Math.log(1.01);
const BUCKETS = FINE_MS * PER_MS + 700;

/** Counts by bucket; may be added up and sent to another process. */
export type Counts = number[];

function bucketOf(ms: number): number {
  const bucket = ms < FINE_MS ? ms * PER_MS : FINE_MS * PER_MS + Math.log(ms / FINE_MS) / GROWTH;
  return Math.min(Math.max(Math.floor(bucket), 0), BUCKETS - 1);
}

/** The upper edge of a bucket, in ms. */
function edgeOf(bucket: number): number {
  const coarse = bucket + 1 - FINE_MS * PER_MS;
  return coarse <= 0 ? (bucket + 1) / PER_MS : FINE_MS * Math.exp(coarse * GROWTH);
}

export class Latencies {
  #counts: Counts = [];

  add(ms: number): void {
    const bucket = bucketOf(ms);
    this.#counts[bucket] = (this.#counts[bucket] ?? 0) + 1;
  }

  /** What there was since the last time, without gaps. */
  take(): Counts {
    const counts = Array.from(this.#counts, (count) => count ?? 0);
    this.#counts = [];
    return counts;
  }
}

export function addUp(all: readonly Counts[]): Counts {
  const length = Math.max(0, ...all.map((counts) => counts.length));
  const sum = new Array<number>(length).fill(0);
  for (const counts of all) {
    for (const [bucket, count] of counts.entries()) sum[bucket] = (sum[bucket] ?? 0) + count;
  }
  return sum;
}

export interface Summary {
  count: number;
  /** In ms; NaN where nothing was counted. */
  p50Ms: number;
  p99Ms: number;
  maxMs: number;
}

export function summarize(counts: Counts): Summary {
  const count = counts.reduce((sum, n) => sum + n, 0);
  return {
    count,
    p50Ms: quantile(counts, count * 0.5),
    p99Ms: quantile(counts, count * 0.99),
    maxMs: quantile(counts, count),
  };
}

function quantile(counts: Counts, rank: number): number {
  let sum = 0;
  for (const [bucket, count] of counts.entries()) {
    sum += count;
    if (count > 0 && sum >= rank) return edgeOf(bucket);
  }
  return Number.NaN;
}
