import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { tableOfDoors } from "../access/doors.ts";

const PROJECT = fileURLToPath(new URL("../..", import.meta.url));
const PAGES = execFileSync("git", ["ls-files", "*.md"], { cwd: PROJECT, encoding: "utf8" })
  .split("\n")
  .filter((page) => page !== "" && existsSync(join(PROJECT, page)));

const FOLDERS = "src|rooms|client|examples|testing|test|docs|scripts|types";
/** Text in backquotes that is a path from the root. `<system>` and `*` stand for any name. */
const PATH = new RegExp(`\`((?:${FOLDERS})/[\\w./-]+)\``, "g");
const LINK = /\]\(([^)\s#]+)[^)]*\)/g;
const ANCHOR = /\]\(([^)\s#:]*)#([^)\s]+)\)/g;
/** A row of a table of steps: number, file, function. */
const STEP = /^\| \d+ \| `(?<file>[^`]+)` \| `(?<name>[^`]+)` \|/gm;

const read = (page: string) => readFileSync(join(PROJECT, page), "utf8");

/** The anchors of a page's headings, as GitHub makes them. */
function anchorsOf(page: string): Set<string> {
  const anchors = new Set<string>();
  const text = read(page).replace(/^```.*?^```/gms, "");
  for (const [, heading = ""] of text.matchAll(/^#+ (.+)$/gm)) {
    const words = heading.replace(/\]\([^)]*\)/g, "").toLowerCase();
    const anchor = words.replace(/[^\p{L}\p{N}_ -]/gu, "").replaceAll(" ", "-");
    let n = 0;
    while (anchors.has(n === 0 ? anchor : `${anchor}-${n}`)) n += 1;
    anchors.add(n === 0 ? anchor : `${anchor}-${n}`);
  }
  return anchors;
}

describe("docs", () => {
  it.each(PAGES)("%s names only files that exist", (page) => {
    const paths = [...read(page).matchAll(PATH)].map(([, path = ""]) => path);
    const missing = paths.filter(
      (path) => !existsSync(join(PROJECT, path)) && !existsSync(join(PROJECT, dirname(page), path)),
    );
    expect(missing).toEqual([]);
  });

  it.each(PAGES)("%s links only to files that exist", (page) => {
    const links = [...read(page).matchAll(LINK)].map(([, link = ""]) => link);
    const missing = links.filter(
      (link) => !/^(https?|mailto):/.test(link) && !existsSync(join(PROJECT, dirname(page), link)),
    );
    expect(missing).toEqual([]);
  });

  it.each(PAGES)("%s links only to headings that exist", (page) => {
    const missing = [...read(page).matchAll(ANCHOR)].filter(([, file = "", anchor = ""]) => {
      const target = file === "" ? page : join(dirname(page), file);
      return target.endsWith(".md") && !anchorsOf(target).has(anchor);
    });
    expect(missing.map(([link]) => link)).toEqual([]);
  });

  it("docs/README.md lists each page of docs/ once", () => {
    const links = [...read("docs/README.md").matchAll(/^- \[.+?\]\((.+?)\)/gm)];
    const listed = links.map(([, link = ""]) => join("docs", link));
    const isOfDocs = (page: string) => page.startsWith("docs/") && page !== "docs/README.md";
    expect(listed.filter(isOfDocs).sort()).toEqual(PAGES.filter(isOfDocs).sort());
  });

  it("docs/security.md has the table of doors that tests try; `npm run docs:doors` writes it", () => {
    expect(read("docs/security.md")).toContain(`\n${tableOfDoors()}\n`);
  });

  it("each step of a path in docs/architecture.md names a function of its file", () => {
    const steps = [...read("docs/architecture.md").matchAll(STEP)].map(({ groups }) => groups);
    expect(steps.length).toBeGreaterThanOrEqual(15);
    const wrong = steps.filter((step) => {
      const { file = "", name = "" } = step ?? {};
      return !new RegExp(`(^|[^\\w#])${name}(<[^(]*>)?\\(`, "m").test(read(file));
    });
    expect(wrong).toEqual([]);
  });
});
