/** The clients for pages without a bundler: `rollcall.js` (a script) and `rollcall.mjs` (a module). */
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const PROJECT = fileURLToPath(new URL("..", import.meta.url));

export interface ScriptFile {
  name: string;
  contents: Uint8Array;
}

/** Both files, minified, each with its source map. @throws when a client does not compile */
export async function buildScripts(): Promise<ScriptFile[]> {
  const formats = [
    { format: "iife", globalName: "Rollcall", outfile: "rollcall.js" },
    { format: "esm", outfile: "rollcall.mjs" },
  ] as const;
  const builds = await Promise.all(
    formats.map((options) =>
      build({
        ...options,
        entryPoints: ["client/script.ts"],
        absWorkingDir: PROJECT,
        bundle: true,
        minify: true,
        write: false,
        sourcemap: true,
        target: "es2022",
        legalComments: "none",
        logLevel: "warning",
      }),
    ),
  );
  return builds.flatMap(({ outputFiles }) =>
    outputFiles.map(({ path, contents }) => ({ name: basename(path), contents })),
  );
}
