/**
 * The folders of `npm start` for the second Worker's configuration, one for each process. They hold a copy of
 * `.dev.vars`, so none may outlive its process for long.
 */
import { existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const PARENT = fileURLToPath(new URL("../.wrangler", import.meta.url));
const NAME = /^start-(\d+)$/;

/** Makes this process's folder, which only its user may read. @returns its path */
export function makeStartFolder(): string {
  const folder = join(PARENT, `start-${process.pid}`);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  removeEndedStartFolders();
  return folder;
}

/** Removes a folder with all that wrangler has written into it. */
export function removeStartFolder(folder: string): void {
  rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
}

/** Removes the folders of processes that were killed, and could not remove their own. */
export function removeEndedStartFolders(): void {
  for (const name of existsSync(PARENT) ? readdirSync(PARENT) : []) {
    const [, pid] = NAME.exec(name) ?? [];
    if (pid !== undefined && !isRunning(Number(pid))) removeStartFolder(join(PARENT, name));
  }
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    // Another user's process runs as well.
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
