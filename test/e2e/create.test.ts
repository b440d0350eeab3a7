/**
 * Apps as the README makes them, by its commands: from the templates of create-rollcall, and from its own files.
 * Packed, installed from the registry, checked, tested, built, started, and opened in two pages of a real browser.
 */
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseEnv } from "node:util";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { snippetsOf } from "../../scripts/snippets.ts";
import { launch, watchFaults } from "../browser/browser.ts";
import { run, serve } from "../kit/processes.ts";
import { environmentOfAUser } from "./server.ts";

const PROJECT = fileURLToPath(new URL("../..", import.meta.url));
/** What of a checkout is none of its sources. */
const NO_SOURCES = new Set(["node_modules", "dist", ".git", ".wrangler", ".dev.vars"]);
/** It uses 14 s of CPU time, and took more than 90 s on a machine that was busy. */
const INSTALL_MS = 150_000;
/** The README's commands for apps. The first ones are for a clone, which has its packages here. */
const [NEW_APP = "", INSTALL = "", SERVE = ""] = snippetsOf("README.md")
  .filter(({ words }) => words.includes("app"))
  .map(({ code }) => code);
const [, PACK = "", MAKE = ""] = /^npm ci\n(.*)cd \.\.\n(.*)$/s.exec(NEW_APP) ?? [];
const UUID = "6f9619ff-8b86-4d11-b42d-00c04fc964ff";

let folder: string;
let browser: Browser;
let env: NodeJS.ProcessEnv;

/** Runs the command of the packed create-rollcall. */
function create(...args: string[]): Promise<string> {
  return run(join(folder, "tools/node_modules/.bin/create-rollcall"), args, { cwd: folder, env });
}

/** Runs commands, the last of which is a server that gets these arguments, too. @returns its address and folder */
async function runServer(
  commands: string,
  args: string,
  cwd: string,
): Promise<{ url: string; project: string }> {
  const [, before = "", server = ""] = /^(.*\n)(.+)\n$/s.exec(commands) ?? [];
  const output = await run("bash", ["-ec", `${before}pwd`], { cwd, env }, INSTALL_MS);
  const project = output.trim().split("\n").at(-1) ?? "";
  const { url, stop } = await serve(
    "bash",
    ["-c", `exec ${server} ${args}`],
    { cwd: project, env },
    /(?:Local:|Ready on)\s+(http:\/\/[\d.:]+)/,
  );
  onTestFinished(stop);
  return { url, project };
}

/** Opens a page. What its log complains about fails the test. */
async function open(url: string): Promise<Page> {
  const context = await browser.newContext({ viewport: { width: 1_000, height: 700 } });
  context.setDefaultTimeout(30_000);
  const faults: string[] = [];
  const page = await context.newPage();
  watchFaults(page, faults);
  onTestFinished(async () => {
    await context.close();
    expect(faults, "the browser's log").toEqual([]);
  });
  await page.goto(url);
  return page;
}

interface App {
  project: string;
  url: string;
  /** Opens a page of it. */
  open(query?: string): Promise<Page>;
  /** Prints how long it took from the empty folder until now. */
  report(): void;
}

/** Creates an app from a template, and starts it. */
async function start(template: string): Promise<App> {
  const startedMs = performance.now();
  const commands = MAKE.replace(/(create-rollcall) my-app/, `$1 my-app --template ${template}`);
  const { url, project } = await runServer(
    commands.replaceAll("my-app", template),
    "-- --port 0 --host 127.0.0.1",
    folder,
  );
  const report = (): void => {
    const seconds = ((performance.now() - startedMs) / 1_000).toFixed(1);
    console.log(`${template}: ${seconds} s until two pages saw each other`);
  };
  return { project, url, open: (query = "") => open(`${url}/${query}`), report };
}

/** Types, the app's own tests, the build for production, and what would be deployed. */
async function checkAndBuild(project: string): Promise<void> {
  const place = { cwd: project, env };
  const [deployed, tested] = await Promise.all([
    run("npm", ["run", "deploy", "--", "--dry-run"], place),
    run("npm", ["test"], place),
    run("npm", ["run", "check"], place),
  ]);
  expect(deployed).toContain("--dry-run: exiting now");
  expect(tested).toMatch(/Tests +3 passed \(3\)/);
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "rollcall-create-"));
  env = {
    ...environmentOfAUser(folder),
    CLOUDFLARE_CF_FETCH_ENABLED: "false",
    WRANGLER_SEND_METRICS: "false",
    WRANGLER_HIDE_BANNER: "true",
  };
  env.PATH = `${dirname(process.execPath)}${delimiter}${env.PATH}`;
  // In a copy: another test may be building dist/ in the checkout at this moment.
  const copy = join(folder, "checkout");
  cpSync(PROJECT, copy, {
    recursive: true,
    filter: (path) => !NO_SOURCES.has(path.slice(dirname(path).length + 1)),
  });
  symlinkSync(join(PROJECT, "node_modules"), join(copy, "node_modules"));
  [browser] = await Promise.all([launch(), run("bash", ["-ec", PACK], { cwd: copy, env })]);
  const { version } = JSON.parse(readFileSync(join(PROJECT, "package.json"), "utf8"));
  const scaffold = join(folder, `create-rollcall-${version}.tgz`);
  await run("npm", ["install", "--prefix", "tools", scaffold], { cwd: folder, env });
});

afterAll(async () => {
  await browser?.close();
  rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
});

describe("create-rollcall", { tags: ["slow"], timeout: 300_000 }, () => {
  it("prints its usage, and refuses a full folder, an unknown template, and no name without a terminal", async () => {
    expect(await create("--help")).toContain("--template <name>");
    writeFileSync(join(folder, "note.txt"), "mine");
    await expect(create(".")).rejects.toThrow("is not empty");
    await expect(create("new", "--template", "none")).rejects.toThrow(
      'No template "none": presence, room, service',
    );
    await expect(create("new", "--rollcall", "absent.tgz")).rejects.toThrow("No file absent.tgz");
    await expect(create()).rejects.toThrow("Which folder?");
  });

  it("names the app after its folder, makes new secrets for each, and fills the deploy button", async () => {
    const repo = "https://github.com/someone/her-app";
    await create("Her App!", "--template", "service", "--repo", repo);
    await create("his-app", "--template", "service");
    const read = (name: string) => (path: string) => readFileSync(join(folder, name, path), "utf8");
    const [hers, his] = [read("Her App!"), read("his-app")];
    expect(JSON.parse(hers("package.json"))).toMatchObject({ name: "her-app" });
    expect(hers("wrangler.toml")).toContain('\nname = "her-app"\n');
    expect(hers("README.md")).toContain(`https://deploy.workers.cloudflare.com/?url=${repo})`);
    const { version } = JSON.parse(readFileSync(join(PROJECT, "package.json"), "utf8"));
    expect(JSON.parse(his("package.json")).dependencies.rollcall).toBe(version);

    const secrets = [hers, his].flatMap((app) => Object.values(parseEnv(app(".dev.vars"))));
    expect(secrets).toHaveLength(8);
    expect(new Set(secrets).size).toBe(8);
    for (const secret of secrets) expect(secret).toMatch(/^[0-9a-f]{64}$/);
    expect(his(".gitignore")).toContain("\n.dev.vars\n");
  });

  it("presence: two pages see each other's cursors, and the app builds", async () => {
    const app = await start("presence");
    const [ann, ben] = [await app.open(), await app.open()];
    await Promise.all([ann, ben].map((page) => page.locator(".person").waitFor()));
    await ann.mouse.move(300, 200);
    await ann.mouse.move(420, 260, { steps: 5 });
    const cursor = ben.locator(".cursor svg");
    await expect.poll(async () => (await cursor.boundingBox())?.x).toBeCloseTo(417, -1);
    app.report();
    expect(await ann.locator(".cursor").count()).toBe(0);
    const config = readFileSync(join(app.project, "wrangler.toml"), "utf8");
    expect(config).not.toMatch(/d1_databases|kv_namespaces|r2_buckets/);
    await checkAndBuild(app.project);
  });

  it("room: a message reaches another page, and one that is opened later, and the app builds", async () => {
    const app = await start("room");
    const [ann, ben] = [await app.open("?name=ann"), await app.open("?name=ben")];
    await ben.getByRole("status").getByText("You are ben").waitFor();
    await ann.getByRole("status").getByText("You are ann").waitFor();
    await ann.getByLabel("Message").last().fill("Hello, Ben!");
    await ann.getByRole("button", { name: "Send" }).click();
    await ben.getByText("ann: Hello, Ben!").waitFor();
    app.report();
    const late = await app.open("?name=cleo");
    await late.getByText("ann: Hello, Ben!").waitFor();
    await checkAndBuild(app.project);
  });

  it("service: a wave reaches another page, a backend mints a device's token, and the app builds", async () => {
    const app = await start("service");
    const [ann, ben] = [await app.open("?name=ann"), await app.open("?name=ben")];
    await ben.getByRole("button", { name: "Wave to ann" }).waitFor();
    await ann.getByRole("button", { name: "Wave to ben" }).click();
    await ben.getByText("ann waves").waitFor();
    app.report();
    await ann.getByText("counted without a login: 2").waitFor();

    const mint = (token: string | undefined) =>
      fetch(`${app.url}/api/v1/devices/tokens`, {
        method: "POST",
        headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
        body: JSON.stringify({ user_id: UUID, device_id: UUID }),
      });
    const secrets = parseEnv(readFileSync(join(app.project, ".dev.vars"), "utf8"));
    expect((await mint(secrets.PRESENCE_DO_MINT_TOKEN)).status).toBe(201);
    expect((await mint(secrets.PRESENCE_DO_INGEST_TOKEN)).status).toBe(401);
    await checkAndBuild(app.project);
  });

  it("the README's own app: two pages see each other's pointers, and its types are right", async () => {
    const project = join(folder, "own-app");
    mkdirSync(project);
    for (const { file, code } of snippetsOf("README.md")) {
      if (file) writeFileSync(join(project, file), code);
    }
    await run("bash", ["-ec", INSTALL], { cwd: project, env }, INSTALL_MS);
    const { url } = await runServer(SERVE, "--port 0 --ip 127.0.0.1 --inspector-port 0", project);
    const [ann, ben] = [await open(`${url}/?name=ann`), await open(`${url}/?name=ben`)];
    const label = ben.getByText("ann", { exact: true });
    await label.waitFor();
    await ann.mouse.move(300, 200);
    await ann.mouse.move(420, 260, { steps: 5 });
    await expect.poll(() => label.boundingBox()).toMatchObject({ x: 420, y: 260 });
    expect(await ann.getByText("ann", { exact: true }).count()).toBe(0);

    const tsc = (lib: string, ...files: string[]) => {
      const strict = ["--noEmit", "--strict", "--skipLibCheck", "--allowImportingTsExtensions"];
      const modules = ["--target", "es2024", "--module", "esnext", "--moduleResolution", "bundler"];
      const args = [...strict, ...modules, "--types", "", "--lib", lib, ...files];
      return run("npx", ["tsc", ...args], { cwd: project, env });
    };
    await tsc("es2024", "worker.ts", "worker-configuration.d.ts");
    await tsc("es2024,dom,dom.iterable", "page.ts", "chat-page.ts");
  });
});
