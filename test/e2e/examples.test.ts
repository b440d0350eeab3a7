import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { environmentOfAUser } from "./server.ts";

const PROJECT = fileURLToPath(new URL("../..", import.meta.url));

/** What its README says an example prints; lines of one moment may come in any order. */
function promised(name: string): string[] {
  const text = readFileSync(`${PROJECT}/examples/${name}/README.md`, "utf8");
  const [command, output = ""] = [...text.matchAll(/(?:^ {4}.*\n)+/gm)].map(([block]) => block);
  expect(command?.trim()).toBe(`npm run example:${name}`);
  return linesOf(output);
}

function linesOf(output: string): string[] {
  return output
    .split("\n")
    .map((line) => line.trim().replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/, "<time>"))
    .filter((line) => line !== "")
    .sort();
}

test.each(["presence", "chat", "notifications", "presence-only", "own-worker"])(
  "npm run example:%s does what its README shows, and ends",
  async (name) => {
    const { stdout } = await promisify(execFile)("npm", ["run", "--silent", `example:${name}`], {
      cwd: PROJECT,
      env: environmentOfAUser(tmpdir()),
      timeout: 50_000,
    });
    expect(linesOf(stdout)).toEqual(promised(name));
  },
);
