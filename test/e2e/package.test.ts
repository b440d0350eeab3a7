/**
 * The package as its users get it: packed, installed into empty projects, checked by a strict
 * TypeScript, and run by wrangler.
 */
import {
  cpSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { readExample, snippetsOf } from "../../scripts/snippets.ts";
import { run as runIn, serve } from "../kit/processes.ts";
import { environmentOfAUser } from "./server.ts";

const PROJECT = fileURLToPath(new URL("../..", import.meta.url));
const BIN = join(PROJECT, "node_modules/.bin");
const WRANGLER = join(PROJECT, "node_modules/wrangler/wrangler-dist/cli.js");
const DIE_WITH_PARENT = pathToFileURL(join(PROJECT, "scripts/die-with-parent.ts")).href;
const WORKERS_TYPES = join(PROJECT, "node_modules/@cloudflare/workers-types/index.d.ts");

const manifest = JSON.parse(readFileSync(join(PROJECT, "package.json"), "utf8")) as {
  devDependencies: Record<string, string>;
  unpkg: string;
  jsdelivr: string;
};
const { devDependencies } = manifest;

let folder: string;
let tarball: string;
let environment: NodeJS.ProcessEnv;

function run(command: string, args: string[], cwd: string): Promise<string> {
  return runIn(command, args, { cwd, env: environment });
}

/** A new project of a user, with these packages beside the packed one. */
async function install(name: string, dependencies: Record<string, string>): Promise<string> {
  const project = join(folder, name);
  mkdirSync(project);
  const manifest = { name, private: true, type: "module", dependencies };
  writeFileSync(join(project, "package.json"), JSON.stringify(manifest));
  const quick = ["--prefer-offline", "--no-audit", "--no-fund"];
  await run("npm", ["install", "--install-strategy=linked", ...quick], project);
  return project;
}

/** The packages in node_modules, those of the project's own dependencies' dependencies included. */
function packagesOf(project: string): string[] {
  const store = join(project, "node_modules/.store");
  return globSync(["*@*", "@*/*"], { cwd: store })
    .map((entry) => entry.replace(/@[^@]*$/, ""))
    .filter(Boolean)
    .sort();
}

/** Compiles these files as strictly as TypeScript can, in both ways that it resolves modules. */
async function compile(project: string, files: string[], more: object = {}): Promise<void> {
  const compileOnce = async (moduleResolution: string): Promise<void> => {
    const config = {
      compilerOptions: {
        target: "es2024",
        lib: ["es2024"],
        module: moduleResolution === "nodenext" ? "nodenext" : "esnext",
        moduleResolution,
        strict: true,
        exactOptionalPropertyTypes: true,
        noUncheckedIndexedAccess: true,
        skipLibCheck: false,
        allowImportingTsExtensions: true,
        verbatimModuleSyntax: true,
        noEmit: true,
        types: [],
        ...more,
      },
      files,
    };
    const path = join(project, `tsconfig.${moduleResolution}.json`);
    writeFileSync(path, JSON.stringify(config));
    await run(join(BIN, "tsc"), ["-p", path], project);
  };
  await Promise.all([compileOnce("bundler"), compileOnce("nodenext")]);
}

/** Starts `wrangler dev` in a project. @returns the Worker's address */
async function startWorker(project: string): Promise<string> {
  const args = [
    ...["dev", "-c", "wrangler.toml", "--local", "--port", "0", "--ip", "127.0.0.1"],
    ...["--inspector-port", "0", "--show-interactive-dev-session=false"],
  ];
  const { url, stop } = await serve(
    process.execPath,
    ["--no-warnings", "--import", DIE_WITH_PARENT, WRANGLER, ...args],
    {
      cwd: project,
      env: {
        ...environment,
        CLOUDFLARE_CF_FETCH_ENABLED: "false",
        WRANGLER_SEND_METRICS: "false",
        WRANGLER_HIDE_BANNER: "true",
      },
    },
    /Ready on (http:\/\/[\d.:]+)/,
  );
  onTestFinished(stop);
  return url;
}

/** Writes a Worker and its configuration: one class of actors behind one binding. */
function writeWorker(project: string, code: string, binding: string, className: string): void {
  writeFileSync(join(project, "worker.ts"), code);
  writeFileSync(
    join(project, "wrangler.toml"),
    `name = "packed"
main = "worker.ts"
compatibility_date = "2026-10-15"
compatibility_flags = ["nodejs_als"]
[[durable_objects.bindings]]
name = "${binding}"
class_name = "${className}"
[[migrations]]
tag = "v1"
new_sqlite_classes = ["${className}"]
`,
  );
}

/** Runs TypeScript in a project, with the packages that are installed there. */
function runScript(project: string, code: string): Promise<string> {
  writeFileSync(join(project, "script.ts"), code);
  return run(process.execPath, ["script.ts"], project);
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "rollcall-package-"));
  environment = environmentOfAUser(folder);
  const output = await run("npm", ["pack", "--silent", "--pack-destination", folder], PROJECT);
  tarball = `file:${join(folder, output.trim().split("\n").at(-1) ?? "")}`;
});

afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }));

describe("the packed library", { tags: ["slow"] }, () => {
  it("has no fault that publint or attw finds for packages that are ESM only", async () => {
    const file = fileURLToPath(tarball);
    await run(join(BIN, "publint"), ["run", file, "--strict"], PROJECT);
    await run(join(BIN, "attw"), [file, "--profile", "esm-only"], PROJECT);
  });

  it("has the scripts for pages, as unpkg and jsdelivr serve them, the documentation and the changelog", async () => {
    const list = await run("tar", ["-tf", fileURLToPath(tarball)], PROJECT);
    expect(list.split("\n")).toEqual(
      expect.arrayContaining(
        [
          ...[
            "dist/rollcall.js",
            "dist/rollcall.js.map",
            "dist/rollcall.mjs",
            "dist/rollcall.mjs.map",
          ],
          ...["README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md"],
          ...["docs/protocol.md", "docs/guides/presence.md"],
        ].map((path) => `package/${path}`),
      ),
    );
    const { unpkg, jsdelivr } = manifest;
    expect([unpkg, jsdelivr]).toEqual(["./dist/rollcall.js", "./dist/rollcall.js"]);
  });

  it("brings no package but the types of Standard Schema, and its core compiles alone", async () => {
    const project = await install("core", { rollcall: tarball });
    expect(packagesOf(project)).toEqual(["@standard-schema/spec", "rollcall"]);

    writeFileSync(
      join(project, "room.ts"),
      `import { createActorHandler, defineRoom } from "rollcall";
import { defineRoom as veranis } from "rollcall/verani";
const room = defineRoom({ websocketPath: "/ws" });
export class Room extends createActorHandler(room) {}
export const same: boolean = veranis === defineRoom;
`,
    );
    await compile(project, ["room.ts", WORKERS_TYPES]);
    writeFileSync(
      join(project, "page.ts"),
      `import { VeraniClient } from "rollcall/client";
import * as devices from "rollcall/devices";
import { FanoutClient } from "rollcall/fanout";
import { joinMoods } from "rollcall/moods";
export { devices, FanoutClient, joinMoods, VeraniClient };
`,
    );
    const dom = { lib: ["es2024", "dom", "dom.iterable"], skipLibCheck: true };
    await compile(project, ["page.ts"], dom);
  });

  it("gives a backend on plain Node, without hono, a client of rollcall/server", async () => {
    const project = await install("backend", { rollcall: tarball });
    expect(packagesOf(project)).not.toContain("hono");
    const code = `import { RollcallError as ErrorOfClient } from "rollcall/client";
import { type Change, RollcallError, rollcall, verifyWebhook } from "rollcall/server";
const server = rollcall("https://example.com", {
  token: () => "t",
  fetch: async (url) => Response.json({ recipients: String(url).length, cursor: "e:1" }),
});
const { recipients } = await server.room("r").emit("paid", { id: 7 });
export const count: number = recipients;
// @ts-expect-error It is a number.
export const text: string = recipients;
const hook = new Request("https://example.com/hook", { method: "POST", body: "[]" });
const changes: Change[] | string = await verifyWebhook(hook, "whsec_AAAA").catch((error) => error.code);
console.log(JSON.stringify([recipients, changes, ErrorOfClient === RollcallError]));
`;
    const dom = { lib: ["es2024", "dom", "dom.iterable"], skipLibCheck: true };
    writeFileSync(join(project, "script.ts"), code);
    await compile(project, ["script.ts"], dom);
    const { length } = "https://example.com/api/v1/rooms/r/events";
    expect(JSON.parse(await runScript(project, code))).toEqual([length, "unauthorized", true]);
  });

  it("compiles and runs the README's own room", async () => {
    const { zod = "" } = devDependencies;
    const project = await install("own-room", { rollcall: tarball, zod });
    const code = `${readExample("README.md", "const chat = defineRoom")}
interface Env { CHAT: DurableObjectNamespace<Chat> }
`;
    writeWorker(project, code, "CHAT", "Chat");
    writeFileSync(
      join(project, "events.ts"),
      readExample("README.md", "export interface ChatEvents"),
    );
    writeFileSync(
      join(project, "page.ts"),
      readExample("README.md", "new VeraniClient<ChatEvents>"),
    );
    await compile(project, ["worker.ts", WORKERS_TYPES]);
    const dom = { lib: ["es2024", "dom", "dom.iterable"], skipLibCheck: true };
    await compile(project, ["page.ts"], dom);

    const url = await startWorker(project);
    const output = await runScript(
      project,
      `import { VeraniClient } from "rollcall/client";
import type { ChatEvents } from "./events.ts";
const client = new VeraniClient<ChatEvents>(${JSON.stringify(`${url}/ws/chat`)});
const said = new Promise<unknown>((resolve) => client.once("said", resolve));
const { at } = await client.emitWithAck("say", { text: "hello" });
console.log(JSON.stringify([await said, typeof at]));
process.exit(0);
`,
    );
    expect(JSON.parse(output)).toMatchObject([{ from: "alice", text: "hello" }, "number"]);
  });

  it("compiles and runs an app's own Worker, with its login, presence and fan-out", async () => {
    const { hono = "", jose = "", zod = "" } = devDependencies;
    const project = await install("own-worker", { rollcall: tarball, hono, jose, zod });
    cpSync(join(PROJECT, "examples/own-worker"), project, { recursive: true });
    const config = readFileSync(join(project, "wrangler.toml"), "utf8");
    // Here the library is installed.
    const withoutAlias = config.replace(/^\[alias\]\n(?:\S.* = .*\n)+/m, "");
    expect(withoutAlias).not.toContain("../../src");
    writeFileSync(join(project, "wrangler.toml"), withoutAlias);
    writeFileSync(
      join(project, "systems.ts"),
      `import { createActorHandler } from "rollcall";
import { devices } from "rollcall/rooms/devices";
import { fanout } from "rollcall/rooms/fanout";
import { moods } from "rollcall/rooms/moods";
import { presence } from "rollcall/rooms/presence";
import { workspace } from "rollcall/rooms/workspace";
import { createApp } from "rollcall/server";
interface Env { JWT_SECRET: string }
const mood = moods<Env, "calm" | "busy">({ moods: ["calm", "busy"], ttlMs: 60_000 });
export class MoodRoom extends createActorHandler(mood) {}
export default createApp<Env>({
  presence: presence(),
  devices: devices(),
  fanout: fanout(),
  moods: mood,
  workspace: workspace(),
});
`,
    );
    await compile(project, ["worker.ts", "systems.ts", WORKERS_TYPES]);
    await compile(project, ["client.ts"], { lib: ["es2024", "dom", "dom.iterable"] });
    writeFileSync(
      join(project, "board.ts"),
      `import { presence } from "rollcall/rooms/presence";
interface Point { x: number; y: number }
export const board = presence<{ cursor: Point }, { colour: string }>({ name: "board" });
`,
    );
    // A page has the types of a room by `typeof`, and nothing of its code.
    writeFileSync(
      join(project, "page.ts"),
      `import { type EventsOf, VeraniClient } from "rollcall/client";
import type { board } from "./board.ts";
const client = new VeraniClient<EventsOf<typeof board>>("/ws/presence");
client.setState({ cursor: { x: 1, y: 2 } });
// @ts-expect-error No such state.
client.setState({ cursor: "left" });
const [other] = client.others.values();
export const x: number | undefined = other?.state?.cursor.x;
export const colour: string | undefined = other?.user?.colour;
// @ts-expect-error It is a number.
export const text: string | undefined = other?.state?.cursor.x;
`,
    );
    const dom = { lib: ["es2024", "dom", "dom.iterable"], skipLibCheck: true };
    await compile(project, ["page.ts"], dom);

    const url = await startWorker(project);
    const output = await runScript(
      project,
      `import demo from "./client.ts";
await demo(${JSON.stringify(url)});
process.exit(0);
`,
    );
    const readme = readFileSync(join(project, "README.md"), "utf8");
    const [, shown = ""] = [...readme.matchAll(/(?:^ {4}.*\n)+/gm)].map(([block]) => block);
    const linesOf = (text: string) => text.trim().split(/\n\s*/);
    expect(linesOf(output)).toEqual(linesOf(shown));
  });

  it("compiles and runs the tests of docs/testing.md", { timeout: 300_000 }, async () => {
    const packages = ["hono", "jose", "zod", "vitest", "@cloudflare/vitest-plugin"];
    packages.push("@cloudflare/workers-types");
    const versions = packages.map((name) => [name, devDependencies[name] ?? ""]);
    const project = await install("tested", { rollcall: tarball, ...Object.fromEntries(versions) });
    const blocks = snippetsOf("docs/testing.md").filter(({ file }) => file);
    for (const { file = "", code } of blocks) writeFileSync(join(project, file), code);
    await run(join(BIN, "tsc"), ["-p", "."], project);

    const vitest = join(project, "node_modules/vitest/vitest.mjs");
    const output = await run(process.execPath, [vitest, "run"], project);
    const { length } = blocks.flatMap(({ code }) => [...code.matchAll(/^it\(/gm)]);
    expect(length).toBeGreaterThan(0);
    expect(output).toMatch(new RegExp(`Tests +${length} passed \\(${length}\\)`));
  });

  it("compiles and runs a room of Verani's by alias, with Verani's client", async () => {
    const project = await install("alias", { verani: tarball });
    expect(packagesOf(project)).toEqual(["@standard-schema/spec", "rollcall"]);
    const code = `import { createActorHandler, defineRoom, type ConnectionMeta } from "verani";
interface Meta extends ConnectionMeta { username: string }
const chat = defineRoom<Meta>({
  name: "chat-room",
  websocketPath: "/chat",
  extractMeta(request) {
    const userId = new URL(request.url).searchParams.get("userId") ?? "anonymous";
    return { userId, username: userId, clientId: crypto.randomUUID(), channels: ["default"] };
  },
  onConnect(ctx) {
    ctx.actor.emit.to("default").emit("user.joined", { userId: ctx.meta.userId });
  },
});
chat.on("chat.message", (ctx, data) => {
  ctx.actor.emit.to("default").emit("chat.message", { from: ctx.meta.username, text: data.text });
});
export const ChatRoom = createActorHandler(chat);
interface Env { CHAT: DurableObjectNamespace }
export default {
  fetch(request: Request, env: Env) {
    return ChatRoom.get("lobby").fetch(request);
  },
};
`;
    writeWorker(project, code, "ChatRoom", "ChatRoom");
    await compile(project, ["worker.ts", WORKERS_TYPES]);

    const url = await startWorker(project);
    const output = await runScript(
      project,
      `import { VeraniClient } from "verani/client";
const client = new VeraniClient(${JSON.stringify(`${url}/chat?userId=ann`)});
const message = new Promise<unknown>((resolve) => client.on("chat.message", resolve));
await client.waitForConnection();
client.emit("chat.message", { text: "hello" });
console.log(JSON.stringify(await message));
process.exit(0);
`,
    );
    expect(JSON.parse(output)).toMatchObject({ from: "ann", text: "hello" });
  });
});
