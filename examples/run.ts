/**
 * `npm run example:<name>`: starts the Worker in examples/<name> on a free port, with its state in a
 * folder that goes with it, runs the demo in its client.ts against it, and ends.
 */
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { registerHooks } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { answerHelp } from "../scripts/options.ts";

const PROJECT = new URL("..", import.meta.url);
const WRANGLER = fileURLToPath(new URL("node_modules/wrangler/wrangler-dist/cli.js", PROJECT));
const DIE_WITH_PARENT = new URL("scripts/die-with-parent.ts", PROJECT).href;
const NAMES = ["chat", "notifications", "own-worker", "presence", "presence-only"];

/** The examples import the library by its name, as you would; here that is its source. */
function resolveLibrary(): void {
  const manifest = readFileSync(new URL("package.json", PROJECT), "utf8");
  const { exports } = JSON.parse(manifest) as { exports: Record<string, { default?: string }> };
  registerHooks({
    resolve(specifier, context, next) {
      const subpath = specifier.replace(/^rollcall(?=$|\/)/, ".");
      const source = exports[subpath]?.default?.replace(/^\.\/dist\//, "").replace(/\.js$/, ".ts");
      return next(source ? new URL(source, PROJECT).href : specifier, context);
    },
  });
}

/** Starts `wrangler dev`, whose end is bound to ours. Resolves with its address. */
function startWorker(name: string, stateFolder: string): Promise<string> {
  const args = [
    ...["dev", "-c", `examples/${name}/wrangler.toml`, "--local", "--port", "0"],
    ...["--ip", "127.0.0.1", "--inspector-port", "0", "--persist-to", stateFolder],
    "--show-interactive-dev-session=false",
  ];
  const wrangler = spawn(
    process.execPath,
    ["--no-warnings", "--import", DIE_WITH_PARENT, WRANGLER, ...args],
    {
      cwd: fileURLToPath(PROJECT),
      detached: true,
      stdio: ["ignore", "pipe", "pipe", "pipe"],
      env: {
        ...process.env,
        CLOUDFLARE_CF_FETCH_ENABLED: "false",
        WRANGLER_SEND_METRICS: "false",
        WRANGLER_HIDE_BANNER: "true",
        WRANGLER_REGISTRY_PATH: join(stateFolder, "registry"),
      },
    },
  );
  return new Promise((resolve, reject) => {
    let log = "";
    const read = (text: string): void => {
      log += text;
      const [, address] = /Ready on (http:\/\/[\d.:]+)/.exec(log) ?? [];
      if (address) resolve(address);
    };
    for (const stream of [wrangler.stdout, wrangler.stderr]) {
      stream?.setEncoding("utf8").on("data", read);
    }
    wrangler.once("error", reject);
    wrangler.once("exit", () => reject(new Error(`The Worker did not start:\n${log}`)));
    process.once("exit", () => {
      try {
        if (wrangler.pid !== undefined) process.kill(-wrangler.pid, "SIGTERM");
      } catch {
        // Already gone.
      }
      rmSync(stateFolder, { recursive: true, force: true, maxRetries: 5 });
    });
  });
}

const USAGE = `usage: npm run example:NAME

  NAME            ${NAMES.join(", ")}

It starts the Worker in examples/NAME on a free port, shows what its client.ts does, and ends.
`;

answerHelp(USAGE);
const [name = "", ...rest] = process.argv.slice(2);
if (!NAMES.includes(name) || rest.length > 0) {
  process.stderr.write(
    NAMES.includes(name)
      ? `example:${name} takes no options, not "${rest.join(" ")}"\n\n${USAGE}`
      : `There is no example "${name}"\n\n${USAGE}`,
  );
  process.exit(2);
}
for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
  process.once(signal, () => process.exit(1));
}
resolveLibrary();
const { default: demo } = (await import(`./${name}/client.ts`)) as {
  default: (server: string) => Promise<void>;
};
await demo(await startWorker(name, mkdtempSync(join(tmpdir(), "rollcall-example-"))));
process.exit(0);
