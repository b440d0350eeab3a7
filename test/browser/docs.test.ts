/** The documentation site in a browser: its search, its width, and what axe finds in it. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import axe, { type AxeResults } from "axe-core";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import { type PreviewServer, preview } from "vite";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { launch, watchFaults } from "./browser.ts";

const PROJECT = fileURLToPath(new URL("../..", import.meta.url));
const site = mkdtempSync(join(tmpdir(), "rollcall-docs-"));
let browser: Browser;
let server: PreviewServer;

beforeAll(async () => {
  execFileSync(process.execPath, ["scripts/docs.ts", "--out", site], { cwd: PROJECT });
  const build = { outDir: site };
  server = await preview({ configFile: false, appType: "mpa", build, preview: { port: 0 } });
  browser = await launch();
});
afterAll(async () => {
  await browser?.close();
  await server?.close();
  rmSync(site, { recursive: true, force: true });
});

async function open(path: string, look: BrowserContextOptions = {}): Promise<Page> {
  const context = await browser.newContext(look);
  onTestFinished(() => context.close());
  const page = await context.newPage();
  const faults: string[] = [];
  watchFaults(page, faults);
  await page.goto(new URL(path, server.resolvedUrls?.local[0]).href);
  onTestFinished(() => expect(faults).toEqual([]));
  return page;
}

describe("the documentation site", () => {
  it("finds a guide and a function, and opens them", async () => {
    const page = await open("index.html");
    for (const [words, found, heading] of [
      ["defineRoom", "Function rollcall.defineRoom", "Function defineRoom"],
      ["terminateUserConnections", "From Pusher Channels", "Migrating from Pusher Channels"],
    ] as const) {
      await page.getByRole("button", { name: "Search" }).click();
      await page.getByRole("combobox").fill(words);
      await page.getByRole("option", { name: found }).getByRole("link").click();
      await page.getByRole("heading", { name: heading }).waitFor();
    }
  });

  it.each([
    { width: 1280, colorScheme: "dark" as const },
    { width: 390, colorScheme: "light" as const },
  ])("fits $width px in $colorScheme colours, for screen readers too", async (look) => {
    const { width, colorScheme } = look;
    for (const path of ["index.html", "guides/from-pusher.html", "security.html"]) {
      const page = await open(path, { viewport: { width, height: 844 }, colorScheme });
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      expect(overflow, path).toBeLessThanOrEqual(0);
      await page.evaluate(axe.source);
      const { violations } = await page.evaluate<AxeResults>("axe.run()");
      const serious = violations.filter(
        ({ impact }) => impact === "serious" || impact === "critical",
      );
      expect(serious.map(({ id, nodes }) => `${path}: ${id}: ${nodes[0]?.html}`)).toEqual([]);
    }
  });
});
