// @module-tag slow
/** The commands of the documentation, pasted into a shell beside a server that was started as users start it. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { readPages, type Snippet, snippetsOf } from "../../scripts/snippets.ts";
import { environmentOfAUser, type Server, startServer } from "./server.ts";

const PROJECT = fileURLToPath(new URL("../..", import.meta.url));
/** A stream or a client has opened by then, but for a machine that stalls. */
const OPENING_MS = 4_000;
const ATTEMPTS = 3;

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
    const blocks = snippetsOf(page).filter(isRun);
    const open: { shell: Shell; snippet: Snippet }[] = [];
    for (const snippet of blocks) {
      if (snippet.words.includes("open")) {
        open.push({ shell: new Shell(snippet.code), snippet });
        await sleep(OPENING_MS);
      } else {
        await runToEnd(snippet);
      }
    }
    const silent = () => open.filter(({ shell }) => shell.output.trim() === "");
    // The machine may have stalled while a stream opened: then it has missed what was sent to it.
    for (let attempt = 1; silent().length > 0 && attempt < ATTEMPTS; attempt++) {
      for (const snippet of blocks) if (!snippet.words.includes("open")) await runToEnd(snippet);
    }
    for (const { shell, snippet } of open) {
      const place = `${page}:${snippet.line}\n${shell.output}\n${shell.log}`;
      expect(shell.output.trim(), place).not.toBe("");
      expect(shell.isRunning, place).toBe(true);
    }
  });
});
