/**
 * `npm run check:licences`: every package of package-lock.json has a licence that its use allows. Offline: the
 * lockfile names the licences.
 */
import { readFileSync } from "node:fs";

interface Entry {
  license?: string;
  dependencies?: Record<string, string>;
  peerDependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
}

/** For what an app gets with Rollcall: dependencies, peers, and what these depend on. */
const SHIPPED = ["0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT"];
/** For tools, which are in no package and no deployment of ours. */
const TOOLS = [
  ...SHIPPED,
  ...["BlueOak-1.0.0", "CC0-1.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib"],
  ...["LGPL-3.0-or-later", "MPL-2.0"],
];
/** Packages whose licence the lockfile does not name, as their LICENSE file says it. */
const READ: [name: RegExp, license: string][] = [
  [/^@livestore\/wa-sqlite$/, "MIT"],
  [/^@msgpackr-extract\/msgpackr-extract-/, "MIT"],
  [/^xmlhttprequest-ssl$/, "MIT"],
];

const text = readFileSync(new URL("../package-lock.json", import.meta.url), "utf8");
const { packages } = JSON.parse(text) as { packages: Record<string, Entry> };

const nameOf = (path: string) => path.slice(path.lastIndexOf("node_modules/") + 13);

/** The path of a package that `from` depends on: in its own node_modules, else in one above. */
function resolve(from: string, name: string): string | undefined {
  for (
    let folder = from;
    ;
    folder = folder.slice(0, Math.max(0, folder.lastIndexOf("/node_modules/")))
  ) {
    const path = `${folder === "" ? "" : `${folder}/`}node_modules/${name}`;
    if (packages[path]) return path;
    if (folder === "") return undefined;
  }
}

function findShipped(): Set<string> {
  const shipped = new Set<string>();
  const visit = (from: string, names: Record<string, string> = {}): void => {
    for (const name of Object.keys(names)) {
      const path = resolve(from, name);
      if (path === undefined || shipped.has(path)) continue;
      shipped.add(path);
      visit(path, packages[path]?.dependencies);
      visit(path, packages[path]?.optionalDependencies);
    }
  };
  visit("", packages[""]?.dependencies);
  visit("", packages[""]?.peerDependencies);
  return shipped;
}

/** Whether an SPDX expression without nested parentheses can be met by these licences. */
function isAllowed(expression: string, allowed: readonly string[]): boolean {
  const choices = expression.replace(/[()]/g, "").split(" OR ");
  return choices.some((choice) => choice.split(" AND ").every((one) => allowed.includes(one)));
}

const shipped = findShipped();
const wrong = Object.entries(packages).flatMap(([path, entry]) => {
  if (path === "") return [];
  const name = nameOf(path);
  const license = entry.license ?? READ.find(([pattern]) => pattern.test(name))?.[1] ?? "none";
  if (isAllowed(license, shipped.has(path) ? SHIPPED : TOOLS)) return [];
  return [`${path}: ${license}${shipped.has(path) ? ", in what an app gets" : ""}`];
});
if (wrong.length > 0) {
  console.error(`These licences are not allowed (scripts/licences.ts):\n${wrong.join("\n")}`);
  process.exitCode = 1;
} else {
  const total = Object.keys(packages).length - 1;
  console.log(
    `licences: ${total} packages are allowed, ${shipped.size} of them in what an app gets`,
  );
}
