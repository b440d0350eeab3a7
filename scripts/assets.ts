/**
 * `npm run build:assets`: the static assets of the main Worker: the console of examples/console, the
 * descriptions of the API, and the clients for pages without a bundler.
 *
 * A build takes well under a second, so npm start, the tests and a deployment always do it. A file
 * that has not changed is left alone: a running server reloads for every write.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { describeService } from "../src/server/description/documents.ts";
import { renderDocs } from "../src/server/description/page.ts";
import { buildScripts } from "./script-tag.ts";

const CONSOLE = fileURLToPath(new URL("../examples/console/", import.meta.url));
/** `wrangler.toml` names this folder. */
const OUTPUT = `${CONSOLE}dist/`;

/** Writes the assets that are out of date. @throws when the console does not compile */
export async function buildAssets(): Promise<void> {
  await buildConsole();
  for (const { name, contents } of await buildScripts()) refresh(`${OUTPUT}${name}`, contents);
  const { openapi, asyncapi } = describeService();
  refresh(`${OUTPUT}openapi.json`, encode(JSON.stringify(openapi)));
  refresh(`${OUTPUT}asyncapi.json`, encode(JSON.stringify(asyncapi)));
  refresh(`${OUTPUT}docs.html`, encode(String(await renderDocs(openapi, asyncapi))));
}

async function buildConsole(): Promise<void> {
  const { outputFiles } = await build({
    entryPoints: ["main.tsx", "main.css"].map((file) => ({
      in: `${CONSOLE}${file}`,
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
  refresh(`${OUTPUT}index.html`, readFileSync(`${CONSOLE}index.html`));
  refresh(`${OUTPUT}console/icon.svg`, readFileSync(`${CONSOLE}icon.svg`));
}

const encoder = new TextEncoder();
const encode = (text: string) => encoder.encode(text);

function refresh(path: string, contents: Uint8Array): void {
  if (existsSync(path) && readFileSync(path).equals(contents)) return;
  mkdirSync(dirname(path), { recursive: true });
  // In one step: a server may be reading the file at this moment.
  const draft = `${path}.${process.pid}`;
  writeFileSync(draft, contents);
  renameSync(draft, path);
}

if (import.meta.main) await buildAssets();
