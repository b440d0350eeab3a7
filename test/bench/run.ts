/**
 * `npm run bench [-- name …] [--rounds n] [--publish]`: runs test/bench/<name>.bench.ts, or all of
 * them, one after another, and prints their tables, ratios first. Ends with exit code 1 when a bound
 * is missed.
 *
 * `--rounds`: how often each measurement is taken; default 5. `--publish`: writes what it measured to
 * docs/plots and into docs/benchmarks.md. `--against <folder>`: compares this checkout with an earlier
 * one in that folder instead (against.ts).
 */
import { readdirSync } from "node:fs";
import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { machineMs, stopAll } from "../kit/processes.ts";
import { publish } from "./publication.ts";
import { missedOf, type Result, toMarkdown } from "./report.ts";

const SUFFIX = ".bench.ts";
/** A benchmark measures so many rounds. */
type Bench = (rounds: number) => Promise<Result>;

const { positionals: asked, values: options } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: "string", default: "5" },
    publish: { type: "boolean", default: false },
    against: { type: "string" },
  },
});

/** Every benchmark by its name; or what is compared with the checkout in the folder `against`. */
async function findBenches(against: string | undefined): Promise<Record<string, Bench>> {
  if (against !== undefined) {
    const { COMPARISONS, openCheckout } = await import("./against.ts");
    const before = openCheckout(against);
    return Object.fromEntries(
      Object.entries(COMPARISONS).map(([name, compare]) => [name, (n) => compare(before, n)]),
    );
  }
  const files = readdirSync(import.meta.dirname).filter((file) => file.endsWith(SUFFIX));
  return Object.fromEntries(
    files.map((file) => {
      const bench: Bench = async (rounds) => {
        const { default: measure } = (await import(`./${file}`)) as { default: Bench };
        return measure(rounds);
      };
      return [file.slice(0, -SUFFIX.length), bench];
    }),
  );
}

const benches = await findBenches(options.against);
const known = Object.keys(benches);
const rounds = Number(options.rounds);
const unknown = asked.filter((name) => !known.includes(name));
if (unknown.length > 0 || !(rounds >= 1) || (options.publish && options.against !== undefined)) {
  console.error(
    `npm run bench -- [name …] [--rounds n] [--publish | --against <folder>]; names: ${known.join(", ")}`,
  );
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
  const bench = benches[name] as Bench;
  try {
    const result = await bench(rounds);
    results.set(name, { ...result, stolenPercent: stolenPercent() });
    console.log(toMarkdown(result));
    for (const bound of missedOf(result)) {
      console.log(`MISSED: ${bound}`);
      missed += 1;
    }
  } catch (error) {
    // One that fails does not stop the others.
    console.error(error);
    console.log(`MISSED: ${name} failed`);
    missed += 1;
  }
  await stopAll();
  const seconds = ((performance.now() - startedAtMs) / 1000).toFixed(0);
  console.log(`(${seconds} s; ${stolenPercent().toFixed(0)} % of the processors' time was stolen)`);
}
if (options.publish) publish(results, rounds);
console.log(missed === 0 ? "\nAll bounds hold." : `\n${missed} bounds missed.`);
process.exit(missed === 0 ? 0 : 1);
