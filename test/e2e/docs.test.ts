/** The site of `npm run docs`: it is built without a warning, its links lead somewhere, and its search finds names. */
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { inflateSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { run } from "../kit/processes.ts";

const PROJECT = fileURLToPath(new URL("../..", import.meta.url));
const site = mkdtempSync(join(tmpdir(), "rollcall-docs-"));
let output: string;

beforeAll(async () => {
  const place = { cwd: PROJECT, env: process.env };
  output = await run(process.execPath, ["scripts/docs.ts", "--out", site], place);
}, 120_000);
afterAll(() => rmSync(site, { recursive: true, force: true }));

const read = (page: string) => readFileSync(join(site, page), "utf8");

describe("the documentation site", () => {
  it("is built without a warning", () => {
    expect(output).toContain("html generated");
  });

  it("has a page for each module that package.json exports", () => {
    const { exports } = JSON.parse(readFileSync(join(PROJECT, "package.json"), "utf8")) as {
      exports: Record<string, unknown>;
    };
    const modules = Object.keys(exports).filter((path) => path !== "./package.json");
    const pages = modules.map((path) => `rollcall${path.slice(1)}`.replaceAll("/", "_"));
    expect(globSync("*.html", { cwd: join(site, "modules") }).sort()).toEqual(
      pages.map((page) => `${page}.html`).sort(),
    );
  });

  it("has no link to a page or a heading that does not exist", () => {
    const pages = globSync("**/*.html", { cwd: site, exclude: (path) => path === "media" });
    expect(pages.length).toBeGreaterThan(200);
    const anchors = new Map(
      pages.map((page) => [page, new Set(read(page).match(/(?<= id=")[^"]+/g))]),
    );
    const broken = pages.flatMap((page) =>
      [...read(page).matchAll(/<a href="([^"#:]*)(?:#([^"]*))?"/g)]
        .filter(([, path = "", anchor]) => {
          const target = path === "" ? page : join(dirname(page), decodeURI(path));
          if (!existsSync(join(site, target))) return true;
          return anchor && anchors.has(target) && !anchors.get(target)?.has(anchor);
        })
        .map(([link]) => `${page}: ${link}`),
    );
    expect(broken).toEqual([]);
  });

  it("finds public names, guides and their words in its search", () => {
    const [, data = ""] = /"(.+)"/.exec(read("assets/search.js")) ?? [];
    const { rows, index } = JSON.parse(inflateSync(Buffer.from(data, "base64")).toString()) as {
      rows: { name: string; url: string }[];
      index: { invertedIndex: [string, unknown][] };
    };
    // A name that several modules export is there for each.
    expect(rows.map(({ name, url }) => `${name}: ${url}`)).toEqual(
      expect.arrayContaining([
        "defineRoom: functions/rollcall.defineRoom.html",
        "presence: functions/rollcall_rooms_presence.presence.html",
        "VeraniClient: classes/rollcall_client.VeraniClient.html",
        "useOthers: functions/rollcall_react.useOthers.html",
        "verifyWebhook: functions/rollcall_server.verifyWebhook.html",
        "testRoom: functions/rollcall_testing.testRoom.html",
        "From Pusher Channels: guides/from-pusher.html",
      ]),
    );
    expect(index.invertedIndex.map(([word]) => word)).toContain("heartbeat");
  });
});
