import { join } from "node:path";
import axe, { type AxeResults } from "axe-core";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { createServer, type ViteDevServer } from "vite";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Server, startServer } from "../e2e/server.ts";
import { launch, watchFaults } from "./browser.ts";

let server: Server;
let vite: ViteDevServer;
let browser: Browser;
let address: string;
const contexts: BrowserContext[] = [];
const faults: string[] = [];
let boards = 0;

beforeAll(async () => {
  [server, browser] = await Promise.all([startServer(), launch()]);
  process.env.ROLLCALL = server.url;
  const root = join(import.meta.dirname, "../../examples/cursors");
  vite = await createServer({
    configFile: join(root, "vite.config.ts"),
    logLevel: "silent",
    server: { port: 0, host: "127.0.0.1", hmr: false },
    optimizeDeps: { include: ["react", "react-dom/client", "react/jsx-dev-runtime"] },
  });
  await vite.listen();
  address = vite.resolvedUrls?.local[0] ?? "";
});
afterAll(async () => {
  await Promise.all([browser?.close(), vite?.close(), server?.stop()]);
});

beforeEach(() => {
  boards += 1;
  faults.length = 0;
});
afterEach(async () => {
  await Promise.all(contexts.splice(0).map((context) => context.close()));
  expect(faults, "the browser's log").toEqual([]);
});

interface Look {
  width?: number;
  height?: number;
  colorScheme?: "light" | "dark";
}

/** A visitor on this test's board, in a browser of its own. */
async function visit(name: string, { width = 1_000, height = 700, colorScheme }: Look = {}) {
  const context = await browser.newContext({
    viewport: { width, height },
    ...(colorScheme && { colorScheme }),
  });
  contexts.push(context);
  context.setDefaultTimeout(15_000);
  await context.addInitScript(
    (self) => {
      if (!sessionStorage.getItem("cursors:self")) sessionStorage.setItem("cursors:self", self);
    },
    JSON.stringify({ name, colour: "#5b3be0" }),
  );
  const page = await context.newPage();
  watchFaults(page, faults);
  await page.goto(`${address}?room=board-${boards}`);
  await page.locator(".lamp[data-state=connected]").waitFor();
  return page;
}

const cursorOf = (page: Page, name: string) => page.locator(".cursor").filter({ hasText: name });
const lineOf = (page: Page, name: string) => page.locator(".person").filter({ hasText: name });

describe("the board", () => {
  test("two visitors see each other's cursors, words, typing, status and emoji, and who left", async () => {
    const [ann, ben] = [await visit("Ann"), await visit("Ben")];
    await Promise.all([lineOf(ben, "Ann").waitFor(), lineOf(ann, "Ben").waitFor()]);
    await ann.mouse.move(300, 200);
    await ann.mouse.move(420, 260, { steps: 10 });
    await cursorOf(ben, "Ann").waitFor();
    const placeOf = async () => {
      const box = await cursorOf(ben, "Ann").locator("svg").boundingBox();
      return [Math.round(box?.x ?? 0), Math.round(box?.y ?? 0)];
    };
    await expect.poll(async () => Math.abs(((await placeOf())[0] ?? 0) - 420)).toBeLessThan(12);
    expect(Math.abs(((await placeOf())[1] ?? 0) - 260)).toBeLessThan(12);

    await ann.getByLabel("Say something").pressSequentially("hello");
    await lineOf(ben, "Ann").getByRole("img", { name: "types" }).waitFor();
    await cursorOf(ben, "Ann").or(ben.locator(".label")).first().waitFor();
    await ann.mouse.move(400, 300);
    await cursorOf(ben, "Ann").filter({ hasText: "hello" }).waitFor();
    await ann.getByLabel("Say something").press("Enter");
    await lineOf(ben, "Ann").getByText("online").waitFor();

    await ann.getByRole("combobox").selectOption("busy");
    await lineOf(ben, "Ann").getByText("busy").waitFor();
    await ann.locator(".board").click({ position: { x: 200, y: 200 } });
    await ben.locator(".cheer").first().waitFor();
    await ann.close();
    await lineOf(ben, "Ann").waitFor({ state: "detached" });
    expect(await cursorOf(ben, "Ann").count()).toBe(0);
  });

  test("a visitor who is renamed is another user, and comes back under the new name", async () => {
    const [ann, ben] = [await visit("Ann"), await visit("Ben")];
    await lineOf(ben, "Ann").waitFor();
    const name = ann.getByRole("textbox", { name: "You are" });
    await name.fill("Zoe");
    await name.press("Enter");
    await lineOf(ben, "Zoe").waitFor();
    await lineOf(ben, "Ann").waitFor({ state: "detached" });
  });

  test.each([
    { width: 1_000, height: 700, colorScheme: "light" as const },
    { width: 1_000, height: 700, colorScheme: "dark" as const },
    { width: 390, height: 780, colorScheme: "light" as const },
    { width: 390, height: 780, colorScheme: "dark" as const },
  ])("is accessible and fits at $width px in $colorScheme mode", async (look) => {
    const [ann, ben] = [await visit("Ann", look), await visit("Ben")];
    await lineOf(ann, "Ben").waitFor();
    await ben.mouse.move(200, 150);
    await cursorOf(ann, "Ben").waitFor();
    await ann.getByLabel("Say something").pressSequentially("hi");
    if (process.env.SHOTS) {
      const path = `${process.env.SHOTS}/cursors-${look.width}-${look.colorScheme}.png`;
      await ann.screenshot({ path });
    }
    const overflow = await ann.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    expect(overflow).toBeLessThanOrEqual(0);
    await ann.evaluate(axe.source);
    const { violations } = await ann.evaluate(() =>
      (globalThis as unknown as { axe: { run(): Promise<AxeResults> } }).axe.run(),
    );
    expect(violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html)}`)).toEqual(
      [],
    );
  });
});
