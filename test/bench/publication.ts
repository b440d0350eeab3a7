/** Puts what was measured into docs/: bench.json and plots, and the tables of benchmarks.md. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, platform, release, totalmem } from "node:os";
import { missedOf, type Result, toJson, toMarkdown, toPlot } from "./report.ts";

const DOCS = new URL("../../docs/", import.meta.url);
const PLOTS = new URL("plots/", DOCS);
const PAGE = new URL("benchmarks.md", DOCS);

/**
 * @param results by the benchmark's name; the page's sections of others stay as they are
 * @throws Error when the page has no place for one
 */
export function publish(results: ReadonlyMap<string, Result>, rounds: number): void {
  mkdirSync(PLOTS, { recursive: true });
  const run = { measuredAt: new Date().toISOString(), rounds, machine: machine() };
  const { measuredAt, machine: on } = run;
  let page = readFileSync(PAGE, "utf8");
  page = filled(
    page,
    "run",
    `Measured on ${measuredAt.slice(0, 10)}, ${rounds} rounds: ${on.cores} cores of ${on.cpu}, ${on.memoryGb} GB, ${on.kernel}, Node ${on.node}, ${on.workerd}.`,
  );
  for (const [name, result] of results) {
    const plot = `bench-${name}.svg`;
    writeFileSync(new URL(plot, PLOTS), toPlot(result));
    const missed = missedOf(result).map((bound) => `\n\nMissed: ${bound}.`);
    const picture = `![${result.title}: medians](plots/${plot})`;
    page = filled(page, name, `${toMarkdown(result)}${missed.join("")}\n\n${picture}`);
  }
  writeFileSync(PAGE, page);
  const benchmarks = Object.fromEntries([...results].map(([name, one]) => [name, toJson(one)]));
  writeFileSync(
    new URL("bench.json", PLOTS),
    `${JSON.stringify({ ...run, benchmarks }, null, 1)}\n`,
  );
}

/** `page` with `text` between the comments `<!-- bench:name -->` and `<!-- /bench:name -->`. */
function filled(page: string, name: string, text: string): string {
  const [from, to] = [`<!-- bench:${name} -->`, `<!-- /bench:${name} -->`];
  const [start, end] = [page.indexOf(from), page.indexOf(to)];
  if (start < 0 || end < start) throw new Error(`docs/benchmarks.md has no place for ${name}`);
  return `${page.slice(0, start + from.length)}\n${text}\n${page.slice(end)}`;
}

function machine() {
  const [first] = cpus();
  return {
    cores: cpus().length,
    cpu: first?.model ?? "an unknown CPU",
    memoryGb: Math.round(totalmem() / 2 ** 30),
    kernel: `${platform()} ${release()}`,
    node: process.version,
    workerd: execFileSync("workerd", ["--version"], { encoding: "utf8" }).trim(),
  };
}
