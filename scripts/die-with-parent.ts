/**
 * `start.ts` loads this into wrangler. When `start.ts` ends, even by SIGKILL, the pipe on descriptor 3
 * closes, and the whole process group is stopped.
 */
import { Socket } from "node:net";
import { isMainThread } from "node:worker_threads";

const STOP_GRACE_MS = 5000;

// `--import` also runs in worker threads, which share the descriptor.
if (isMainThread) {
  const lifeline = new Socket({ fd: 3, readable: true, writable: false });
  lifeline.on("close", () => {
    process.kill(-process.pid, "SIGTERM");
    setTimeout(() => process.kill(-process.pid, "SIGKILL"), STOP_GRACE_MS);
  });
  lifeline.on("error", () => {});
  lifeline.resume();
  lifeline.unref();
}
