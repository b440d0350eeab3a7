import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { type Server, startServer } from "../e2e/server.ts";
import { launch, watchFaults } from "./browser.ts";

const EXAMPLE = new URL("../../examples/script-tag/index.html", import.meta.url);

let server: Server;
let browser: Browser;
/** An origin that is not the service's. It serves the example, against the service of this test. */
const site = createServer((_, response) => {
  const html = readFileSync(EXAMPLE, "utf8").replaceAll("localhost:8787", new URL(server.url).host);
  response.setHeader("Content-Type", "text/html").end(html);
});

beforeAll(async () => {
  [server, browser] = await Promise.all([
    startServer(),
    launch(),
    new Promise<void>((resolve) => site.listen(0, "127.0.0.1", resolve)),
  ]);
});
afterAll(async () => {
  site.close();
  await Promise.all([browser?.close(), server?.stop()]);
});

async function open(name: string): Promise<{ page: Page; faults: string[] }> {
  const context = await browser.newContext();
  onTestFinished(() => context.close());
  const page = await context.newPage();
  const faults: string[] = [];
  watchFaults(page, faults);
  await page.goto(`http://127.0.0.1:${(site.address() as AddressInfo).port}/?name=${name}`);
  return { page, faults };
}

const peopleOf = (page: Page) => page.locator("#people li").allTextContents();

test("two pages with the script tag see each other come, change their status and leave", async () => {
  const [ann, ben] = [await open("ann"), await open("ben")];
  for (const { page } of [ann, ben]) {
    await expect
      .poll(() => peopleOf(page).then((people) => people.sort()))
      .toEqual(["ann is online", "ben is online"]);
  }

  await ann.page.getByRole("button", { name: "away" }).click();
  await expect.poll(() => peopleOf(ben.page)).toContain("ann is away");
  await ann.page.getByRole("button", { name: "online" }).click();
  await expect.poll(() => peopleOf(ben.page)).toContain("ann is online");

  await ann.page.close();
  await expect.poll(() => peopleOf(ben.page), { timeout: 15_000 }).toEqual(["ben is online"]);
  expect([...ann.faults, ...ben.faults]).toEqual([]);
});

test("a page of another origin imports the module, which has what the script's global has", async () => {
  const { page } = await open("cleo");
  // As text: vitest would replace the import of a function.
  const names: string[][] = await page.evaluate(
    `Promise.all([import("${server.url}/rollcall.mjs"), Rollcall]).then((all) =>
      all.map((exported) => Object.keys(exported).sort()))`,
  );
  expect(names[0]).toEqual([
    "FanoutClient",
    "FanoutError",
    "PeopleClient",
    "PeopleError",
    "RollcallError",
    "VeraniClient",
    "joinMoods",
    "watchDevices",
  ]);
  expect(names[1]).toEqual(names[0]);
});
