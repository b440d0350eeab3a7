/**
 * `npm run deps`: asks the registry when each package of package.json was published last, and lists those
 * that are older than two years. By hand: neither the lockfile nor a packed package has a date.
 */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

const YEAR_MS = 365.25 * 24 * 3_600_000;
const OLD_MS = 2 * YEAR_MS;

const manifest = JSON.parse(
  readFileSync(new URL("../package.json", import.meta.url), "utf8"),
) as Record<"dependencies" | "devDependencies" | "peerDependencies", Record<string, string>>;
const { dependencies, devDependencies, peerDependencies } = manifest;
const packages = Object.entries({ ...dependencies, ...devDependencies, ...peerDependencies });
// An alias, `npm:<name>@<version>`, has another name in the registry.
const names = new Set(packages.map(([key, spec]) => /^npm:(.+)@/.exec(spec)?.[1] ?? key));

let old = 0;
for (const name of [...names].sort()) {
  const answer = execFileSync("npm", ["view", name, "time", "--json"], { encoding: "utf8" });
  const { created: _, modified: __, ...releases } = JSON.parse(answer) as Record<string, string>;
  const last = Math.max(...Object.values(releases).map((time) => Date.parse(time)));
  const ageMs = Date.now() - last;
  if (ageMs <= OLD_MS) continue;
  old += 1;
  const date = new Date(last).toISOString().slice(0, 10);
  console.log(`${name}: last published ${date}, ${(ageMs / YEAR_MS).toFixed(1)} years ago`);
}
console.log(`${old} of ${names.size} packages were last published more than two years ago`);
