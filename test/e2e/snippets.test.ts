// @module-tag slow
/** The commands of the documentation, pasted into a shell beside a server that was started as users start it. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { readPages, type Snippet, snippetsOf } from "../../scripts/snippets.ts";
import { environmentOfAUser, type Server, startServer } from "./server.ts";

const PROJECT = fileURLToPath(new URL("../..", import.meta.url));
/** What goes on prints something at its start. */
const OPENING_MS = 20_000;

const isRun = ({ language, words }: Snippet) =>
  language === "sh" && words.every((word) => word === "open");
const pages = readPages().filter((page) => snippetsOf(page).some(isRun));

let server: Server;

beforeAll(async () => {
  server = await startServer();
});

afterAll(() => server.stop());

/** A block in a shell of its own, with this server in place of the one on the default port. */
class Shell {
  /** Without what npm and curl add. */
  output = "";
  log = "";
  readonly ended: Promise<number | null>;
  readonly #process: ChildProcess;

  constructor(code: string) {
    const here = code
      .replaceAll("localhost:8787", `127.0.0.1:${server.port}`)
      .replace(/(npm run (?:demo|watch|daemon) --)/g, `$1 --url ${server.url}`);
    // An error status fails a command only where curl is asked for it.
    const script = `set -euo pipefail\ncurl() { command curl --fail-with-body "$@"; }\n${here}`;
    this.#process = spawn("bash", ["-c", script], {
      cwd: PROJECT,
      env: { ...environmentOfAUser(server.persistTo), npm_config_loglevel: "silent" },
      detached: true,
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#process.stdout?.setEncoding("utf8").on("data", (text: string) => {
      this.output += text;
    });
    this.#process.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.log += text;
    });
    this.ended = once(this.#process, "close").then(([code]) => code);
    onTestFinished(() => this.stop());
  }

  get isRunning(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null;
  }

  async stop(): Promise<void> {
    if (!this.isRunning || this.#process.pid === undefined) return;
    process.kill(-this.#process.pid, "SIGKILL");
    await this.ended;
  }
}

/** Lines of JSON, without cursors, which differ each time. */
function answersIn(text: string, line: RegExp): unknown[] {
  return [...text.matchAll(line)].map(([, json = ""]) => ({ ...JSON.parse(json), cursor: "" }));
}

/** Runs the blocks that end, and compares what they print with the comments that show it. */
async function runToEnd({ page, line, code }: Snippet): Promise<void> {
  const shell = new Shell(code);
  expect(await shell.ended, `${page}:${line}\n${shell.output}\n${shell.log}`).toBe(0);
  const shown = answersIn(code, /^# (\{.*\})$/gm);
  const printed = answersIn(shell.output.replaceAll("}{", "}\n{"), /^(\{.*\})$/gm);
  if (shown.length > 0) expect(printed).toEqual(expect.arrayContaining(shown));
}

describe("the commands of", () => {
  it.each(pages)("%s do what it says", async (page) => {
    const open: { shell: Shell; place: string; isStream: boolean }[] = [];
    for (const snippet of snippetsOf(page).filter(isRun)) {
      if (snippet.words.includes("open")) {
        const shell = new Shell(snippet.code);
        const place = `${page}:${snippet.line}`;
        await expect.poll(() => shell.output, { timeout: OPENING_MS, message: place }).not.toBe("");
        open.push({ shell, place, isStream: /curl -N|node -e/.test(snippet.code) });
      } else {
        const lengths = open.map(({ shell }) => shell.output.length);
        await runToEnd(snippet);
        for (const [index, { shell, place, isStream }] of open.entries()) {
          const shown = () => shell.output.length;
          if (isStream)
            await expect
              .poll(shown, { timeout: OPENING_MS, message: place })
              .toBeGreaterThan(lengths[index] ?? 0);
        }
      }
    }
    for (const { shell, place } of open) expect(shell.isRunning, place + shell.log).toBe(true);
  });
});
