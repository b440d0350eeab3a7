/**
 * `npm run bench [-- name …] [--rounds n] [--publish]`: runs test/bench/<name>.bench.ts, or all of
 * them, one after another, and prints their tables, ratios first. Ends with exit code 1 when a bound
 * is missed.
 *
 * `--rounds`: how often each measurement is taken; default 5. `--publish`: writes what it measured to
 * docs/plots and into docs/benchmarks.md.
 */
import { readdirSync } from "node:fs";
import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { publish } from "./publication.ts";
import { missedOf, type Result, toMarkdown } from "./report.ts";
import { machineMs } from "./server.ts";

const SUFFIX = ".bench.ts";
/** A benchmark measures so many rounds. */
type Bench = (rounds: number) => Promise<Result>;

const known = readdirSync(import.meta.dirname)
  .filter((file) => file.endsWith(SUFFIX))
  .map((file) => file.slice(0, -SUFFIX.length));
const { positionals: asked, values: options } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: "string", default: "5" },
    publish: { type: "boolean", default: false },
  },
});
const rounds = Number(options.rounds);
const unknown = asked.filter((name) => !known.includes(name));
if (unknown.length > 0 || !(rounds >= 1)) {
  console.error(`npm run bench -- [name …] [--rounds n] [--publish]; names: ${known.join(", ")}`);
  process.exit(2);
}

let missed = 0;
const results = new Map<string, Result>();
for (const name of asked.length > 0 ? asked : known) {
  console.log(`\n── ${name} ──`);
  const startedAtMs = performance.now();
  const stolenBeforeMs = machineMs().steal;
  const stolenPercent = () =>
    ((machineMs().steal - stolenBeforeMs) / (performance.now() - startedAtMs) / cpus().length) *
    100;
  const { default: bench } = (await import(`./${name}${SUFFIX}`)) as { default: Bench };
  try {
    const result = await bench(rounds);
    results.set(name, { ...result, stolenPercent: stolenPercent() });
    console.log(toMarkdown(result));
    for (const bound of missedOf(result)) {
      console.log(`MISSED: ${bound}`);
      missed += 1;
    }
  } catch (error) {
    // The others have their turn all the same.
    console.error(error);
    console.log(`MISSED: ${name} failed`);
    missed += 1;
  }
  const seconds = ((performance.now() - startedAtMs) / 1000).toFixed(0);
  console.log(`(${seconds} s; ${stolenPercent().toFixed(0)} % of the processors' time was stolen)`);
}
if (options.publish) publish(results, rounds);
console.log(missed === 0 ? "\nAll bounds hold." : `\n${missed} bounds missed.`);
// One that broke may have left a server behind.
process.exit(missed === 0 ? 0 : 1);
