/**
 * The fenced blocks of the documentation. After the language, a fence may have one of these words:
 *
 * - `unchecked`: no test can check it
 * - `peer`: code of another product, which no test checks
 * - `by-hand`: commands that no test runs. Those of the project must exist
 * - `app`: commands for an app of the reader's, which test/e2e/create.test.ts runs
 * - `open`: commands that go on until Ctrl-C
 */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const PROJECT = fileURLToPath(new URL("..", import.meta.url));

/** A whole fenced block; also inside of a list, where it is indented. */
const FENCE = /^( *)(`{3,}|~{3,})(.*)\n([\s\S]*?)^\1\2 *$/gm;
/** The first line of a block may name its file. */
const FILE_NAME = /^(?:\/\/|#) ([\w.-]+\.\w+)\n/;

export interface Snippet {
  page: string;
  /** Of the fence. */
  line: number;
  language: string;
  words: string[];
  code: string;
  file: string | undefined;
}

/** All pages of the project. */
export function readPages(): string[] {
  const list = execFileSync("git", ["ls-files", "-co", "--exclude-standard", "*.md"], {
    cwd: PROJECT,
    encoding: "utf8",
  });
  return list.split("\n").filter((page) => page !== "" && existsSync(join(PROJECT, page)));
}

export function snippetsOf(
  page: string,
  text = readFileSync(join(PROJECT, page), "utf8"),
): Snippet[] {
  return [...text.matchAll(FENCE)].map(({ index, 1: indent, 3: info = "", 4: block = "" }) => {
    const [language = "", ...words] = info.trim().split(/\s+/);
    const code = indent ? block.replaceAll(new RegExp(`^${indent}`, "gm"), "") : block;
    const line = text.slice(0, index).split("\n").length;
    return { page, line, language, words, code, file: FILE_NAME.exec(code)?.[1] };
  });
}

/** The TypeScript of a page that has this text. */
export function readExample(page: string, text: string): string {
  const found = snippetsOf(page).find(({ code }) => code.includes(text));
  if (!found) throw new Error(`${page} has no example with "${text}"`);
  return found.code;
}
