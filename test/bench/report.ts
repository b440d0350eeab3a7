/** The result of a benchmark, as Markdown, JSON and a plot. */
import { bars } from "./plot.ts";

/** All others are compared with its figures. */
export const OURS = "Rollcall";

/** One thing that was measured. */
export interface Quantity {
  name: string;
  unit: string;
  better: "more" | "less";
  /** Digits behind the point. Default 0. */
  digits?: number;
  /**
   * By implementation, {@link OURS} among them: one value a round. Those of the same round were
   * taken one after another; a list of another length was measured elsewhere.
   */
  rounds: Record<string, readonly number[]>;
  /** By implementation: ours must be at least this many times as good. */
  atLeast?: Record<string, number>;
}

function quantity(better: Quantity["better"]) {
  return (
    name: string,
    unit: string,
    digits: number,
    rounds: Quantity["rounds"],
    atLeast?: Quantity["atLeast"],
  ): Quantity => ({ name, unit, better, digits, rounds, ...(atLeast && { atLeast }) });
}
export const [less, more] = [quantity("less"), quantity("more")];

/** What must hold by itself, without a peer. */
export interface Bound {
  what: string;
  value: number;
  unit: string;
  atMost: number;
}

export interface Result {
  title: string;
  /** What was done: sizes, lengths. One sentence or more. */
  setup: string;
  quantities: readonly Quantity[];
  bounds?: readonly Bound[];
  /** Of the processors' time, what the hypervisor took meanwhile, in %. */
  stolenPercent?: number;
}

/** How many times as good as a peer's ours is: median of the ratios within a round. */
export interface Ratio {
  quantity: string;
  peer: string;
  times: number;
  atLeast?: number;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

export function ratiosOf({ quantities }: Result): Ratio[] {
  return quantities.flatMap(({ name, better, rounds, atLeast }) => {
    const ours = rounds[OURS] ?? [];
    return Object.entries(rounds)
      .filter(([peer]) => peer !== OURS)
      .map(([peer, theirs]) => {
        const paired = ours.length === theirs.length;
        const [mine, other] = paired ? [ours, theirs] : [[median(ours)], [median(theirs)]];
        const times = median(
          mine.map((value, i) => {
            const [over, under] = better === "more" ? [value, other[i]] : [other[i], value];
            // None of both: as good.
            return over === under ? 1 : (over as number) / (under as number);
          }),
        );
        const least = atLeast?.[peer];
        return { quantity: name, peer, times, ...(least !== undefined && { atLeast: least }) };
      });
  });
}

export function missedOf(result: Result): string[] {
  return [
    ...ratiosOf(result)
      .filter(({ times, atLeast }) => atLeast !== undefined && !(times >= atLeast))
      .map(
        ({ quantity, peer, times, atLeast }) =>
          `${quantity}: ${factor(times)} times as good as ${peer}, at least ${atLeast}`,
      ),
    ...(result.bounds ?? [])
      .filter(({ value, atMost }) => !(value <= atMost))
      .map(({ what, value, unit, atMost }) => `${what}: ${value} ${unit}, at most ${atMost}`),
  ];
}

/** Runs `measure` for each implementation in each round; who is first changes from round to round. */
export async function takeTurns<F>(
  names: readonly string[],
  rounds: number,
  measure: (name: string, round: number) => Promise<F>,
): Promise<Record<string, F[]>> {
  const figures: Record<string, F[]> = Object.fromEntries(names.map((name) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    for (const turn of names.keys()) {
      const name = names[(round + turn) % names.length] as string;
      figures[name]?.push(await measure(name, round));
    }
  }
  return figures;
}

/** One value of each figure; by its name, multiplied by `factor`. */
export function pick<F extends { [K in keyof F]: number }>(
  figures: Record<string, readonly F[]>,
  key: keyof F,
  factor = 1,
): Record<string, number[]> {
  const of = (figure: F) => figure[key] * factor;
  return Object.fromEntries(Object.entries(figures).map(([name, list]) => [name, list.map(of)]));
}

/** Markdown: ratios first, then what has to hold by itself, then the figures. */
export function toMarkdown(result: Result): string {
  const found = ratiosOf(result);
  const peers = [...new Set(found.map(({ peer }) => peer))];
  const ratios = [...new Set(found.map(({ quantity }) => quantity))].map((name) => [
    name,
    ...peers.map((peer) => {
      const ratio = found.find((one) => one.quantity === name && one.peer === peer);
      if (!ratio) return "";
      return `${factor(ratio.times)}${ratio.atLeast === undefined ? "" : ` (≥ ${ratio.atLeast})`}`;
    }),
  ]);
  const bounds = (result.bounds ?? []).map(({ what, value, unit, atMost }) => [
    what,
    `${factor(value)} ${unit}`,
    `${factor(atMost)} ${unit}`,
  ]);
  const names = namesOf(result);
  const figures = result.quantities.map((quantity) => [
    `${quantity.name}, ${quantity.unit}`,
    ...names.map((name) => spread(quantity, name)),
  ]);
  return [
    result.setup,
    ...(ratios.length > 0
      ? [table([`${OURS}: times as good as`, ...peers.map((peer) => `… ${peer}`)], ratios)]
      : []),
    ...(bounds.length > 0 ? [table(["", "measured", "at most"], bounds)] : []),
    ...(figures.length > 0 ? [table(["median (least to most)", ...names], figures)] : []),
  ].join("\n\n");
}

/** Bars of the medians, each quantity on a scale of its own. */
export function toPlot({ title, quantities }: Result): string {
  return bars({
    title,
    subtitle: "Medians; each group on a scale of its own",
    label: "(+) longer is better, (−) shorter is better",
    groups: quantities.map(({ name, unit, better, digits = 0, rounds }) => ({
      name: `${name}, ${unit} (${better === "more" ? "+" : "−"})`,
      hasOwnScale: true,
      format: (value: number) => number(value, digits),
      bars: Object.entries(rounds).map(([series, values]) => ({ series, value: median(values) })),
    })),
  });
}

/** As it stands in docs/plots/bench.json. */
export function toJson(result: Result): object {
  return {
    ...result,
    quantities: result.quantities.map((quantity) => ({
      ...quantity,
      summary: Object.fromEntries(
        Object.entries(quantity.rounds).map(([name, values]) => [
          name,
          { median: median(values), least: Math.min(...values), most: Math.max(...values) },
        ]),
      ),
    })),
    ratios: ratiosOf(result),
    missed: missedOf(result),
  };
}

function namesOf({ quantities }: Result): string[] {
  return [...new Set(quantities.flatMap(({ rounds }) => Object.keys(rounds)))];
}

function spread({ rounds, digits = 0 }: Quantity, name: string): string {
  const values = rounds[name];
  if (!values) return "";
  const middle = number(median(values), digits);
  if (values.length === 1) return middle;
  return `${middle} (${number(Math.min(...values), digits)} to ${number(Math.max(...values), digits)})`;
}

function number(value: number, digits: number): string {
  return value.toLocaleString("en", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

/** Three significant digits. */
function factor(value: number): string {
  return value.toLocaleString("en", { maximumSignificantDigits: 3 });
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((cell, i) =>
    Math.max(cell.length, 3, ...rows.map((row) => (row[i] ?? "").length)),
  );
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(" | ")} |`;
  return [
    line(head),
    `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`,
    ...rows.map(line),
  ].join("\n");
}
