/**
 * `npm run lock`: completes package-lock.json for every platform.
 *
 * When a registry mirror has the binaries of some platforms only, `npm install` silently leaves the
 * others out of the lockfile, and then `npm ci` refuses the lockfile on every platform. This adds their
 * entries: the exact version that their parent asks for, and the platform that their name contains.
 * With `--check` it only reports, and fails when an entry is missing.
 */
import { readFileSync, writeFileSync } from "node:fs";

interface Entry {
  version?: string;
  integrity?: string;
  cpu?: string[];
  dev?: boolean;
  libc?: string[];
  optional?: boolean;
  os?: string[];
  optionalDependencies?: Record<string, string>;
}

const LOCKFILE = new URL("../package-lock.json", import.meta.url);
const EXACT = /^\d+\.\d+\.\d+(-[\w.]+)?$/;
const OS: Record<string, string> = { windows: "win32", win: "win32" };
const CPU: Record<string, string> = { "64": "x64", "32": "ia32" };

/** From a name such as `@biomejs/cli-linux-x64-musl`; undefined when it names no platform. */
function parsePlatform(name: string): Pick<Entry, "cpu" | "os" | "libc"> | undefined {
  const match =
    /[-/](android|darwin|freebsd|linux|openharmony|win32|windows|win)-(arm64|arm|ia32|ppc64|riscv64|s390x|x64|64|32)(?:-(musl|gnu|glibc))?/.exec(
      name,
    );
  if (!match?.[1] || !match[2]) return undefined;
  const [, os, cpu, libc] = match;
  return {
    cpu: [CPU[cpu] ?? cpu],
    ...(libc && { libc: [libc === "musl" ? "musl" : "glibc"] }),
    os: [OS[os] ?? os],
  };
}

const lock = JSON.parse(readFileSync(LOCKFILE, "utf8")) as { packages: Record<string, Entry> };
const { packages } = lock;

/** Searches as Node does: in the parent's own node_modules, then in each one above. */
function isLocked(parent: string, name: string): boolean {
  for (let folder = parent; ; folder = folder.slice(0, folder.lastIndexOf("node_modules/"))) {
    const base = folder === "" || folder.endsWith("/") ? folder : `${folder}/`;
    if (packages[`${base}node_modules/${name}`]) return true;
    if (folder === "") return false;
  }
}

const added: string[] = [];
for (const [parent, entry] of Object.entries(packages)) {
  for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
    const platform = parsePlatform(name);
    if (!platform || !EXACT.test(version) || isLocked(parent, name)) continue;
    packages[`node_modules/${name}`] = {
      version,
      cpu: platform.cpu ?? [],
      ...(entry.dev && { dev: true }),
      ...(platform.libc && { libc: platform.libc }),
      optional: true,
      os: platform.os ?? [],
    };
    added.push(`${name}@${version}`);
  }
}

if (added.length > 0) {
  process.stdout.write(`missing in package-lock.json: ${added.join(", ")}\n`);
  if (process.argv.includes("--check")) {
    process.stdout.write("`npm run lock` adds them\n");
    process.exitCode = 1;
  } else {
    const [root, ...rest] = Object.entries(packages);
    if (root) {
      // npm's own order; "" is the project itself and comes first.
      rest.sort(([a], [b]) => a.localeCompare(b, "en"));
      lock.packages = Object.fromEntries([root, ...rest]);
    }
    writeFileSync(LOCKFILE, `${JSON.stringify(lock, null, 2)}\n`);
  }
}
