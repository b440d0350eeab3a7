import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/** As in wrangler.toml. */
export const COMPATIBILITY_DATE = "2026-10-15";
/** The root of this checkout. */
export const PROJECT = fileURLToPath(new URL("../..", import.meta.url));

/**
 * Bundles a Worker for workerd.
 *
 * @param entry path from the checkout's root
 * @param root of the checkout; default: this one
 * @param hasEffects whether modules are kept for their effects; package.json says that none has one
 */
export async function bundleWorker(
  entry: string,
  root: string = PROJECT,
  hasEffects = false,
): Promise<string> {
  const bundle = await build({
    entryPoints: [entry],
    absWorkingDir: root,
    bundle: true,
    write: false,
    format: "esm",
    target: "es2024",
    conditions: ["workerd", "worker", "browser"],
    external: ["cloudflare:*", "node:*", "workerd:*"],
    ignoreAnnotations: hasEffects,
  });
  return bundle.outputFiles[0]?.text ?? "";
}
