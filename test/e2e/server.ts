/**
 * The server as users start it, for tests: `npm start -- --port … --persist-to …` in processes of
 * its own, on a free port, with state in a folder of its own. It ends with the test that started it,
 * even when that test is killed: the start script then notices the end of its stdin.
 *
 * @example
 * const server = await startServer({ vars: { ENVIRONMENT: "production" } });
 * onTestFinished(() => server.stop());
 * await fetch(`${server.url}/health`);
 * await server.kill();     // power cut; the state stays
 * await server.restart();  // same port, same state
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { removeEndedStartFolders } from "../../scripts/start-folder.ts";
import { listProcesses, type Process } from "../kit/processes.ts";

const PROJECT = fileURLToPath(new URL("../..", import.meta.url));
const POLL_MS = 50;
/** Long, because these are real processes, on machines that stall for seconds at times. */
const START_DEADLINE_MS = 90_000;
const STOP_DEADLINE_MS = 15_000;
const PORT_ATTEMPTS = 3;
const TAIL_LINES = 60;

export interface ServerOptions {
  /** Given as `--var NAME:VALUE`, which overrides .dev.vars. */
  vars?: Record<string, string>;
  /** More arguments for `wrangler dev`. */
  args?: string[];
  /** Environment of `npm start`, on top of ours. */
  env?: Record<string, string>;
  /** State of an earlier server. Without it: a new folder, removed by `stop`. */
  persistTo?: string;
  /** Default: a free one. */
  port?: number;
  /** The path that is requested until it answers, with any status. Default `/`. */
  readyPath?: string;
  startDeadlineMs?: number;
}

/** Starts the server and waits until it answers; throws with the end of its log when it does not. */
export async function startServer(options: ServerOptions = {}): Promise<Server> {
  for (let attempt = 1; ; attempt++) {
    const port = options.port ?? (await findFreePort());
    const server = new Server(options, port);
    try {
      await server.start();
      return server;
    } catch (error) {
      await server.stop();
      // Another process took the port after we had found it free.
      const taken = /Address already in use|EADDRINUSE/.test(server.logs);
      if (!taken || options.port !== undefined || attempt === PORT_ATTEMPTS) throw error;
    }
  }
}

export class Server {
  readonly port: number;
  readonly url: string;
  readonly wsUrl: string;
  readonly persistTo: string;
  readonly #options: ServerOptions;
  readonly #ownsState: boolean;
  #output = "";
  #npm: ChildProcess | undefined;
  #groups = new Set<number>();

  constructor(options: ServerOptions, port: number) {
    this.#options = options;
    this.port = port;
    this.url = `http://127.0.0.1:${port}`;
    this.wsUrl = `ws://127.0.0.1:${port}`;
    this.#ownsState = options.persistTo === undefined;
    this.persistTo = options.persistTo ?? mkdtempSync(join(tmpdir(), "rollcall-e2e-"));
  }

  /** stdout and stderr since the first start, without colours. */
  get logs(): string {
    return this.#output;
  }

  get isRunning(): boolean {
    return this.#npm !== undefined;
  }

  /** Everything that `npm start` started: npm, the script, wrangler, esbuild, workerd. */
  processes(): Process[] {
    const all = listProcesses();
    const ours = new Set<number>();
    if (this.#npm?.pid !== undefined) ours.add(this.#npm.pid);
    // Parents may come after their children in the list.
    for (let before = -1; before !== ours.size; ) {
      before = ours.size;
      for (const { pid, parent, group } of all) {
        if (ours.has(parent) || this.#groups.has(group)) ours.add(pid);
      }
    }
    return all.filter(({ pid }) => ours.has(pid));
  }

  async start(): Promise<void> {
    if (this.#npm) throw new Error("the server is running already");
    const options = this.#options;
    const from = this.#output.length;
    const npm = spawn(
      "npm",
      [
        "start",
        "--",
        ...["--port", `${this.port}`, "--inspector-port", "0", "--persist-to", this.persistTo],
        ...Object.entries(options.vars ?? {}).flatMap(([name, value]) => [
          "--var",
          `${name}:${value}`,
        ]),
        ...(options.args ?? []),
      ],
      {
        cwd: PROJECT,
        detached: true,
        stdio: ["pipe", "pipe", "pipe"],
        env: { ...environmentOfAUser(this.persistTo), ...options.env },
      },
    );
    this.#npm = npm;
    if (npm.pid !== undefined) this.#groups = new Set([npm.pid]);
    for (const stream of [npm.stdout, npm.stderr]) {
      stream.setEncoding("utf8").on("data", (text: string) => {
        this.#output += text;
      });
    }
    npm.on("error", (error) => {
      this.#output += `npm cannot be started: ${error.message}\n`;
    });
    // The pipe carries no data, so a closed reader is no error.
    npm.stdin.on("error", () => {});
    npm.once("close", (code, signal) => {
      this.#output += `[npm start ended: ${signal ?? code}]\n`;
      if (this.#npm === npm) this.#npm = undefined;
    });

    const deadlineMs = options.startDeadlineMs ?? START_DEADLINE_MS;
    const giveUpAt = Date.now() + deadlineMs;
    // The log first: before that line, an answer on the port comes from another process.
    while (!/Ready on http/.test(this.#output.slice(from)) || !(await this.#answers())) {
      if (this.#npm !== npm) throw this.#failure("npm start ended before the server answered");
      if (Date.now() > giveUpAt) {
        throw this.#failure(`the server did not answer within ${deadlineMs} ms`);
      }
      await sleep(POLL_MS);
    }
    for (const { group } of this.processes()) this.#groups.add(group);
  }

  /** Ends the server as Ctrl-C does, and removes its state unless `persistTo` was given. */
  async stop(): Promise<void> {
    await this.#end("SIGTERM");
    if (this.#ownsState) rmSync(this.persistTo, { recursive: true, force: true, maxRetries: 5 });
  }

  /** SIGKILL to all of its processes at once; the state stays. */
  async kill(): Promise<void> {
    await this.#end("SIGKILL");
  }

  /** Stops what still runs, then starts on the same port and state. */
  async restart(): Promise<void> {
    await this.#end("SIGTERM");
    await this.start();
  }

  /** Waits for a line; `from` is an earlier `logs.length`. */
  async waitForLog(pattern: RegExp | string, timeoutMs = 10_000, from = 0): Promise<void> {
    const giveUpAt = Date.now() + timeoutMs;
    for (;;) {
      const text = this.#output.slice(from);
      if (typeof pattern === "string" ? text.includes(pattern) : pattern.test(text)) return;
      if (Date.now() > giveUpAt) throw this.#failure(`no ${pattern} in the log in ${timeoutMs} ms`);
      await sleep(POLL_MS);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #answers(): Promise<boolean> {
    try {
      const response = await fetch(this.url + (this.#options.readyPath ?? "/"), {
        signal: AbortSignal.timeout(5000),
      });
      await response.arrayBuffer();
      return true;
    } catch {
      return false;
    }
  }

  async #end(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    for (const { group } of this.processes()) this.#groups.add(group);
    const groups = [...this.#groups];
    // On SIGTERM npm's group suffices: the start script ends the other one in an orderly way.
    for (const group of signal === "SIGKILL" ? groups : groups.slice(0, 1)) {
      signalGroup(group, signal);
    }
    const giveUpAt = Date.now() + STOP_DEADLINE_MS;
    let isForced = signal === "SIGKILL";
    while (this.#npm !== undefined || this.processes().length > 0) {
      if (Date.now() > giveUpAt) {
        if (isForced) throw this.#failure(`still running: ${JSON.stringify(this.processes())}`);
        isForced = true;
      }
      if (isForced) for (const group of groups) signalGroup(group, "SIGKILL");
      await sleep(POLL_MS);
    }
    this.#groups.clear();
    // After SIGKILL the start script could not.
    removeEndedStartFolders();
  }

  #failure(what: string): Error {
    const tail = this.#output.split("\n").slice(-TAIL_LINES).join("\n");
    return new Error(`${what}\n--- the end of its log ---\n${tail}`);
  }
}

/** Our environment without what npm and vitest put into it. */
export function environmentOfAUser(state: string): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = {};
  for (const [name, value] of Object.entries(process.env)) {
    if (
      !/^(npm_|VITEST|NODE_ENV$|NODE_OPTIONS$|TEST$|MODE$|DEV$|PROD$|SSR$|BASE_URL$)/.test(name)
    ) {
      env[name] = value;
    }
  }
  env.PATH = (env.PATH ?? "")
    .split(delimiter)
    .filter((folder) => !folder.replace(/\/$/, "").endsWith("node_modules/.bin"))
    .join(delimiter);
  env.NO_COLOR = "1";
  delete env.FORCE_COLOR;
  env.ROLLCALL_STOP_ON_STDIN_END = "1";
  // Servers that run at the same time have the same name and must not find each other.
  env.WRANGLER_REGISTRY_PATH = join(state, "registry");
  return env;
}

function signalGroup(group: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-group, signal);
  } catch {
    // Already gone.
  }
}

async function findFreePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve, reject) => {
    probe.once("error", reject).listen(0, "127.0.0.1", resolve);
  });
  const address = probe.address();
  await new Promise((resolve) => probe.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no port to be had");
  return address.port;
}
