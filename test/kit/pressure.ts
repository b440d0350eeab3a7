import { readFileSync } from "node:fs";

/** Time since boot in which some process waited for a CPU, in ms; 0 where the kernel does not count it. */
export function starvedMs(): number {
  try {
    return Number(/total=(\d+)/.exec(readFileSync("/proc/pressure/cpu", "utf8"))?.[1] ?? 0) / 1000;
  } catch {
    return 0;
  }
}
