import { randomBytes, randomUUID } from "node:crypto";
import axe, { type AxeResults } from "axe-core";
import { SignJWT } from "jose";
import type { Browser, BrowserContext, Locator, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Server, startServer } from "../e2e/server.ts";
import { launch, startWitness, watchFaults, watchLines } from "./browser.ts";

let server: Server;
let browser: Browser;
let context: BrowserContext;
let room: string;
let rooms = 0;
const faults: string[] = [];

beforeAll(async () => {
  [server, browser] = await Promise.all([startServer(), launch()]);
});
afterAll(async () => {
  await Promise.all([browser?.close(), server?.stop()]);
});

beforeEach(async () => {
  // Names and rooms of a test's own: nobody of an earlier test is in the picture.
  room = `room-${++rooms}`;
  faults.length = 0;
  context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
  context.setDefaultTimeout(10_000);
});
afterEach(async () => {
  await context.close();
  expect(faults, "the browser's log").toEqual([]);
});

/** A tab in which `name`, as this test's own, has joined the room. */
async function join(name: string, page?: Page): Promise<Page> {
  const tab = page ?? (await context.newPage());
  if (!page) watchFaults(tab, faults);
  await tab.goto(`${server.url}/?${new URLSearchParams({ name: ownName(name), room })}`);
  await person(tab, name).waitFor();
  // All lines are up: what is published next has somebody to reach.
  await tab
    .locator(".rail .lamp:not([data-state=connected])")
    .first()
    .waitFor({ state: "detached" });
  return tab;
}

/** The same person in two tests would have the same devices and envelopes. */
function ownName(name: string): string {
  return `${name} ${rooms}`;
}

function panel(page: Page, title: string): Locator {
  return page.getByRole("region", { name: title });
}

function person(page: Page, name: string): Locator {
  return page.locator(".person").filter({ hasText: ownName(name) });
}

async function publish(page: Page, what: { to?: string; type?: string; payload?: string }) {
  const form = page.getByRole("form", { name: "Publish" });
  if (what.to) await form.getByLabel("To user").fill(what.to);
  if (what.type) await form.getByLabel("Type").fill(what.type);
  if (what.payload) await form.getByLabel("Payload").fill(what.payload);
  await form.getByRole("button", { name: "Publish" }).click();
  return page.getByRole("log", { name: "What came back" }).getByRole("listitem").first();
}

describe("the room", () => {
  test("what a tab says of itself is seen beside its person, and goes with the tab", async () => {
    const [ada, grace] = [await join("Ada"), await context.newPage()];
    watchFaults(grace, faults);
    await join("Grace", grace);
    await grace.getByLabel("This tab's state").pressSequentially("writing tests");
    await person(ada, "Grace").getByText("writing tests").waitFor();
    await person(grace, "Grace").getByText("writing tests").waitFor();
    await grace.getByLabel("This tab's state").fill("");
    await person(ada, "Grace").locator(".note").waitFor({ state: "detached" });
  });

  test("two tabs see each other within a second, and one sees the other close after the grace", async () => {
    const ada = await join("Ada");
    using witness = startWitness();
    const grace = await context.newPage();
    watchFaults(grace, faults);
    // Both pages note when the newcomer shows; they share a clock.
    const noted = ada.evaluate(appearance, ownName("Grace"));
    await join("Grace", grace);
    const joinedAt = Date.now();
    expect((await noted) - joinedAt).toBeLessThan(1_000 + witness.stalledMs());
    await person(grace, "Ada").waitFor();

    const closedAt = Date.now();
    await grace.close();
    await person(ada, "Grace").waitFor({ state: "detached" });
    const goneMs = Date.now() - closedAt;
    expect(goneMs).toBeGreaterThan(4_000);
    expect(goneMs).toBeLessThan(6_000 + witness.stalledMs());
    await ada.getByRole("log", { name: "Joins and leaves" }).getByText("left").waitFor();
  });

  test("a second tab of the same person is a second device, and a status shows everywhere", async () => {
    const [ada, grace] = [await join("Ada"), await join("Grace")];
    const second = await join("Ada");
    await person(grace, "Ada").getByText("2 devices").waitFor();

    await ada.getByRole("radio", { name: "online" }).focus();
    await ada.keyboard.press("ArrowRight");
    await person(grace, "Ada").and(grace.locator("[data-status=away]")).waitFor();
    await second.getByRole("radio", { name: "away" }).and(second.locator(":checked")).waitFor();

    await second.close();
    await person(grace, "Ada").getByText("1 device").waitFor();
    await person(grace, "Ada").getByText("away").waitFor();
  });

  test("one of two tabs is reloaded: it keeps its session, and the other receives nothing; closed, it is gone after the grace", async () => {
    const adaTab = await context.newPage();
    const graceTab = await context.newPage();
    for (const tab of [adaTab, graceTab]) watchFaults(tab, faults);
    const [adasLines, gracesLines] = [adaTab, graceTab].map((tab) =>
      watchLines(tab, "/ws/presence"),
    );
    await join("Ada", adaTab);
    await join("Grace", graceTab);
    await person(adaTab, "Grace").waitFor();
    const before = adasLines?.at(-1)?.frames.length;

    for (const times of [1, 2]) {
      await graceTab.reload();
      await person(graceTab, "Ada").waitFor();
      expect(gracesLines?.[times]?.hello).toMatchObject({
        session: gracesLines?.[0]?.hello.session,
        resumed: false,
        reason: "reloaded",
      });
    }
    // Longer than the grace: a session left behind by a reload would have been reported by now.
    await graceTab.waitForTimeout(6_000);
    expect(adasLines).toHaveLength(1);
    expect(adasLines?.[0]?.frames.slice(before)).toEqual([]);

    const closedAt = Date.now();
    await graceTab.close();
    await person(adaTab, "Grace").waitFor({ state: "detached" });
    expect(Date.now() - closedAt).toBeGreaterThan(4_000);
    expect(adasLines?.[0]?.frames.slice(before).join()).toContain("presence");
  });

  test("a duplicated tab gets a session of its own, also after the first is reloaded", async () => {
    const ada = await join("Ada");
    const first = await context.newPage();
    watchFaults(first, faults);
    const firstLines = watchLines(first, "/ws/presence");
    await join("Grace", first);
    // As a browser does it for "Duplicate tab": the new one begins with a copy of the sessionStorage.
    await first.reload();
    await person(first, "Ada").waitFor();
    const secondLines: ReturnType<typeof watchLines>[] = [];
    context.once("page", (tab) => secondLines.push(watchLines(tab, "/ws/presence")));
    const [second] = await Promise.all([
      context.waitForEvent("page"),
      first.evaluate(() => {
        window.open(location.href);
      }),
    ]);
    watchFaults(second, faults);
    await person(second, "Ada").waitFor();
    await person(ada, "Grace").getByText("2 devices").waitFor();
    await first.reload();
    await person(first, "Ada").waitFor();
    const sessions = firstLines.map(({ hello }) => hello.session);
    expect(new Set(sessions).size).toBe(1);
    expect(sessions).toHaveLength(3);
    await second.reload();
    await person(second, "Ada").waitFor();
    const others = new Set(secondLines[0]?.map(({ hello }) => hello.session));
    expect([...others]).not.toContain(sessions[0]);
    expect(others.size).toBe(1);
    await person(ada, "Grace").getByText("2 devices").waitFor();
  });

  test("a free seat opens a tab that takes it", async () => {
    const ada = await join("Ada");
    const [tab] = await Promise.all([
      context.waitForEvent("page"),
      ada.getByRole("link", { name: "Open a tab to sit here" }).click(),
    ]);
    watchFaults(tab, faults);
    await ada.getByTestId("totals").getByText("2 people on 2 devices").waitFor();
    await tab.getByTestId("totals").getByText("2 people on 2 devices").waitFor();
  });

  test("guests come and go without a tab of their own", async () => {
    const ada = await join("Ada");
    await ada.getByRole("button", { name: "Bring in a guest" }).click();
    await ada.getByTestId("totals").getByText("2 people on 2 devices").waitFor();
    await ada.getByRole("button", { name: "Send one home" }).click();
    await ada.getByTestId("totals").getByText("1 person on 1 device").waitFor();
  });
});

/** Runs in the page: resolves to the time at which a person is shown. */
function appearance(name: string): Promise<number> {
  return new Promise((resolve) => {
    const look = () => {
      if (!document.querySelector(`.people`)?.textContent?.includes(name)) return;
      observer.disconnect();
      resolve(Date.now());
    };
    const observer = new MutationObserver(look);
    observer.observe(document.body, { childList: true, subtree: true, characterData: true });
    look();
  });
}

describe("devices", () => {
  test("a daemon that falls silent turns offline when its ttl has run out, one that says goodbye at once", async () => {
    const ada = await join("Ada");
    const devices = panel(ada, "Your devices");
    await devices.getByRole("radio", { name: "3 s", exact: true }).check();
    await devices.getByRole("button", { name: "Start a daemon" }).click();
    await devices.getByText("1 of 1 device online").waitFor();
    // Longer than a ttl: it is its beats that keep it alive.
    for (let beat = 0; beat < 4; beat++) await ada.waitForResponse(/\/heartbeat$/);
    await devices.getByText("1 of 1 device online").waitFor();

    using witness = startWitness();
    await devices.getByRole("button", { name: "Pull the plug of Laptop" }).click();
    const end = devices.getByText(/noticed [\d.]+ s after its ttl/);
    await end.waitFor();
    const lateMs = 1000 * Number(/noticed ([\d.]+) s/.exec((await end.textContent()) ?? "")?.[1]);
    expect(lateMs).toBeLessThan(1_000 + witness.stalledMs());

    await devices.getByRole("button", { name: "Start again Laptop" }).click();
    await devices.getByText("1 of 1 device online").waitFor();
    await devices.getByRole("button", { name: "Shut down Laptop" }).click();
    await devices.getByText("0 of 1 device online").waitFor();
    expect(await devices.getByText(/noticed/).count()).toBe(0);
  });
});

describe("moods", () => {
  test("counts every tab once, by its mood", async () => {
    const ada = await join("Ada");
    const count = ada.getByTestId("mood-count");
    await ada.waitForFunction(
      () => Number(document.querySelector("[data-testid=mood-count]")?.textContent) > 0,
    );
    const before = Number(await count.textContent());
    const grace = await join("Grace");
    await count.getByText(String(before + 1), { exact: true }).waitFor();

    const gratitude = ada.locator(".legend label", { hasText: "gratitude" }).locator("b");
    const grateful = Number(await gratitude.textContent());
    await grace.getByRole("radio", { name: "gratitude" }).check();
    await gratitude.getByText(String(grateful + 1), { exact: true }).waitFor();
    await panel(ada, "Moods")
      .getByRole("img", { name: `${before + 1} people here` })
      .waitFor();
  });
});

describe("fan-out", () => {
  test("a publish shows what each socket answered", async () => {
    const ada = await join("Ada");
    const outcome = await publish(ada, {});
    await outcome.getByText(`["seen by ${ownName("Ada")}"]`).waitFor();
    await outcome.getByText("1 socket, 1 answer").waitFor();

    const second = await join("Ada");
    await second.getByLabel("Answer with").fill("from the other tab");
    await publish(ada, {});
    await outcome.getByText("2 sockets, 2 answers").waitFor();
    await outcome.getByText("from the other tab").waitFor();
    await second.getByRole("log", { name: "Envelopes" }).getByText("Hello").waitFor();
  });

  test("only what a filter asks for arrives, and an answer by hand is awaited", async () => {
    const ada = await join("Ada");
    const filters = ada.getByRole("form", { name: "Filters" });
    await filters.getByLabel("Type").fill("chat");
    await filters.getByLabel("Where").fill("questId=q1");
    await filters.getByRole("button", { name: "Add filter" }).click();
    await filters.getByRole("button", { name: "Remove chat questId=q1" }).waitFor();
    await ada.getByLabel("as soon as one arrives").uncheck();

    const outcome = await publish(ada, { type: "chat", payload: '{"questId":"q2"}' });
    await outcome.getByText("no socket has a matching filter").waitFor();
    await publish(ada, { payload: '{"questId":"q1"}' });
    await outcome.getByText("waiting for answers").waitFor();
    await ada.getByRole("button", { name: "Answer", exact: true }).click();
    await outcome.getByText("1 socket, 1 answer").waitFor();

    await filters.getByRole("button", { name: "Remove chat questId=q1" }).click();
    await filters.getByText("chat questId=q1").waitFor({ state: "detached" });
    await publish(ada, {});
    await outcome.getByText("no socket has a matching filter").waitFor();
  });
});

describe("the line", () => {
  test("cut, it comes back by itself, and nothing is lost", async () => {
    const [ada, grace] = [await join("Ada"), await join("Grace")];
    await panel(ada, "Your devices").getByRole("button", { name: "Start a daemon" }).click();
    await ada.getByText("1 of 1 device online").waitFor();
    await ada.waitForFunction(
      () => Number(document.querySelector("[data-testid=latency]")?.textContent) > 0,
    );

    const line = panel(ada, "The line");
    await line.getByRole("button", { name: "Cut the line" }).press("Enter");
    await line.getByRole("status").getByText("Cut").waitFor();
    // Sent without a connection, and missed without one.
    await ada.getByRole("radio", { name: "busy" }).check();
    await grace.getByRole("radio", { name: "away" }).check();
    await join("Alan");

    await line.getByRole("status").getByText("Connected again").waitFor();
    await person(grace, "Ada").getByText("busy").waitFor();
    await person(ada, "Alan").waitFor();
    await person(ada, "Grace").getByText("away").waitFor();
    // The server kept what was sent meanwhile.
    await ada.getByText(/is back: [1-9]\d* messages replayed/).waitFor();
    for (const wire of ["room", "devices", "moods", "fan-out"]) {
      await line.locator(`[data-wire="${wire}"][data-state=connected]`).waitFor();
    }
    // Subscriptions are there again, and so are the devices.
    const outcome = await publish(grace, { to: ownName("Ada") });
    await outcome.getByText(`seen by ${ownName("Ada")}`).waitFor();
    await ada.getByText("1 of 1 device online").waitFor();
  });
});

describe("a deployment", () => {
  test("with CONSOLE=on asks people for tokens of their own", async () => {
    const [jwtSecret, mintToken] = [randomBytes(32), randomBytes(32)].map((bytes) =>
      bytes.toString("hex"),
    );
    await using production = await startServer({
      vars: {
        ENVIRONMENT: "production",
        CONSOLE: "on",
        JWT_SECRET: `${jwtSecret}`,
        PRESENCE_DO_MINT_TOKEN: `${mintToken}`,
        PRESENCE_DO_TOKEN_SIGNING_KEY: randomBytes(32).toString("hex"),
      },
    });
    const jwt = await new SignJWT({ userId: "u-1", username: "Ada Lovelace", scope: "publish" })
      .setProtectedHeader({ alg: "HS256" })
      .setExpirationTime("5m")
      .sign(new TextEncoder().encode(jwtSecret));

    const ada = await context.newPage();
    watchFaults(ada, faults);
    await ada.goto(production.url);
    const door = ada.getByRole("form", { name: "Your tokens" });
    await door.getByLabel("JWT").fill("nonsense");
    await door.getByRole("button", { name: "Enter" }).click();
    await door.getByRole("alert").getByText("no JWT").waitFor();
    await door.getByLabel("JWT").fill(jwt);
    await door.getByLabel("Minting token").fill(`${mintToken}`);
    await door.getByLabel("user_id").fill(randomUUID());
    await door.getByRole("button", { name: "Enter" }).click();

    await ada.locator(".person").filter({ hasText: "Ada Lovelace" }).waitFor();
    await ada.getByRole("button", { name: "Start a daemon" }).click();
    await ada.getByText("1 of 1 device online").waitFor();
    await (await publish(ada, {})).getByText("seen by u-1").waitFor();
    // Before its server goes.
    await ada.close();
  });
});

describe("the page", () => {
  /** Everything that the panels can show at once. */
  async function fill(page: Page): Promise<void> {
    await page.getByRole("button", { name: "Bring in a guest" }).click();
    await page.getByTestId("totals").getByText("2 people").waitFor();
    for (const _ of [1, 2]) await page.getByRole("button", { name: "Start a daemon" }).click();
    await page.getByRole("button", { name: "Pull the plug of Workstation" }).click();
    await page.getByRole("button", { name: "dozen" }).click();
    const outcome = await publish(page, { payload: `{"text":"${"long".repeat(40)}"}` });
    await outcome.getByText("1 answer").waitFor();
  }

  test.for([
    { colorScheme: "light", width: 1280 },
    { colorScheme: "dark", width: 1280 },
    { colorScheme: "light", width: 390 },
    { colorScheme: "dark", width: 390 },
  ] as const)(
    "is accessible, and as wide as its window: $colorScheme, $width px",
    async ({ colorScheme, width }) => {
      const ada = await context.newPage();
      watchFaults(ada, faults);
      await ada.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      await ada.setViewportSize({ width, height: 844 });
      await join("Augusta Ada King, Countess of Lovelace", ada);
      await fill(ada);

      const sideways = await ada.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      expect(sideways).toBe(0);

      await ada.evaluate(axe.source);
      const { violations } = await ada.evaluate<AxeResults>("axe.run()");
      const grave = violations
        .filter(({ impact }) => impact === "serious" || impact === "critical")
        .flatMap(({ id, nodes }) => nodes.map(({ html }) => `${id}: ${html}`));
      expect(grave).toEqual([]);
    },
  );

  test("remembers the colours that were chosen", async () => {
    const ada = await join("Ada");
    await ada.getByRole("radio", { name: "dark" }).check();
    const dark = await background(ada);
    await ada.reload();
    await person(ada, "Ada").waitFor();
    expect(await background(ada)).toBe(dark);
    await ada.getByRole("radio", { name: "light" }).check();
    expect(await background(ada)).not.toBe(dark);
  });

  function background(page: Page): Promise<string> {
    return page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  }
});
