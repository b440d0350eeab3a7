/**
 * `npm run size`: what a user of the library ships, and what the service deploys, minified and
 * gzipped, against a budget for each.
 */
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { type BuildOptions, build } from "esbuild";
import { buildScripts } from "./script-tag.ts";
import { readExample } from "./snippets.ts";

const PROJECT = fileURLToPath(new URL("..", import.meta.url));
const KIB = 1024;

interface Bundle {
  name: string;
  /** The entry, as its author writes it. */
  code: string;
  limitBytes: number;
  platform: "browser" | "worker";
}

const BUNDLES: Bundle[] = [
  {
    name: "VeraniClient",
    code: `export { VeraniClient } from "rollcall/client";`,
    limitBytes: 9.25 * KIB,
    platform: "browser",
  },
  {
    name: "FanoutClient",
    code: `export { FanoutClient } from "./client/fanout.ts";`,
    limitBytes: 6 * KIB,
    platform: "browser",
  },
  {
    name: "a room without schemas",
    code: `import { createActorHandler, defineRoom } from "rollcall";
      const room = defineRoom({ websocketPath: "/ws" });
      room.on("say", (ctx, data) => ctx.actor.emit.to("default").emit("said", data));
      export class Room extends createActorHandler(room) {}`,
    limitBytes: 30 * KIB,
    platform: "worker",
  },
  {
    name: "the README's own room",
    code: readExample("README.md", "const chat = defineRoom"),
    limitBytes: 35 * KIB,
    platform: "worker",
  },
  {
    name: "a Worker with presence alone",
    code: `export * from "./examples/presence-only/worker.ts";
      export { default } from "./examples/presence-only/worker.ts";`,
    limitBytes: 81 * KIB,
    platform: "worker",
  },
  {
    name: "the service's main Worker",
    code: `export * from "./src/server/worker.ts"; export { default } from "./src/server/worker.ts";`,
    limitBytes: 120 * KIB,
    platform: "worker",
  },
];

/** The settings of `wrangler deploy` for Workers (with `minify = true`), those of an app for browsers. */
const OPTIONS: Record<Bundle["platform"], BuildOptions> = {
  browser: { platform: "browser" },
  worker: {
    platform: "neutral",
    mainFields: ["workerd", "worker", "module", "main"],
    conditions: ["workerd", "worker", "browser"],
    external: ["cloudflare:*", "node:*"],
    keepNames: true,
  },
};

export interface Size {
  name: string;
  gzipBytes: number;
  limitBytes: number;
}

async function measure({ name, code, limitBytes, platform }: Bundle): Promise<Size> {
  const { outputFiles } = await build({
    stdin: { contents: code, resolveDir: PROJECT, loader: "ts" },
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2024",
    write: false,
    alias: {
      rollcall: `${PROJECT}src/index.ts`,
      "rollcall/client": `${PROJECT}client/client.ts`,
      "rollcall/rooms/presence": `${PROJECT}rooms/presence/index.ts`,
      "rollcall/server": `${PROJECT}src/server/index.ts`,
    },
    ...OPTIONS[platform],
  });
  const output = outputFiles?.[0]?.contents ?? new Uint8Array();
  if (output.byteLength === 0) throw new Error(`${name}: the bundle is empty`);
  return { name, gzipBytes: gzipSync(output, { level: 9 }).byteLength, limitBytes };
}

async function measureScript(): Promise<Size> {
  const script = (await buildScripts()).find(({ name }) => name === "rollcall.js");
  if (!script) throw new Error("rollcall.js was not built");
  const gzipBytes = gzipSync(script.contents, { level: 9 }).byteLength;
  return { name: "rollcall.js, for script tags", gzipBytes, limitBytes: 13 * KIB };
}

/** The sizes of all bundles, in bytes. */
export function measureBundles(): Promise<Size[]> {
  return Promise.all([...BUNDLES.map(measure), measureScript()]);
}

if (import.meta.main) {
  for (const { name, gzipBytes, limitBytes } of await measureBundles()) {
    const left = limitBytes - gzipBytes;
    console.log(`${name}: ${gzipBytes} bytes gzipped, ${left} left of ${limitBytes}`);
    if (left < 0) process.exitCode = 1;
  }
}
