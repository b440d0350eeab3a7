/**
 * `npm run build`: the code of the npm package, in dist/. Node strips no types below node_modules, so
 * the package carries JavaScript and declarations.
 */
import { execFileSync } from "node:child_process";
import { existsSync, globSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { buildScripts } from "./script-tag.ts";

const PROJECT = fileURLToPath(new URL("..", import.meta.url));

process.chdir(PROJECT);
rmSync("dist", { recursive: true, force: true });

const { exports } = JSON.parse(readFileSync("package.json", "utf8")) as {
  exports: Record<string, string | { types: string; workerd?: string; default: string }>;
};
const targets = Object.values(exports).filter((target) => typeof target === "object");

await build({
  // An entry lies in dist where its source lies in the project.
  entryPoints: targets.flatMap(({ types: _, ...code }) => Object.values(code).map(sourceOf)),
  outdir: "dist",
  outbase: ".",
  bundle: true,
  // Entries share code by chunks: a RollcallError of one is a RollcallError of all.
  splitting: true,
  chunkNames: "chunks/[name]-[hash]",
  format: "esm",
  target: "es2022",
  platform: "neutral",
  packages: "external",
  external: ["cloudflare:*", "node:*"],
  sourcemap: true,
  sourcesContent: true,
});

for (const { name, contents } of await buildScripts()) writeFileSync(`dist/${name}`, contents);

for (const project of ["tsconfig.build.json", "tsconfig.build.client.json"]) {
  execFileSync("tsc", ["-p", project], { stdio: "inherit" });
}

// tsc leaves `.ts` in the specifiers of declarations, and the package has no such files.
for (const file of globSync("dist/**/*.d.ts")) {
  const text = readFileSync(file, "utf8");
  const fixed = text.replace(/((?:from|import\()\s*"\.{1,2}\/[^"]*)\.ts"/g, '$1.js"');
  if (fixed !== text) writeFileSync(file, fixed);
}

const absent = targets.flatMap(Object.values<string>).filter((path) => !existsSync(path));
if (absent.length > 0) throw new Error(`package.json exports missing files: ${absent.join(", ")}`);

function sourceOf(output: string): string {
  return output.replace(/^\.\/dist\//, "").replace(/\.js$/, ".ts");
}
