/**
 * `npm run build`: what the npm package holds, in dist/. Plain Node strips no types below
 * node_modules, so that the package carries JavaScript and declarations.
 */
import { execFileSync } from "node:child_process";
import { existsSync, globSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const PROJECT = fileURLToPath(new URL("..", import.meta.url));

/** Entry points by their place in dist; package.json's `exports` names the same ones. */
const ENTRIES = [
  "src/index.ts",
  "client/client.ts",
  "client/fanout.ts",
  "client/moods.ts",
  "client/react.ts",
];

process.chdir(PROJECT);
rmSync("dist", { recursive: true, force: true });

await build({
  entryPoints: ENTRIES,
  outdir: "dist",
  outbase: ".",
  bundle: true,
  // What several entry points hold is one thing: a RollcallError of one is that of all.
  splitting: true,
  format: "esm",
  target: "es2022",
  platform: "neutral",
  packages: "external",
  external: ["cloudflare:*", "node:*"],
  sourcemap: true,
  sourcesContent: true,
});

for (const project of ["tsconfig.build.json", "tsconfig.build.client.json"]) {
  execFileSync("tsc", ["-p", project], { stdio: "inherit" });
}

// tsc leaves `.ts` in the specifiers of declarations, and there is no such file in the package.
for (const file of globSync("dist/**/*.d.ts")) {
  const text = readFileSync(file, "utf8");
  const fixed = text.replace(/((?:from|import\()\s*"\.{1,2}\/[^"]*)\.ts"/g, '$1.js"');
  if (fixed !== text) writeFileSync(file, fixed);
}

const { exports } = JSON.parse(readFileSync("package.json", "utf8")) as {
  exports: Record<string, string | Record<string, string>>;
};
const promised = Object.values(exports).flatMap((target) =>
  typeof target === "string" ? [target] : Object.values(target),
);
const absent = promised.filter((path) => !existsSync(path));
if (absent.length > 0)
  throw new Error(`package.json exports what is not there: ${absent.join(", ")}`);
