/** Processes: clients in one of their own, and what CPU and memory each uses. */
import {
  type ChildProcess,
  type ExecFileException,
  execFile,
  execFileSync,
  fork,
  spawn,
} from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { promisify } from "node:util";

export interface Process {
  pid: number;
  parent: number;
  group: number;
  command: string;
}

interface Stoppable {
  stop(): Promise<void>;
}
const started = new Set<Stoppable>();

/** Lets `stopAll` stop it, if nothing has stopped it before. */
export function untilEnd<T extends Stoppable>(process: T): T {
  started.add(process);
  return process;
}

export async function stopAll(): Promise<void> {
  const all = [...started];
  started.clear();
  await Promise.all(all.map((one) => one.stop()));
}

/** Clients in a process of their own. It answers each message with one message. */
export class Clients {
  readonly #child: ChildProcess;

  constructor(module: URL) {
    this.#child = fork(module);
    untilEnd(this);
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  /** @throws Error when the process ends instead of answering */
  async ask<T>(task: object): Promise<T> {
    const gone = new AbortController();
    const answer = once(this.#child, "message", { signal: gone.signal });
    const exit = once(this.#child, "exit", { signal: gone.signal }).then(() => {
      throw new Error("the clients' process ended; its error stands above");
    });
    this.#child.send(task);
    try {
      const [message] = (await Promise.race([answer, exit])) as [T];
      return message;
    } finally {
      for (const promise of [answer, exit]) promise.catch(() => {});
      gone.abort();
    }
  }

  stop(): Promise<void> {
    return end(this.#child);
  }
}

interface Place {
  cwd: string;
  env: NodeJS.ProcessEnv;
}

const RUN_MS = 90_000;
const OUTPUT_BYTES = 16_777_216;

/** Runs a program to its end. @returns its output @throws Error with all output when it fails */
export async function run(
  command: string,
  args: string[],
  place: Place,
  timeoutMs = RUN_MS,
): Promise<string> {
  try {
    const options = { ...place, timeout: timeoutMs, maxBuffer: OUTPUT_BYTES };
    return (await promisify(execFile)(command, args, options)).stdout;
  } catch (error) {
    const { killed, stdout = "", stderr = "" } = error as ExecFileException;
    const how = killed ? `was stopped after ${timeoutMs} ms` : "failed";
    throw new Error(`${command} ${args.join(" ")} ${how}:\n${stdout}\n${stderr}`);
  }
}

export interface Serving {
  /** What `ready` matched first. */
  url: string;
  pid: number;
  stop(): Promise<void>;
}

/**
 * Starts a server in a process group of its own, with a pipe as its descriptor 3 that closes when this
 * process ends. Resolves when `ready`, whose first group is the address, matches its output.
 *
 * @throws Error with its output when it ends before
 */
export function serve(
  command: string,
  args: string[],
  place: Place,
  ready: RegExp,
): Promise<Serving> {
  const child = spawn(command, args, {
    ...place,
    detached: true,
    stdio: ["ignore", "pipe", "pipe", "pipe"],
  });
  const exit = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const stop = async (): Promise<void> => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
    } catch {
      // Already gone.
    }
    await exit;
  };
  return new Promise((resolve, reject) => {
    let log = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        log += text;
        const [, url] = ready.exec(log) ?? [];
        if (url) resolve({ url, pid: child.pid as number, stop });
      });
    }
    child.once("error", reject);
    child.once("exit", () => reject(new Error(`The server did not start:\n${log}`)));
  });
}

/** Answers each message of the parent with one message, and ends with the parent. */
export function answerParent<Task>(answer: (task: Task) => Promise<unknown>): void {
  process.on("message", async (task: Task) => {
    process.send?.((await answer(task)) ?? {});
  });
  // The parent may have been killed.
  process.once("disconnect", () => process.exit());
}

export async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, "exit");
  child.kill("SIGKILL");
  await exit;
}

/**
 * CPU time of all threads of process `pid` so far, in ms. The scheduler's count is exact;
 * /proc/<pid>/stat counts in ticks of 10 ms.
 */
export function cpuMs(pid: number): number {
  let sum = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    sum += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "utf8").split(" ")[0]);
  }
  return sum / 1e6;
}

/** Memory of a process, in MiB. */
export interface Memory {
  /** Resident. */
  rss: number;
  /** Of what it shares with others, only its share. */
  pss: number;
}

/** @throws Error when there is no such process any more */
export function memoryOf(pid: number): Memory {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  const read = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(text)?.[1]);
  return { rss: read("Rss") / 1024, pss: read("Pss") / 1024 };
}

/** Busy time of all cores, in ms, and how much of all time the hypervisor took. */
export function machineMs(): { busy: number; steal: number } {
  const [user = 0, nice = 0, system = 0, , , irq = 0, soft = 0, steal = 0] = (
    /^cpu +(.*)$/m.exec(readFileSync("/proc/stat", "utf8"))?.[1] ?? ""
  )
    .split(" ")
    .map((ticks) => Number(ticks) * 10);
  return { busy: user + nice + system + irq + soft + steal, steal };
}

/** All processes of the machine. */
export function listProcesses(): Process[] {
  return existsSync("/proc/self/stat") ? readProc() : askPs();
}

function readProc(): Process[] {
  return readdirSync("/proc").flatMap((entry) => {
    if (!/^\d+$/.test(entry)) return [];
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, "utf8");
      // Behind the name in parentheses: state, parent, group.
      const [state, parent, group] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      if (state === "Z") return [];
      const command = readFileSync(`/proc/${entry}/cmdline`, "utf8").replaceAll("\0", " ").trim();
      return [{ pid: Number(entry), parent: Number(parent), group: Number(group), command }];
    } catch {
      return []; // Ended while we looked.
    }
  });
}

function askPs(): Process[] {
  const lines = execFileSync("ps", ["-A", "-o", "pid=,ppid=,pgid=,stat=,command="], {
    encoding: "utf8",
  }).split("\n");
  return lines.flatMap((line) => {
    const [, pid, parent, group, state, command] =
      /^\s*(\d+)\s+(\d+)\s+(\d+)\s+(\S+)\s+(.*)$/.exec(line) ?? [];
    if (command === undefined || state?.startsWith("Z")) return [];
    return [{ pid: Number(pid), parent: Number(parent), group: Number(group), command }];
  });
}
