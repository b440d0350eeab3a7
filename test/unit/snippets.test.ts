/** Every fenced block of the documentation. test/e2e/snippets.test.ts runs the commands. */
import { execFile } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Ajv } from "ajv";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { experimental_readRawConfig } from "wrangler";
import { readPages, type Snippet, snippetsOf } from "../../scripts/snippets.ts";
import { SCRIPTS } from "../../scripts/templates.ts";

const PROJECT = fileURLToPath(new URL("../..", import.meta.url));
const TYPESCRIPT = ["ts", "tsx", "js"];
const SHELL = ["sh"];
const CHECKED = [...TYPESCRIPT, ...SHELL, "toml", "json", "jsonc"];
const WORDS: Record<string, string[]> = { sh: ["app", "by-hand", "open", "unchecked"] };
/** `peer`: another product's code. */
const WORDS_OF_OTHERS = ["peer", "unchecked"];
/** A faulty snippet: what the checks below must find. */
const FAULTY = snippetsOf(
  "faulty.md",
  '```ts\nimport { nothing } from "rollcall";\nnew VeraniClient(nothing);\n```\n',
);

let folder: string;

beforeAll(() => {
  mkdirSync(join(PROJECT, ".wrangler"), { recursive: true });
  // In the checkout, for its node_modules.
  folder = mkdtempSync(join(PROJECT, ".wrangler/snippets-"));
});

afterAll(() => rmSync(folder, { recursive: true }));

const readJson = (path: string) => JSON.parse(readFileSync(join(PROJECT, path), "utf8"));
const snippets = readPages().flatMap((page) => snippetsOf(page));
const at = ({ page, line }: Snippet) => `${page}:${line}`;

/** The snippets in these languages that can be checked. */
function checked(...languages: string[]): Snippet[] {
  return snippets.filter(
    ({ language, words }) =>
      languages.includes(language) && !words.some((word) => WORDS_OF_OTHERS.includes(word)),
  );
}

/**
 * Compiles snippets in one program, in which those of a page are files of one folder. Its library is that of
 * pages and that of Workers at once, so only what it finds in snippets counts.
 *
 * @returns faults, each with its place
 */
async function compile(list: Snippet[]): Promise<string[]> {
  const placed = new Map<string, Snippet>();
  for (const snippet of list) {
    const { page, language, code, line, file = `line-${line}.${language}` } = snippet;
    const path = join(folder, page.replaceAll("/", "_"), file);
    if (placed.has(path)) throw new Error(`${page} has two files ${file}`);
    placed.set(path, snippet);
    mkdirSync(join(path, ".."), { recursive: true });
    writeFileSync(path, code);
  }
  writeFileSync(
    join(folder, "tsconfig.json"),
    JSON.stringify({
      extends: "../../tsconfig.json",
      compilerOptions: {
        lib: ["es2024", "esnext.disposable", "dom", "dom.iterable"],
        types: ["@cloudflare/workers-types", "@cloudflare/vitest-plugin/types", "node"],
        jsx: "react-jsx",
        moduleDetection: "force",
        skipLibCheck: true,
        allowJs: true,
      },
      include: ["../../test/snippets/given.d.ts"],
      files: [...placed.keys()],
      exclude: [],
    }),
  );
  const tsc = promisify(execFile)(join(PROJECT, "node_modules/.bin/tsc"), ["-p", folder], {
    cwd: PROJECT,
  });
  const { stdout } = await tsc.catch((failure: { stdout: string }) => failure);
  return stdout.split("\n").flatMap((text) => {
    const [, path = "", line = "", message = ""] = /^(\S+?)\((\d+),\d+\): (.+)$/.exec(text) ?? [];
    const snippet = placed.get(join(PROJECT, path));
    return snippet ? [`${snippet.page}:${snippet.line + Number(line)}: ${message}`] : [];
  });
}

const isConfig = new Ajv({ strict: false, allErrors: true, logger: false }).compile(
  readJson("node_modules/wrangler/config-schema.json"),
);

/** What is wrong with a `wrangler.toml`, or with a part of one. */
function faultsOf(toml: string): string[] {
  const path = join(folder, "wrangler.toml");
  writeFileSync(path, toml);
  const { rawConfig } = experimental_readRawConfig({ config: path });
  isConfig(rawConfig);
  return (isConfig.errors ?? []).map(({ instancePath, message }) => `${instancePath} ${message}`);
}

/** Commands of a block whose script, program or file does not exist. */
function absentOf(code: string): string[] {
  const scripts: object = code.includes("cd my-app") ? SCRIPTS : readJson("package.json").scripts;
  const exists: [RegExp, (name: string) => boolean][] = [
    [/\bnpm run (?:-s )?([\w:-]+)/g, (name) => name in scripts],
    [/\bnpm (start|test)\b/g, (name) => name in scripts],
    [/\bnpx ([\w-]+)/g, (name) => existsSync(join(PROJECT, "node_modules/.bin", name))],
    [/\b(?:node|sh) ([\w./-]+\.\w+)/g, (path) => existsSync(join(PROJECT, path))],
  ];
  return exists.flatMap(([command, test]) =>
    [...code.matchAll(command)].filter(([, name = ""]) => !test(name)).map(([text]) => text),
  );
}

describe("snippets of the documentation", () => {
  it("are all found", () => {
    const fences = readPages().flatMap((page) => {
      const text = readFileSync(join(PROJECT, page), "utf8");
      return text.match(/^[\s>]*(?:`{3,}|~{3,})/gm) ?? [];
    });
    expect(snippets.length).toBeGreaterThan(50);
    expect(snippets).toHaveLength(fences.length / 2);
  });

  it("and the text around them name scripts that exist", () => {
    const scripts = new Set(Object.keys({ ...readJson("package.json").scripts, ...SCRIPTS }));
    const absent = readPages().flatMap((page) => {
      const text = readFileSync(join(PROJECT, page), "utf8");
      const names = [...text.matchAll(/npm run (?:-s )?([a-z][\w-]*(?::[\w-]+)*)/g)].map(
        ([, name = ""]) => name,
      );
      return names.filter((name) => !scripts.has(name)).map((name) => `${page}: ${name}`);
    });
    expect(absent).toEqual([]);
  });

  it("are in a language that is checked, or are marked", () => {
    const unknown = snippets.filter(({ language, words }) => {
      const isChecked = CHECKED.includes(language) || words.includes("unchecked");
      const known = WORDS[language] ?? WORDS_OF_OTHERS;
      return language !== "text" && !(isChecked && words.every((word) => known.includes(word)));
    });
    expect(unknown.map((snippet) => `${at(snippet)} ${snippet.language}`)).toEqual([]);
  });

  it("in TypeScript compile with the names that the library exports", {
    timeout: 60_000,
  }, async () => {
    const faults = await compile([...checked(...TYPESCRIPT), ...FAULTY]);
    const expected = [
      expect.stringMatching(/^faulty\.md:2: error TS2305: .* no exported member 'nothing'/),
      expect.stringMatching(/^faulty\.md:3: error TS2304: Cannot find name 'VeraniClient'/),
    ];
    expect(faults).toEqual(expected);
  });

  it.each(checked("toml").map((snippet) => [at(snippet), snippet.code]))(
    "%s is a configuration that wrangler knows",
    (_, code) => {
      expect(faultsOf(code)).toEqual([]);
    },
  );

  it.each(checked("json", "jsonc").map((snippet) => [at(snippet), snippet] as const))(
    "%s is JSON",
    (_, { language, code }) => {
      const text = language === "jsonc" ? code.replace(/^\s*\/\/.*$/gm, "") : code;
      // A part of an object has no braces.
      expect(() => JSON.parse(text.startsWith('"') ? `{${text}}` : text)).not.toThrow();
    },
  );

  it.each(checked("sh").map((snippet) => [at(snippet), snippet.code]))(
    "%s is of commands, scripts and files that exist",
    (_, code) => {
      expect(absentOf(code)).toEqual([]);
    },
  );

  it("of a configuration or commands with a fault are refused", () => {
    expect(faultsOf('name = "x"\ncompatability_date = "2026-10-12"\n')).toHaveLength(1);
    expect(faultsOf("[[durable_objects.bindings]]\nname = 1\n")).not.toEqual([]);
    const code = "npm run nothing\nnpm run -s token\nnpx nobody\nnode absent.ts\n";
    expect(absentOf(code)).toEqual(["npm run nothing", "npx nobody", "node absent.ts"]);
    expect(absentOf("cd my-app\nnpm run dev\nnpm run token\n")).toEqual(["npm run token"]);
  });
});
