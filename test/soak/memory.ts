export interface Flatness {
  /** Growth by the least-squares line over the judged time, in % of its mean per hour. */
  slopePercentPerHour: number;
  /** Highest value of the last ten minutes over that of minutes 10 to 20, in %. */
  peakGrowthPercent: number;
  isFlat: boolean;
}

export const FROM_MINUTE = 10;
const WINDOW_MINUTES = 10;
const SLOPE_PERCENT = 5;
const PEAK_PERCENT = 5;

/**
 * Whether memory stays as it is after the first ten minutes: the line through all samples from
 * minute 10 on grows by at most 5 % of their mean in an hour, and the highest value of the last ten
 * minutes is at most 5 % above that of minutes 10 to 20.
 *
 * @param samples minutes since the start, and MiB
 * @returns null for a run of less than 30 minutes, which can prove neither
 */
export function judgeFlatness(samples: readonly (readonly [number, number])[]): Flatness | null {
  const last = samples.at(-1)?.[0] ?? 0;
  if (last < FROM_MINUTE + 2 * WINDOW_MINUTES - 0.5) return null;
  const late = samples.filter(([minute]) => minute >= FROM_MINUTE);
  const meanX = late.reduce((sum, [x]) => sum + x, 0) / late.length;
  const meanY = late.reduce((sum, [, y]) => sum + y, 0) / late.length;
  const covariance = late.reduce((sum, [x, y]) => sum + (x - meanX) * (y - meanY), 0);
  const variance = late.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0);
  const peak = (from: number, to: number) =>
    Math.max(...late.filter(([x]) => x >= from && x <= to).map(([, y]) => y));
  const first = peak(FROM_MINUTE, FROM_MINUTE + WINDOW_MINUTES);
  const slopePercentPerHour = ((covariance / variance) * 60 * 100) / meanY;
  const peakGrowthPercent = (peak(last - WINDOW_MINUTES, last) / first - 1) * 100;
  const isFlat = slopePercentPerHour <= SLOPE_PERCENT && peakGrowthPercent <= PEAK_PERCENT;
  return { slopePercentPerHour, peakGrowthPercent, isFlat };
}
