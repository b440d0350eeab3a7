// @module-tag slow
/** The commands of a clone, as somebody types them who does not know their options. */
import { spawnSync } from "node:child_process";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { environmentOfAUser } from "./server.ts";

const PROJECT = fileURLToPath(new URL("../..", import.meta.url));
const USAGE = /^usage: npm (start|run)/m;

function run(command: string, ...args: string[]) {
  return spawnSync("npm", ["run", "-s", command, "--", ...args], {
    cwd: PROJECT,
    // stdin is empty here, which must not end `npm start`.
    env: { ...environmentOfAUser(tmpdir()), ROLLCALL_STOP_ON_STDIN_END: "" },
    encoding: "utf8",
    timeout: 60_000,
  });
}

describe.each(["start", "demo", "daemon", "watch", "token", "example:chat"])(
  "npm run %s",
  (name) => {
    test("prints its options with --help, and ends", () => {
      const { status, stdout, stderr } = run(name, "--help");
      expect({ status, stdout, stderr }).toEqual({
        status: 0,
        stdout: expect.stringMatching(USAGE),
        stderr: "",
      });
    });

    test("names an option that it does not have, and ends with an error", () => {
      const { status, stdout, stderr } = run(name, "--nonsense", "1");
      expect(status).toBe(name === "start" ? 1 : 2);
      expect(stdout + stderr).toMatch(/nonsense/);
      if (name !== "start") expect(stderr).toMatch(USAGE);
    });
  },
);

test.each([
  ["demo", ["--crowd", "many"], "--crowd takes 0 to 500"],
  ["demo", ["--url", "nowhere"], "--url takes a URL"],
  ["daemon", [], "--user is missing"],
  ["daemon", ["--user", "ann"], "--user takes a lowercase UUID"],
  ["watch", ["--user", "ann"], "--user takes a lowercase UUID"],
])("npm run %s -- %j says what is wrong: %s", (name, args, message) => {
  const { status, stderr } = run(name, ...args);
  expect(status).toBe(2);
  expect(stderr.split("\n")[0]).toContain(message);
  expect(stderr).toMatch(USAGE);
});
