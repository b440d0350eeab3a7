/** Servers and clients for benchmarks, each in a process of its own, and what their CPU costs. */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";

export { median } from "./report.ts";

/** As in wrangler.toml. */
const COMPATIBILITY_DATE = "2026-10-15";
/** The root of this checkout. */
export const PROJECT = fileURLToPath(new URL("../..", import.meta.url));

export interface BenchServer {
  /** `ws://127.0.0.1:<port>`, straight into the server: no development proxy in between. */
  readonly url: string;
  /** Of the process that serves. */
  readonly pid: number;
  stop(): Promise<void>;
}

/**
 * Bundles a Worker and starts it in a workerd of its own.
 *
 * @param entry path from the checkout's root
 * @param objects binding → class name, SQLite storage
 * @param root of the checkout; default: this one
 */
export async function startWorker(
  entry: string,
  objects: Record<string, string>,
  bindings: Record<string, string> = {},
  root: string = PROJECT,
): Promise<BenchServer> {
  const bundle = await build({
    entryPoints: [entry],
    absWorkingDir: root,
    bundle: true,
    write: false,
    format: "esm",
    target: "es2024",
    conditions: ["workerd", "worker", "browser"],
    external: ["cloudflare:*", "node:*"],
  });
  const before = new Set(childrenOf(process.pid));
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      modules: true,
      script: bundle.outputFiles[0]?.text ?? "",
      compatibilityDate: COMPATIBILITY_DATE,
      compatibilityFlags: ["nodejs_als"],
      bindings,
      durableObjects: Object.fromEntries(
        Object.entries(objects).map(([name, className]) => [name, { className, useSQLite: true }]),
      ),
      unsafeDirectSockets: [{ host: "127.0.0.1", port: 0 }],
    }),
  );
  await miniflare.ready;
  const { port } = await miniflare.unsafeGetDirectURL();
  const pid = childrenOf(process.pid).find(
    (child) => !before.has(child) && commandOf(child).includes("workerd"),
  );
  if (pid === undefined) throw new Error("workerd is not to be found among our processes");
  return { url: `ws://127.0.0.1:${port}`, pid, stop: () => miniflare.dispose() };
}

/** Starts a server in Node: a module that sends `{ port }` to its parent once it listens. */
export async function startNode(module: URL): Promise<BenchServer> {
  const child = fork(module);
  const [{ port }] = (await once(child, "message")) as [{ port: number }];
  return {
    url: `ws://127.0.0.1:${port}`,
    pid: child.pid as number,
    stop: () => end(child),
  };
}

/** Clients in a process of their own: it answers each message that it is sent with one message. */
export class Clients {
  readonly #child: ChildProcess;

  constructor(module: URL) {
    this.#child = fork(module);
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

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, "exit");
  child.kill("SIGKILL");
  await exit;
}

/**
 * CPU time that the threads of process `pid` have used so far, in ms. By the scheduler's count, which
 * is exact: /proc/<pid>/stat counts in ticks of 10 ms.
 */
export function cpuMs(pid: number): number {
  let sum = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    sum += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "utf8").split(" ")[0]);
  }
  return sum / 1e6;
}

/** Memory that process `pid` holds, in MB; of what it shares with others, its share. */
export function memoryMb(pid: number): number {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  return Number(/^Pss:\s+(\d+) kB/m.exec(rollup)?.[1]) / 1024;
}

/** The fields of /proc/<pid>/stat behind the name: state, parent, … */
function statOf(pid: number): string[] {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
}

function commandOf(pid: number): string {
  return readFileSync(`/proc/${pid}/cmdline`, "utf8");
}

function childrenOf(parent: number): number[] {
  return readdirSync("/proc")
    .filter((entry) => /^\d+$/.test(entry))
    .map(Number)
    .filter((pid) => {
      try {
        return Number(statOf(pid)[1]) === parent;
      } catch {
        return false; // Ended while we looked.
      }
    });
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
