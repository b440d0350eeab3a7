/** `npm run size`: what a user of the library ships, minified and gzipped, against its budget. */
import { existsSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { type BuildOptions, build } from "esbuild";

const KIB = 1024;

interface Bundle {
  name: string;
  modules: string[];
  limitBytes: number;
  options: BuildOptions;
}

const BUNDLES: Bundle[] = [
  {
    name: "client",
    modules: ["./client/client.ts"],
    limitBytes: 5 * KIB,
    options: { platform: "browser" },
  },
  {
    name: "framework and presence room",
    modules: ["./src/index.ts", "./rooms/presence/index.ts"],
    limitBytes: 60 * KIB,
    options: {
      platform: "neutral",
      mainFields: ["module", "main"],
      conditions: ["workerd", "worker", "browser"],
      external: ["cloudflare:*", "node:*"],
    },
  },
];

/** @returns false when the bundle is over its budget */
async function measure({ name, modules, limitBytes, options }: Bundle): Promise<boolean> {
  const { outputFiles } = await build({
    stdin: {
      contents: modules.map((module) => `export * from "${module}";`).join("\n"),
      resolveDir: process.cwd(),
    },
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    write: false,
    ...options,
  });
  const code = outputFiles?.[0]?.contents ?? new Uint8Array();
  const gzipBytes = gzipSync(code, { level: 9 }).byteLength;
  const fits = code.byteLength > 0 && gzipBytes <= limitBytes;
  const left = limitBytes - gzipBytes;
  console.log(
    `${name}: ${code.byteLength} bytes minified, ${gzipBytes} gzipped, ` +
      `${fits ? `${left} left` : `${-left} TOO MANY`} of ${limitBytes}`,
  );
  return fits;
}

let allFit = true;
for (const bundle of BUNDLES) {
  if (bundle.modules.every((module) => existsSync(module))) {
    allFit = (await measure(bundle)) && allFit;
  }
}
process.exitCode = allFit ? 0 : 1;
