/**
 * `npm start`: starts both Workers on this machine, without an account and without the network.
 *
 *   npm start -- --port 9000 --persist-to DIR --var NAME:VALUE
 *
 * Arguments after `--` go to `wrangler dev`. When this process ends, for whatever reason, wrangler
 * and its workerd end too.
 */
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildAssets } from "./assets.ts";
import { completeDevVars, readDevVars } from "./dev-vars.ts";
import { answerHelp } from "./options.ts";
import { makeStartFolder, removeStartFolder } from "./start-folder.ts";

const PROJECT = fileURLToPath(new URL("..", import.meta.url));
const WRANGLER = fileURLToPath(
  new URL("../node_modules/wrangler/wrangler-dist/cli.js", import.meta.url),
);
const DIE_WITH_PARENT = new URL("./die-with-parent.ts", import.meta.url).href;

/** Both Workers start in one process group. The first one listens on the port. */
const MAIN_CONFIG = "wrangler.toml";
const WORKSPACE_CONFIG = "wrangler.workspace.toml";

const DEFAULT_PORT = "8787";

const USAGE = `usage: npm start -- [options]

  --port PORT         default ${DEFAULT_PORT}
  --persist-to DIR    the folder of the state; default .wrangler/state
  --var NAME:VALUE    a variable for this run, in place of that of .dev.vars or wrangler.toml; may be
                      repeated

All options go to wrangler dev, which has more: npx wrangler dev --help
`;

/** wrangler usually stops in well under a second. After this time it is killed. */
const STOP_GRACE_MS = 5000;
const PARENT_POLL_MS = 500;

function isGiven(args: string[], ...flags: string[]): boolean {
  return args.some((arg) => flags.some((flag) => arg === flag || arg.startsWith(`${flag}=`)));
}

/** The values of an option that may be repeated, and that takes several values. */
function valuesOf(args: string[], flag: string): string[] {
  return args.flatMap((arg, at) => {
    if (arg.startsWith(`${flag}=`)) return [arg.slice(flag.length + 1)];
    if (arg !== flag) return [];
    const rest = args.slice(at + 1);
    const end = rest.findIndex((value) => value.startsWith("-"));
    return end === -1 ? rest : rest.slice(0, end);
  });
}

/** A value for a line of `.dev.vars`, in a kind of quotes that it does not contain. */
function quoted(value: string): string {
  const quote = ["'", '"', "`"].find((mark) => !value.includes(mark));
  if (quote === undefined) throw new Error("a variable has three kinds of quotes");
  return quote + value + quote;
}

/**
 * Writes the second Worker's configuration for this start. wrangler applies `--var` to the first of
 * several configurations only, so the second one is a copy with a `.dev.vars` of its own beside it.
 * `--persist-to` applies to both.
 *
 * @returns its path
 */
function writeWorkspaceConfig(folder: string, given: string[]): string {
  const text = readFileSync(join(PROJECT, WORKSPACE_CONFIG), "utf8");
  const main = /^main = "(.+)"$/m;
  const config = text.replace(main, (_, path) => `main = ${JSON.stringify(join(PROJECT, path))}`);
  const vars = { ...readDevVars() };
  for (const pair of valuesOf(given, "--var")) {
    const colon = pair.indexOf(":");
    if (colon > 0) vars[pair.slice(0, colon)] = pair.slice(colon + 1);
  }
  const lines = Object.entries(vars).map(([name, value = ""]) => `${name}=${quoted(value)}\n`);
  writeFileSync(join(folder, ".dev.vars"), lines.join(""), { mode: 0o600 });
  const path = join(folder, WORKSPACE_CONFIG);
  writeFileSync(path, config);
  return path;
}

function wranglerArguments(folder: string, given: string[]): string[] {
  const args = ["dev"];
  if (!isGiven(given, "-c", "--config")) {
    args.push("-c", MAIN_CONFIG, "-c", writeWorkspaceConfig(folder, given));
  }
  if (!isGiven(given, "-l", "--local", "-r", "--remote")) args.push("--local");
  // Given even though it is wrangler's default: otherwise wrangler silently replaces a port in use.
  if (!isGiven(given, "--port")) args.push("--port", DEFAULT_PORT);
  if (!isGiven(given, "--show-interactive-dev-session")) {
    args.push("--show-interactive-dev-session=false");
  }
  return [...args, ...given];
}

function startWrangler(args: string[]) {
  return spawn(
    process.execPath,
    // cli.js, not bin/wrangler.js, which would start one more process.
    ["--no-warnings", "--import", DIE_WITH_PARENT, WRANGLER, ...args],
    {
      cwd: PROJECT,
      // A process group of its own: one signal reaches wrangler, esbuild and workerd.
      detached: true,
      // The fourth is a pipe. It closes when this process ends, which die-with-parent.ts notices.
      stdio: ["ignore", "inherit", "inherit", "pipe"],
      env: {
        ...process.env,
        CLOUDFLARE_CF_FETCH_ENABLED: "false",
        WRANGLER_SEND_METRICS: "false",
        WRANGLER_SEND_ERROR_REPORTS: "false",
        // The banner would ask the registry for a newer version.
        WRANGLER_HIDE_BANNER: "true",
        WRANGLER_NO_SKILLS_UPDATE_PROMPTS: "true",
      },
    },
  );
}

answerHelp(USAGE);
const added = completeDevVars();
if (added.length > 0) process.stderr.write(`.dev.vars: added ${added.join(", ")}\n`);
await buildAssets();

const folder = makeStartFolder();
process.on("exit", () => removeStartFolder(folder));
const wrangler = startWrangler(wranglerArguments(folder, process.argv.slice(2)));
let endedBy: NodeJS.Signals | undefined;

function killGroup(signal: NodeJS.Signals): void {
  try {
    if (wrangler.pid !== undefined) process.kill(-wrangler.pid, signal);
  } catch {
    // Already gone.
  }
}

function stop(signal: NodeJS.Signals): void {
  // A second Ctrl-C kills at once.
  killGroup(endedBy === undefined ? "SIGTERM" : "SIGKILL");
  endedBy ??= signal;
  setTimeout(killGroup, STOP_GRACE_MS, "SIGKILL").unref();
}

for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
  process.on(signal, () => stop(signal));
}

/**
 * The ids of this process's parent, the shell that npm starts, and of the shell's parent, npm. The shell
 * survives when npm is killed by SIGKILL, and only Linux shows that its parent has changed.
 */
function ancestry(shell: number): string {
  try {
    const stat = readFileSync(`/proc/${shell}/stat`, "utf8");
    // After the name in parentheses: state, parent.
    return `${process.ppid} ${stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]}`;
  } catch {
    return `${process.ppid}`;
  }
}

function isShellOfNpm(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("\0-c\0");
  } catch {
    return false;
  }
}

if (process.env.npm_lifecycle_event !== undefined) {
  const parent = process.ppid;
  const watched = isShellOfNpm(parent) ? () => ancestry(parent) : () => `${process.ppid}`;
  const atStart = watched();
  setInterval(() => {
    if (watched() !== atStart && endedBy === undefined) stop("SIGHUP");
  }, PARENT_POLL_MS).unref();
}

// For a caller that may be killed itself, such as a test: its end closes our stdin.
if (process.env.ROLLCALL_STOP_ON_STDIN_END === "1") {
  process.stdin.on("close", () => stop("SIGHUP")).resume();
}

wrangler.on("error", (error) => {
  process.stderr.write(`cannot start wrangler: ${error.message}\n`);
  process.exit(1);
});

wrangler.on("exit", (code, signal) => {
  // workerd may still run after wrangler has ended, and always does when wrangler was killed.
  killGroup("SIGKILL");
  const reason = endedBy ?? signal;
  process.exit(reason ? 128 + constants.signals[reason] : (code ?? 1));
});
