/** The development secrets: `.dev.vars` (not in git), a copy of the committed example. */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseEnv } from "node:util";

const DEV_VARS = fileURLToPath(new URL("../.dev.vars", import.meta.url));
const EXAMPLE = fileURLToPath(new URL("../.dev.vars.example", import.meta.url));

/**
 * Creates `.dev.vars` from the example, or appends the names that are missing. Existing values stay.
 *
 * @returns the names that were added
 */
export function completeDevVars(): string[] {
  const example = readFileSync(EXAMPLE, "utf8");
  const wanted = parseEnv(example);
  if (!existsSync(DEV_VARS)) {
    replaceDevVars(example);
    return Object.keys(wanted);
  }

  const current = readFileSync(DEV_VARS, "utf8");
  const present = parseEnv(current);
  const missing = Object.keys(wanted).filter((name) => !(name in present));
  if (missing.length > 0) {
    const gap = current === "" || current.endsWith("\n") ? "" : "\n";
    const lines = missing.map((name) => `${name}="${wanted[name]}"\n`).join("");
    replaceDevVars(`${current}${gap}${lines}`);
  }
  return missing;
}

/** In one step: another `npm start` may be reading the file at this moment. */
function replaceDevVars(text: string): void {
  const draft = `${DEV_VARS}.${process.pid}`;
  writeFileSync(draft, text, { mode: 0o600 });
  renameSync(draft, DEV_VARS);
}

/** The variables of the local Worker: those of `.dev.vars`, which is completed first. */
export function readDevVars(): Record<string, string | undefined> {
  completeDevVars();
  return parseEnv(readFileSync(DEV_VARS, "utf8"));
}
