/**
 * Charts as SVG, without a library: pure functions from figures to text. They are drawn on a white
 * card with colours of their own, so that light and dark pages show the same.
 */

export interface Series {
  name: string;
  /** In order of x. A gap wider than {@link Panel.gap} is not bridged. */
  points: readonly (readonly [x: number, y: number])[];
}

/** One pair of axes. */
export interface Panel {
  /** What y is, and its unit. */
  label: string;
  series: readonly Series[];
  /** A dashed line across, such as a limit. */
  bound?: { y: number; name: string };
  /** Least top of the y axis, which begins at 0. Default: what the values need. */
  top?: number;
  /** Highest top: what is above is a triangle at the upper edge, with its value. */
  ceiling?: number;
  /** Height of the axes. Default 210. */
  height?: number;
  /** Points farther apart in x are not joined. Default: all are. */
  gap?: number;
}

export interface LineChart {
  title: string;
  subtitle?: string;
  /** What x is, and its unit; shared by all panels, which stand one below another. */
  label: string;
  panels: readonly Panel[];
  /** Stretches of x that are shaded in all panels, and why. */
  shades?: { name: string; spans: readonly (readonly [from: number, to: number])[] };
}

export interface BarChart {
  title: string;
  subtitle?: string;
  /** What the bars show, and its unit. */
  label: string;
  /** Series have a colour each; a group has one bar of each that has a value there. */
  groups: readonly BarGroup[];
  /** Where bars begin on a logarithmic scale; below it nothing is seen. Default: a linear one, from 0. */
  logFrom?: number;
}

export interface BarGroup {
  name: string;
  bars: readonly { series: string; value: number }[];
  /** Its longest bar fills the width, whatever the other groups have. Default: one scale for all. */
  hasOwnScale?: boolean;
  /** How a value is written behind its bar. Default: three significant digits. */
  format?: (value: number) => string;
}

const WIDTH = 860;
const PANEL_HEIGHT = 210;
const [LEFT, RIGHT] = [70, 30];
const BAR_HEIGHT = 16;
const INK = "#1f2328";
const FAINT = "#59636e";
const GRID = "#e2e6ea";
const SHADE = "#e9e4d4";
const BOUND = "#b42318";
/** Told apart by the colour-blind as well (Okabe and Ito), and dark enough for white. */
const COLOURS = ["#0072b2", "#d55e00", "#00855f", "#aa4499", "#8a6d00", "#5a5a5a"];

function colour(place: number): string {
  return COLOURS[place % COLOURS.length] as string;
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
}

/** Coordinates to a tenth: more is not seen. */
function at(value: number): string {
  return String(Math.round(value * 10) / 10);
}

interface TextStyle {
  size?: number;
  colour?: string;
  anchor?: "start" | "middle" | "end";
  weight?: number;
}

function text(x: number, y: number, words: string, style: TextStyle = {}): string {
  const { size = 12, colour = INK, anchor = "start", weight = 400 } = style;
  return `<text x="${at(x)}" y="${at(y)}" font-size="${size}" fill="${colour}" text-anchor="${anchor}" font-weight="${weight}">${escaped(words)}</text>`;
}

function line(from: [number, number], to: [number, number], stroke: string, more = ""): string {
  return `<line x1="${at(from[0])}" y1="${at(from[1])}" x2="${at(to[0])}" y2="${at(to[1])}" stroke="${stroke}"${more}/>`;
}

/** A width that holds `words` in any sans-serif. */
function widthOf(words: string): number {
  return words.length * 6.8;
}

function card(height: number, title: string, subtitle: string | undefined, parts: string[]) {
  const head = text(LEFT, 30, title, { size: 16, weight: 600 });
  const below = subtitle === undefined ? "" : text(LEFT, 49, subtitle, { colour: FAINT });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${at(height)}" width="${WIDTH}" height="${at(height)}" font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif" role="img" aria-label="${escaped(title)}">
<rect width="${WIDTH}" height="${at(height)}" rx="8" fill="#ffffff"/>
${[head, below, ...parts].filter((part) => part !== "").join("\n")}
</svg>
`;
}

/** Round numbers from 0 to at least `top`, about `wanted` of them: steps of 1, 2 or 5 × 10ⁿ. */
function ticks(top: number, wanted: number): number[] {
  if (!(top > 0)) return [0, 1];
  const rough = top / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10) * power;
  const count = Math.ceil(top / step - 1e-9);
  return Array.from({ length: count + 1 }, (_, i) => Number((i * step).toPrecision(12)));
}

/** Squares with names, left to right, from `x` on; the second line begins where the first is full. */
function legend(names: readonly string[], top: number): { parts: string[]; height: number } {
  let [x, y] = [LEFT, top];
  const parts = names.flatMap((name, i) => {
    const width = 16 + widthOf(name) + 18;
    if (x > LEFT && x + width > WIDTH - RIGHT) [x, y] = [LEFT, y + 18];
    const square = `<rect x="${at(x)}" y="${at(y - 9)}" width="10" height="10" rx="2" fill="${colour(i)}"/>`;
    const label = text(x + 16, y, name);
    x += width;
    return [square, label];
  });
  return { parts, height: y - top + 18 };
}

/** Lines over a shared x axis that begins at 0, in one panel or several. */
export function lines({ title, subtitle, label, panels, shades }: LineChart): string {
  const xs = panels.flatMap(({ series }) => series.flatMap(({ points }) => points.map(([x]) => x)));
  const widest = Math.max(0, ...xs);
  const xTicks = ticks(widest, 12).filter((x) => x <= widest || widest === 0);
  const xOf = (x: number) => LEFT + (x / (widest || 1)) * (WIDTH - LEFT - RIGHT);
  const parts: string[] = [];
  let y = 80;
  for (const [place, panel] of panels.entries()) {
    const names = panel.series.map(({ name }) => name);
    parts.push(text(LEFT, y, panel.label, { weight: 600 }));
    const key = legend(names, y + 19);
    parts.push(...key.parts);
    const top = y + 14 + key.height;
    const height = panel.height ?? PANEL_HEIGHT;
    for (const [from, to] of shades?.spans ?? []) {
      const width = at(xOf(Math.min(to, widest)) - xOf(from));
      parts.push(
        `<rect x="${at(xOf(from))}" y="${at(top)}" width="${width}" height="${height}" fill="${SHADE}"/>`,
      );
    }
    parts.push(...drawPanel(panel, top, height, xTicks, xOf));
    y = top + height;
    const isLast = place === panels.length - 1;
    parts.push(...xTicks.map((x) => text(xOf(x), y + 17, String(x), axis("middle"))));
    if (isLast) parts.push(text((LEFT + WIDTH - RIGHT) / 2, y + 36, label, axis("middle")));
    y += isLast ? 52 : 48;
  }
  if (shades && shades.spans.length > 0) {
    parts.push(
      `<rect x="${LEFT}" y="${at(y - 9)}" width="10" height="10" rx="2" fill="${SHADE}"/>`,
      text(LEFT + 16, y, shades.name, { colour: FAINT }),
    );
    y += 16;
  }
  return card(y, title, subtitle, parts);
}

function axis(anchor: "middle" | "end"): TextStyle {
  return { size: 11, colour: FAINT, anchor };
}

function drawPanel(
  panel: Panel,
  top: number,
  height: number,
  xTicks: readonly number[],
  xOf: (x: number) => number,
): string[] {
  const { series, bound, gap = Number.POSITIVE_INFINITY } = panel;
  const { top: least = 0, ceiling = Number.POSITIVE_INFINITY } = panel;
  const ys = series.flatMap(({ points }) => points.map(([, y]) => Math.min(y, ceiling)));
  const yTicks = ticks(Math.max(least, bound?.y ?? 0, ...ys), Math.round(height / 42));
  const highest = yTicks.at(-1) ?? 1;
  const bottom = top + height;
  const yOf = (y: number) => bottom - (Math.min(y, highest) / highest) * height;
  const grid = [
    ...xTicks.map((x) => line([xOf(x), top], [xOf(x), bottom], GRID)),
    ...yTicks.map((y) => line([LEFT, yOf(y)], [WIDTH - RIGHT, yOf(y)], y === 0 ? "#8b949e" : GRID)),
    ...yTicks.map((y) => text(LEFT - 8, yOf(y) + 4, y.toLocaleString("en"), axis("end"))),
  ];
  const curves = series.map(({ points }, i) => {
    let path = "";
    let last = Number.NEGATIVE_INFINITY;
    for (const [x, y] of points) {
      path += `${x - last > gap ? "M" : "L"}${at(xOf(x))} ${at(yOf(y))}`;
      last = x;
    }
    const beyond = points.filter(([, y]) => y > highest);
    // Each is marked; the number of the worst one does.
    const [x = 0, y = 0] = beyond.reduce(
      (worst, point) => (point[1] > worst[1] ? point : worst),
      beyond[0] ?? [0, 0],
    );
    const isRight = xOf(x) > WIDTH / 2;
    return [
      `<path d="${path.replace(/^L/, "M")}" fill="none" stroke="${colour(i)}" stroke-width="1.8" stroke-linejoin="round" stroke-linecap="round"/>`,
      ...beyond.map(
        ([x]) => `<path d="M${at(xOf(x) - 5)} ${at(top + 8)}h10l-5 -9z" fill="${colour(i)}"/>`,
      ),
      beyond.length === 0
        ? ""
        : text(xOf(x) + (isRight ? -8 : 8), top + 8 + 12 * i, Math.round(y).toLocaleString("en"), {
            size: 10,
            colour: colour(i),
            anchor: isRight ? "end" : "start",
          }),
    ];
  });
  if (!bound) return [...grid, ...curves.flat()];
  const limitY = yOf(bound.y);
  const limit = line([LEFT, limitY], [WIDTH - RIGHT, limitY], BOUND, ' stroke-dasharray="6 4"');
  const name = text(WIDTH - RIGHT - 4, limitY - 5, bound.name, {
    size: 11,
    colour: BOUND,
    anchor: "end",
  });
  return [...grid, ...curves.flat(), limit, name];
}

/** Bars that lie, one below another, in groups; each is labelled with its value. */
export function bars({ title, subtitle, label, groups, logFrom }: BarChart): string {
  const names = [...new Set(groups.flatMap(({ bars }) => bars.map(({ series }) => series)))];
  const longestOf = (some: readonly BarGroup[]) =>
    Math.max(...some.flatMap(({ bars }) => bars.map(({ value }) => value)), Number.MIN_VALUE);
  const left = Math.max(LEFT, ...groups.map(({ name }) => 24 + widthOf(name)));
  const labels = groups.flatMap(({ bars, format = brief }) => bars.map((bar) => format(bar.value)));
  // Behind the longest bar there is room for its value.
  const full = WIDTH - RIGHT - left - Math.max(...labels.map(widthOf), 0);
  const parts: string[] = [text(LEFT, 80, label, { weight: 600 })];
  const key = legend(names, 99);
  parts.push(...key.parts);
  let y = 99 + key.height;
  for (const group of groups) {
    const { name, bars, hasOwnScale, format = brief } = group;
    const longest = longestOf(hasOwnScale ? [group] : groups);
    const middle = y + (bars.length * (BAR_HEIGHT + 3)) / 2;
    parts.push(text(left - 10, middle + 3, name, { anchor: "end" }));
    for (const { series, value } of bars) {
      const share =
        logFrom === undefined
          ? value / longest
          : Math.log(value / logFrom) / Math.log(longest / logFrom);
      const width = Math.max(share * (full - 8), 1);
      parts.push(
        `<rect x="${at(left)}" y="${at(y)}" width="${at(width)}" height="${BAR_HEIGHT}" rx="2" fill="${colour(names.indexOf(series))}"/>`,
        text(left + width + 6, y + 12, format(value), { size: 11 }),
      );
      y += BAR_HEIGHT + 3;
    }
    y += 12;
  }
  parts.push(line([left, 99 + key.height - 6], [left, y - 8], "#8b949e"));
  return card(y + 8, title, subtitle, parts);
}

function brief(value: number): string {
  return value.toLocaleString("en", { maximumSignificantDigits: 3 });
}
