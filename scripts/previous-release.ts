/**
 * `node scripts/previous-release.ts COMMIT`: bundles the main Worker of a release into one file for
 * test/compat, whose tests run it against the rooms of this tree, and the reverse. It installs the
 * dependencies of the release's lockfile, so it needs the npm registry.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build, type Plugin } from "esbuild";

const PROJECT = fileURLToPath(new URL("..", import.meta.url));
const FOLDER = join(PROJECT, "test/compat/previous");
/** Paths of the main Worker in releases, newest first. */
const ENTRIES = ["src/server/worker.ts", "src/worker.ts"];

/** zod's messages in other languages are 40 % of the bundle, and nothing uses them. */
const englishOnly: Plugin = {
  name: "english-only",
  setup({ onLoad }) {
    onLoad({ filter: /zod.v4.locales.[^\\/]+\.js$/ }, ({ path }) =>
      /(?:index|en)\.js$/.test(path) ? undefined : { contents: "export default () => ({});" },
    );
  },
};

function read(...path: string[]): string {
  return readFileSync(join(tree, ...path), "utf8");
}

/** The licence of a package whose code is in the bundle. */
function licenseOf(folder: string): string {
  const file = readdirSync(join(tree, folder)).find((name) => /^licen[cs]e/i.test(name));
  const about = JSON.parse(read(folder, "package.json"));
  const { name, version, license } = about;
  // Some packages only name their licence.
  const text = file === undefined ? license : read(folder, file);
  return `== ${name} ${version}\n\n${text.trim()}\n`;
}

const [commit] = process.argv.slice(2);
if (commit === undefined) throw new Error("Name the commit of the release");

const git = (...args: string[]) =>
  execFileSync("git", args, { cwd: PROJECT, encoding: "utf8" }).trim();
const hash = git("rev-parse", "--short", `${commit}^{commit}`);
const tree = mkdtempSync(join(tmpdir(), "rollcall-release-"));
try {
  git("worktree", "add", "--detach", "--force", tree, hash);
  execFileSync("npm", ["ci", "--ignore-scripts", "--omit=dev", "--prefer-offline"], {
    cwd: tree,
    stdio: "inherit",
  });
  const entry = ENTRIES.find((path) => existsSync(join(tree, path)));
  if (entry === undefined) throw new Error(`${hash} has none of ${ENTRIES.join(", ")}`);
  const { metafile } = await build({
    entryPoints: [join(tree, entry)],
    absWorkingDir: tree,
    outfile: join(FOLDER, "worker.js"),
    metafile: true,
    bundle: true,
    minify: true,
    legalComments: "none",
    banner: { js: `// The main Worker of ${hash}, by scripts/previous-release.ts.` },
    format: "esm",
    target: "es2024",
    conditions: ["workerd", "worker", "browser"],
    external: ["cloudflare:*", "node:*"],
    plugins: [englishOnly],
  });
  const packages = Object.keys(metafile.inputs).flatMap(
    (path) => /^(node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1] ?? [],
  );
  writeFileSync(join(FOLDER, "LICENSES"), [...new Set(packages)].sort().map(licenseOf).join("\n"));
} finally {
  git("worktree", "remove", "--force", tree);
  rmSync(tree, { recursive: true, force: true });
}
