/**
 * `npm run build:console`: the console of examples/console as static assets, in its `dist`.
 *
 * Takes about a tenth of a second, so that whoever needs the assets (npm start, the tests, a
 * deployment) just builds them. A file that has not changed is left alone: servers that are running
 * would reload for it.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const SOURCE = fileURLToPath(new URL("../examples/console/", import.meta.url));
const OUTPUT = fileURLToPath(new URL("../examples/console/dist/", import.meta.url));

/** Builds the console where it is out of date. @throws when it does not compile */
export async function buildConsole(): Promise<void> {
  const { outputFiles } = await build({
    entryPoints: ["main.tsx", "main.css"].map((file) => ({
      in: `${SOURCE}${file}`,
      out: "console/main",
    })),
    outdir: OUTPUT,
    write: false,
    bundle: true,
    minify: true,
    format: "esm",
    target: ["chrome123", "firefox121", "safari17.5"],
    legalComments: "none",
    logLevel: "warning",
  });
  for (const { path, contents } of outputFiles) refresh(path, contents);
  refresh(`${OUTPUT}index.html`, readFileSync(`${SOURCE}index.html`));
  refresh(`${OUTPUT}console/icon.svg`, readFileSync(`${SOURCE}icon.svg`));
}

function refresh(path: string, contents: Uint8Array): void {
  if (existsSync(path) && readFileSync(path).equals(contents)) return;
  mkdirSync(dirname(path), { recursive: true });
  // In one step: a server may be reading the file at this moment.
  const draft = `${path}.${process.pid}`;
  writeFileSync(draft, contents);
  renameSync(draft, path);
}

if (import.meta.main) await buildConsole();
