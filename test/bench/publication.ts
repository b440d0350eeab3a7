/** Puts what was measured into docs/: bench.json and plots, and the tables of benchmarks.md. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, platform, release, totalmem } from "node:os";
import { missedOf, type Result, toJson, toMarkdown, toPlot } from "./report.ts";

const DOCS = new URL("../../docs/", import.meta.url);
const PLOTS = new URL("plots/", DOCS);
const FIGURES = new URL("bench.json", PLOTS);
const PAGE = new URL("benchmarks.md", DOCS);

/**
 * @param results by the benchmark's name; what an earlier run measured of others stays as it is
 * @throws Error when the page has no place for one
 */
export function publish(results: ReadonlyMap<string, Result>, rounds: number): void {
  mkdirSync(PLOTS, { recursive: true });
  const run = { measuredAt: new Date().toISOString(), rounds, machine: machine() };
  const { cores, cpu, memoryGb, kernel, node, workerd } = run.machine;
  let page = filled(
    readFileSync(PAGE, "utf8"),
    "run",
    `The machine: ${cores} cores of ${cpu}, ${memoryGb} GB, ${kernel}, Node ${node}, ${workerd}.`,
  );
  const kept = existsSync(FIGURES) ? JSON.parse(readFileSync(FIGURES, "utf8")) : {};
  for (const [name, result] of results) {
    const plot = `bench-${name}.svg`;
    writeFileSync(new URL(plot, PLOTS), toPlot(result));
    const parts = [
      toMarkdown(result),
      ...missedOf(result).map((bound) => `Missed: ${bound}.`),
      `![${result.title}: medians](plots/${plot})`,
      `Measured on ${run.measuredAt.slice(0, 10)}, ${rounds} rounds; the hypervisor took ${result.stolenPercent?.toFixed(0)} % of the processors' time meanwhile.`,
    ];
    page = filled(page, name, parts.join("\n\n"));
    kept[name] = { ...run, ...toJson(result) };
  }
  writeFileSync(PAGE, page);
  writeFileSync(FIGURES, `${JSON.stringify(kept, brief, 1)}\n`);
}

/** Numbers to five digits: more is noise. */
function brief(_: string, value: unknown): unknown {
  return typeof value === "number" ? Number(value.toPrecision(5)) : value;
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
    kernel: `${platform()} ${release().split("-")[0]}`,
    node: process.version,
    workerd: execFileSync("workerd", ["--version"], { encoding: "utf8" }).trim(),
  };
}
