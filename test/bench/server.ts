/** Servers for benchmarks, each in a process of its own. */
import { fork } from "node:child_process";
import { once } from "node:events";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";
import { end, listProcesses, untilEnd } from "../kit/processes.ts";

import { bundleWorker, COMPATIBILITY_DATE } from "../kit/workers.ts";

/** A Worker that calls actors of another one, in another runtime. */
export interface Neighbour {
  /** Where Workers find each other by name. */
  folder: string;
  /** Of this Worker. */
  name: string;
  /** Binding → class and Worker. */
  objects: Record<string, { className: string; scriptName: string }>;
}

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
 * @param persistTo the folder with the state of an earlier one; default: nothing is kept
 * @param neighbour default: it calls its own actors only
 */
export async function startWorker(
  entry: string,
  objects: Record<string, string>,
  bindings: Record<string, string> = {},
  {
    root,
    persistTo,
    neighbour,
  }: { root?: string | undefined; persistTo?: string; neighbour?: Neighbour } = {},
): Promise<BenchServer> {
  const script = await bundleWorker(entry, root);
  const children = () => listProcesses().filter(({ parent }) => parent === process.pid);
  const before = new Set(children().map(({ pid }) => pid));
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      modules: true,
      script,
      compatibilityDate: COMPATIBILITY_DATE,
      compatibilityFlags: ["nodejs_als"],
      bindings,
      durableObjects: {
        ...Object.fromEntries(
          Object.entries(objects).map(([name, className]) => [
            name,
            { className, useSQLite: true },
          ]),
        ),
        ...neighbour?.objects,
      },
      ...(persistTo && { resourcePersistencePath: persistTo }),
      ...(neighbour && { name: neighbour.name, unsafeDevRegistryPath: neighbour.folder }),
      unsafeDirectSockets: [{ host: "127.0.0.1", port: 0 }],
    }),
  );
  await miniflare.ready;
  const { port } = await miniflare.unsafeGetDirectURL();
  const workerd = children().find(
    ({ pid, command }) => !before.has(pid) && command.includes("workerd"),
  );
  if (!workerd) throw new Error("workerd is not to be found among our processes");
  return untilEnd({
    url: `ws://127.0.0.1:${port}`,
    pid: workerd.pid,
    stop: () => miniflare.dispose(),
  });
}

/** Starts a server in Node: a module that sends `{ port }` to its parent once it listens. */
export async function startNode(module: URL): Promise<BenchServer> {
  const child = fork(module);
  const [{ port }] = (await once(child, "message")) as [{ port: number }];
  const pid = child.pid as number;
  return untilEnd({ url: `ws://127.0.0.1:${port}`, pid, stop: () => end(child) });
}
