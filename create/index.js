#!/usr/bin/env node
/** `npm create rollcall`: copies a template into a new folder, with secrets of its own. */
import { randomBytes } from "node:crypto";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { basename, join, relative, resolve } from "node:path";
import { createInterface } from "node:readline/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const TEMPLATES = {
  presence: "live cursors and who is online; React and Vite (the default)",
  room: "a chat room of your own, with a schema and a history",
  service: "presence, devices, fan-out and moods in one Worker",
};
const SECRET_BYTES = 32;
const DEFAULT_FOLDER = "rollcall-app";

const HELP = `npm create rollcall <folder> -- [options]

  --template <name>   ${Object.entries(TEMPLATES)
    .map(([name, text]) => `${name.padEnd(10)}${text}`)
    .join("\n                      ")}
  --rollcall <what>   version of rollcall, or path of its tarball; default: the version of this program
  --repo <url>        public address of your repository, for the button "Deploy to Cloudflare" in its README
  --help              prints this
`;

/** @param {string} message @returns {never} */
function refuse(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}

/** A name for the package and the Worker. @param {string} text */
function nameOf(text) {
  const name = text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .slice(0, 54)
    .replace(/^-+|-+$/g, "");
  return name || DEFAULT_FOLDER;
}

/** @param {string} path @param {(text: string) => string} change */
function edit(path, change) {
  writeFileSync(path, change(readFileSync(path, "utf8")));
}

/** The button, or how to make it. @param {string} [repo] */
function buttonFor(repo) {
  const button = (/** @type {string} */ url) =>
    "[![Deploy to Cloudflare](https://deploy.workers.cloudflare.com/button)]" +
    `(https://deploy.workers.cloudflare.com/?url=${url})`;
  if (repo) return button(repo);
  return `Once your repository is public, this line in its README is a button that deploys it:

    ${button("https://github.com/<owner>/<repository>")}`;
}

function readArguments() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        template: { type: "string", short: "t", default: "presence" },
        rollcall: { type: "string" },
        repo: { type: "string" },
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (error) {
    return refuse(`${error instanceof Error ? error.message : error}\n\n${HELP}`);
  }
}

async function askFolder() {
  if (!process.stdin.isTTY) return refuse(`Which folder?\n\n${HELP}`);
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  const answer = await terminal.question(`Folder (${DEFAULT_FOLDER}): `);
  terminal.close();
  return answer.trim() || DEFAULT_FOLDER;
}

const { values, positionals } = readArguments();
if (values.help) {
  process.stdout.write(HELP);
  process.exit();
}
const { template, repo } = values;
if (!Object.hasOwn(TEMPLATES, template)) {
  refuse(`No template "${template}": ${Object.keys(TEMPLATES).join(", ")}`);
}
if (positionals.length > 1) refuse(`One folder, not ${positionals.length}\n\n${HELP}`);
if (repo !== undefined && !/^https:\/\/[^\s()]+$/.test(repo)) refuse("--repo is no https URL");

const { version } = JSON.parse(readFileSync(new URL("package.json", import.meta.url), "utf8"));
let rollcall = values.rollcall ?? version;
if (/\.tgz$/.test(rollcall)) {
  if (!existsSync(rollcall)) refuse(`No file ${rollcall}`);
  rollcall = `file:${resolve(rollcall)}`;
}

const folder = resolve(positionals[0] ?? (await askFolder()));
mkdirSync(folder, { recursive: true });
if (readdirSync(folder).length > 0) refuse(`${folder} is not empty`);

cpSync(fileURLToPath(new URL(`dist/${template}`, import.meta.url)), folder, { recursive: true });
// npm leaves a file of that name out of packages.
renameSync(join(folder, "gitignore"), join(folder, ".gitignore"));

const name = nameOf(basename(folder));
edit(join(folder, "wrangler.toml"), (text) => text.replace(/^name = .*$/m, `name = "${name}"`));
edit(join(folder, "README.md"), (text) => {
  return text.replace("{{name}}", () => name).replace("{{deploy}}", () => buttonFor(repo));
});
edit(join(folder, "package.json"), (text) => {
  const manifest = JSON.parse(text);
  manifest.name = name;
  manifest.dependencies.rollcall = rollcall;
  return `${JSON.stringify(manifest, null, 2)}\n`;
});

const example = join(folder, ".dev.vars.example");
if (existsSync(example)) {
  const secrets = readFileSync(example, "utf8").replace(/^(\w+=)""$/gm, (_, start) => {
    return `${start}"${randomBytes(SECRET_BYTES).toString("hex")}"`;
  });
  writeFileSync(join(folder, ".dev.vars"), secrets, { mode: 0o600 });
}

const path = relative(process.cwd(), folder);
process.stdout.write(`${name}: the template "${template}". Next:

${path ? `  cd ${/\s/.test(path) ? `"${path}"` : path}\n` : ""}  npm install
  npm run dev

Then open the address that it prints, in two windows. It needs Node 22.12 or newer.
`);
