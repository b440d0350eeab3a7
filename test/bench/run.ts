/**
 * `npm run bench [-- name …]`: runs test/bench/<name>.bench.ts, or all of them, one after another.
 * Ends with exit code 1 when a bound is missed.
 */
import { readdirSync } from "node:fs";

const SUFFIX = ".bench.ts";
/** A benchmark runs and prints its table, ratios first; it returns the bounds that it missed. */
type Bench = () => Promise<string[]>;

const known = readdirSync(import.meta.dirname)
  .filter((file) => file.endsWith(SUFFIX))
  .map((file) => file.slice(0, -SUFFIX.length));
const asked = process.argv.slice(2);
const unknown = asked.filter((name) => !known.includes(name));
if (unknown.length > 0) {
  console.error(`No benchmark ${unknown.join(", ")}; there are: ${known.join(", ")}`);
  process.exit(2);
}

let missed = 0;
for (const name of asked.length > 0 ? asked : known) {
  console.log(`\n── ${name} ──`);
  const { default: bench } = (await import(`./${name}${SUFFIX}`)) as { default: Bench };
  for (const bound of await bench()) {
    console.log(`MISSED: ${bound}`);
    missed += 1;
  }
}
console.log(missed === 0 ? "\nAll bounds hold." : `\n${missed} bounds missed.`);
process.exitCode = missed === 0 ? 0 : 1;
