import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const PROJECT = fileURLToPath(new URL("../..", import.meta.url));

/** Files with one import each, by path; each folder's rule must refuse it. */
const REFUSED: [file: string, specifier: string][] = [
  ["src/index.ts", "zod/mini"],
  ["src/wire/broken.ts", "../actor/room.ts"],
  ["src/wire/broken.ts", "@standard-schema/spec"],
  ["src/actor/broken.ts", "../http/body.ts"],
  ["src/actor/broken.ts", "../../rooms/presence/room.ts"],
  ["src/actor/broken.ts", "zod/mini"],
  ["src/shards/broken.ts", "../http/body.ts"],
  ["src/access/broken.ts", "../actor/room.ts"],
  ["src/access/broken.ts", "hono"],
  ["src/http/broken.ts", "../actor/room.ts"],
  ["src/http/broken.ts", "../server/app.ts"],
  ["src/http/broken.ts", "zod"],
  ["src/server/broken.ts", "../../client/client.ts"],
  ["src/server/broken.ts", "zod"],
  ["rooms/moods/broken.ts", "../presence/contract.ts"],
  ["rooms/moods/broken.ts", "../../src/server/app.ts"],
  ["rooms/moods/broken.ts", "../../client/moods.ts"],
  ["rooms/moods/broken.ts", "zod"],
  ["rooms/workspace/broken.ts", "../presence/contract.ts"],
  ["rooms/moods/tally.ts", "../../src/actor/room.ts"],
  ["rooms/presence/roster.ts", "zod/mini"],
  ["client/broken.ts", "../src/actor/room.ts"],
  ["client/broken.ts", "../rooms/presence/contract.ts"],
  ["client/broken.ts", "zod/mini"],
  ["testing/broken.ts", "../src/actor/room.ts"],
];

const ALLOWED: [file: string, specifier: string][] = [
  ["src/index.ts", "./actor/actor.ts"],
  ["src/wire/fine.ts", "./frames.ts"],
  ["src/actor/fine.ts", "../wire/frames.ts"],
  ["src/shards/fine.ts", "../actor/room.ts"],
  ["src/access/fine.ts", "../wire/errors.ts"],
  ["src/http/fine.ts", "../actor/call.ts"],
  ["src/server/fine.ts", "../../rooms/moods/room.ts"],
  ["rooms/moods/fine.ts", "../../src/actor/room.ts"],
  ["rooms/workspace/fine.ts", "@livestore/sync-cf/cf-worker"],
  ["rooms/fanout/filters.ts", "../../src/wire/frames.ts"],
  ["client/fine.ts", "../rooms/moods/tally.ts"],
  ["testing/fine.ts", "cloudflare:test"],
];

interface Diagnostic {
  category: string;
  location: { path: string | { file: string } };
}

/** Each case lies in a tree of its own, numbered, below one folder with our biome.json. */
let folder: string;
/** Rules that each tree broke, by its number. */
const broken = new Map<string, string[]>();

function write(tree: string, file: string, text: string): void {
  const path = join(folder, tree, file);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
}

function treeOf(list: typeof REFUSED, index: number): string {
  return list === REFUSED ? `refused-${index}` : `allowed-${index}`;
}

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "rollcall-imports-"));
  const {
    $schema: _,
    vcs: __,
    ...config
  } = JSON.parse(readFileSync(join(PROJECT, "biome.json"), "utf8")) as {
    overrides: { includes: string[] }[];
  } & Record<string, unknown>;
  const overrides = config.overrides.map((override) => ({
    ...override,
    includes: override.includes.map((glob) => `*/${glob}`),
  }));
  writeFileSync(join(folder, "biome.json"), JSON.stringify({ ...config, overrides }));
  for (const list of [REFUSED, ALLOWED]) {
    for (const [index, [file, specifier]] of list.entries()) {
      write(treeOf(list, index), file, `export type { X } from "${specifier}";\n`);
    }
  }
  write("circle", "src/wire/a.ts", 'import type { B } from "./b.ts";\nexport type A = B | 1;\n');
  write("circle", "src/wire/b.ts", 'import type { A } from "./a.ts";\nexport type B = A | 2;\n');

  const { stdout } = spawnSync(
    join(PROJECT, "node_modules/.bin/biome"),
    ["lint", "--reporter=json", "--max-diagnostics=200", "."],
    { cwd: folder, encoding: "utf8" },
  );
  const { diagnostics } = JSON.parse(stdout) as { diagnostics: Diagnostic[] };
  for (const { category, location } of diagnostics) {
    const path = typeof location.path === "string" ? location.path : location.path.file;
    const tree = path.split("/")[0] ?? "";
    broken.set(tree, [...(broken.get(tree) ?? []), category]);
  }
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("lint", () => {
  it.each(REFUSED)("refuses that %s imports %s", (file, specifier) => {
    const index = REFUSED.findIndex((entry) => entry[0] === file && entry[1] === specifier);
    expect(broken.get(treeOf(REFUSED, index))).toContain("lint/style/noRestrictedImports");
  });

  it.each(ALLOWED)("lets %s import %s", (file, specifier) => {
    const index = ALLOWED.findIndex((entry) => entry[0] === file && entry[1] === specifier);
    expect(broken.get(treeOf(ALLOWED, index))).toBeUndefined();
  });

  it("refuses a circle of imports, even of types alone", () => {
    expect(broken.get("circle")).toContain("lint/suspicious/noImportCycles");
  });
});
