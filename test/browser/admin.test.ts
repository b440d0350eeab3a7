import { randomBytes } from "node:crypto";
import axe, { type AxeResults } from "axe-core";
import { SignJWT } from "jose";
import type { Browser, BrowserContext, Locator, Page } from "playwright-core";
import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  describe,
  expect,
  onTestFinished,
  test,
} from "vitest";
import { VeraniClient } from "../../client/client.ts";
import { FanoutClient } from "../../client/fanout.ts";
import { readDevVars } from "../../scripts/dev-vars.ts";
import { type Server, startServer } from "../e2e/server.ts";
import { launch, watchFaults } from "./browser.ts";

let server: Server;
let browser: Browser;
let context: BrowserContext;
let page: Page;
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
  room = `admin-${++rooms}`;
  faults.length = 0;
  context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
  context.setDefaultTimeout(10_000);
  page = await context.newPage();
  watchFaults(page, faults);
});
afterEach(async () => {
  await context.close();
  // The browser logs each answer of 4xx, also where the page explains it.
  const unexpected = faults.filter((text) => !/the server responded with a status of 4/.test(text));
  expect(unexpected, "the browser's log").toEqual([]);
});

/** A user of this test's own. */
function own(name: string): string {
  return `${name}-${rooms}`;
}

interface Claims {
  userId: string;
  cap?: Record<string, string[]>;
}

/** A token as an app's own login would give it. */
function sign(claims: Claims, secret = readDevVars().JWT_SECRET): Promise<string> {
  return new SignJWT({ ...claims })
    .setProtectedHeader({ alg: "HS256" })
    .setIssuedAt()
    .setExpirationTime("5m")
    .sign(new TextEncoder().encode(secret));
}

interface Member {
  client: VeraniClient;
  /** The close codes of its sockets. */
  closes: number[];
}

/** Asks to join the room, as a client of an app does. */
function connect(token: string): Member {
  const closes: number[] = [];
  const client = new VeraniClient(`${server.wsUrl}/ws/presence?room=${room}`, {
    token,
    reconnection: { enabled: false },
  });
  client.onClose(({ code }) => closes.push(code));
  onTestFinished(() => client.close());
  return { client, closes };
}

async function join(userId: string): Promise<Member> {
  const member = connect(await sign({ userId }));
  await member.client.waitForConnection();
  return member;
}

async function open(place: Record<string, string>): Promise<void> {
  await page.goto(`${server.url}/admin?${new URLSearchParams(place)}`);
}

async function openRoom(): Promise<void> {
  await open({ room });
  await panel("Events").getByText("Live", { exact: true }).waitFor();
}

/** In development the page asks for a token only when it is wanted. */
async function signInWith(token: string): Promise<void> {
  const button = page.getByRole("button", { name: "Use a token" });
  const door = page.getByRole("form", { name: "Your tokens" });
  await button.or(door).waitFor();
  if (await button.isVisible()) await button.click();
  await door.getByLabel("JWT").fill(token);
  await door.getByRole("button", { name: "Enter" }).click();
}

function panel(title: string): Locator {
  return page.getByRole("region", { name: title, exact: true });
}

function row(userId: string): Locator {
  return page.getByRole("list", { name: "Users in the room" }).locator(`[data-user="${userId}"]`);
}

function events(): Locator {
  return page.getByRole("log", { name: "Events of the room" }).getByRole("listitem");
}

function dialog(): Locator {
  return page.getByRole("dialog");
}

/** The element that has the focus, in words. */
function focused(): Promise<string> {
  return page.evaluate(() => document.activeElement?.textContent ?? "");
}

/** Presses Tab until an element with this role and name has the focus. */
async function tabTo(target: Locator, key = "Tab"): Promise<void> {
  for (let presses = 0; presses < 40; presses++) {
    await page.keyboard.press(key);
    if (await target.evaluate((element) => element === document.activeElement)) return;
  }
  throw new Error("the keyboard does not reach it");
}

describe("a room", () => {
  test("opened by its exact name, shows its users, and those who join and leave as it happens", async () => {
    const ada = await join(own("ada"));
    await page.goto(`${server.url}/admin`);
    const form = page.getByRole("form", { name: "Open a room" });
    await form.getByLabel("Room").fill(room);
    await form.getByRole("button", { name: "Open" }).click();
    await expect.poll(() => page.url()).toBe(`${server.url}/admin?room=${room}`);
    await row(own("ada")).getByText("1 device").waitFor();

    const bob = await join(own("bob"));
    await row(own("bob")).waitFor();
    await page.getByTestId("totals").getByText("2 users on 2 connections").waitFor();
    await events()
      .getByText(`${own("bob")} joined`)
      .waitFor();
    ada.client.emit("presence.status", { status: "busy" });
    await row(own("ada")).getByText("busy").waitFor();

    bob.client.disconnect();
    await row(own("bob")).waitFor({ state: "detached" });
    await events()
      .getByText(`${own("bob")} left`)
      .waitFor();
    await page.getByTestId("totals").getByText("1 user on 1 connection").waitFor();
  });

  test("receives what is published here, once it is a JSON object", async () => {
    const { client } = await join(own("ada"));
    const received: unknown[] = [];
    client.on("notice", (data) => received.push(data));
    await openRoom();
    const form = page.getByRole("form", { name: "Publish" });
    await form.getByLabel("Event").fill("notice");
    await form.getByLabel("Data").fill('{"text": "Lunch"');
    await form.getByRole("button", { name: "Publish" }).click();
    await form.getByRole("alert").getByText("This is not JSON").waitFor();
    await form.getByLabel("Data").fill("[1]");
    await form.getByRole("button", { name: "Publish" }).click();
    await form.getByRole("alert").getByText("must be an object").waitFor();
    expect(received).toEqual([]);

    await form.getByLabel("Data").fill('{"text": "Lunch"}');
    await form.getByRole("button", { name: "Publish" }).click();
    await form
      .getByRole("status")
      .getByText(/Sent to \d+ sessions?\. Cursor \S+/)
      .waitFor();
    await expect
      .poll(() => received)
      .toEqual([expect.objectContaining({ text: "Lunch", publisher: "operator" })]);
    const event = events().filter({ hasText: "notice" }).first();
    await event.locator("summary").click();
    await event.getByRole("region", { name: "Data of notice" }).getByText("Lunch").waitFor();
  });

  test("stands still while its events are paused, and shows those of meanwhile afterwards", async () => {
    await openRoom();
    const pause = panel("Events").getByRole("button", { name: /^Paused?/ });
    await pause.click();
    await join(own("ada"));
    // The users go on.
    await row(own("ada")).waitFor();
    await pause.getByText("1 new").waitFor();
    const joined = events().getByText(`${own("ada")} joined`);
    expect(await joined.count()).toBe(0);
    await pause.click();
    await joined.waitFor();
  });

  test("is followed again after the server was away", async () => {
    await join(own("ada"));
    await openRoom();
    await server.restart();
    await join(own("bob"));
    await row(own("bob")).waitFor({ timeout: 30_000 });
    await panel("Events").getByText("Live", { exact: true }).waitFor();
    // While it was away, nothing answered.
    faults.splice(0);
  }, 90_000);

  test("with many users shows the first hundred, and more at the press of a button", async () => {
    const ids = Array.from({ length: 103 }, (_, n) => own(`user-${100 + n}`));
    await Promise.all(ids.map((id) => join(id)));
    await openRoom();
    await page.getByTestId("totals").getByText("103 users").waitFor();
    const rows = page.getByRole("list", { name: "Users in the room" }).getByRole("listitem");
    expect(await rows.count()).toBe(100);
    await page.getByRole("button", { name: "More users" }).click();
    await expect.poll(() => rows.count()).toBe(103);
    await page.getByRole("button", { name: "More users" }).waitFor({ state: "detached" });
  });

  test("is in the address, and back and forward go from one to the next", async () => {
    await join(own("ada"));
    await openRoom();
    await row(own("ada")).getByRole("link").click();
    await page.getByRole("heading", { name: own("ada") }).waitFor();
    expect(page.url()).toBe(`${server.url}/admin?user=${own("ada")}`);
    expect(await focused()).toBe(own("ada"));
    await page.goBack();
    await row(own("ada")).waitFor();
    expect(page.url()).toBe(`${server.url}/admin?room=${room}`);
    await page.goForward();
    await page.getByRole("heading", { name: own("ada") }).waitFor();
    await page.reload();
    await page.getByRole("heading", { name: own("ada") }).waitFor();
  });

  test("kicks a user: the socket closes with 4404, and a block keeps the user away", async () => {
    const ada = await join(own("ada"));
    await openRoom();
    const kick = row(own("ada")).getByRole("button", { name: "Kick" });
    await kick.click();
    await dialog()
      .getByText(`Kick ${own("ada")} from ${room}?`)
      .waitFor();
    await dialog().getByRole("button", { name: "Cancel" }).click();
    expect(ada.closes).toEqual([]);

    await kick.click();
    await dialog().getByRole("radio", { name: "10 min" }).check();
    await dialog().getByRole("button", { name: "Kick" }).click();
    await expect.poll(() => ada.closes).toEqual([4404]);
    await panel(room).getByRole("status").getByText("was kicked: 1 session ended").waitFor();
    await row(own("ada")).waitFor({ state: "detached" });
    await events()
      .getByText(`${own("ada")} was kicked`)
      .waitFor();

    const again = connect(await sign({ userId: own("ada") }));
    await expect.poll(() => again.closes).toEqual([4403]);
    expect(await row(own("ada")).count()).toBe(0);
  });
});

describe("a user", () => {
  test("is found with the rooms, and a message reaches the user's socket", async () => {
    await join(own("ada"));
    const payloads: unknown[] = [];
    const inbox = new FanoutClient(server.wsUrl, { token: await sign({ userId: own("ada") }) });
    onTestFinished(() => inbox.disconnect());
    inbox.subscribe({ type: "message" }, ({ payload }) => {
      payloads.push(payload);
    });

    await page.goto(`${server.url}/admin`);
    const form = page.getByRole("form", { name: "Find a user" });
    await form.getByLabel("User").fill(own("ada"));
    await form.getByRole("button", { name: "Find" }).click();
    const found = panel(own("ada"));
    await found.getByText("Online, in 1 room").waitFor();
    await found.getByRole("link", { name: room }).waitFor();

    const publishing = page.getByRole("form", { name: "Publish" });
    await publishing.getByLabel("Payload").fill('"come here"');
    // The subscription may arrive after the first message.
    await expect
      .poll(
        async () => {
          await publishing.getByRole("button", { name: "Publish" }).click();
          const outcome = publishing.getByRole("status").getByText(/^(Sent|No)/);
          return outcome.textContent();
        },
        { timeout: 10_000 },
      )
      .toBe("Sent to 1 socket, with 1 answer.");
    expect(payloads).toContain("come here");

    await found.getByRole("link", { name: room }).click();
    await row(own("ada")).waitFor();
  });

  test("is disconnected, and may come back; after a revocation only with a new token", async () => {
    const first = await join(own("ada"));
    await open({ user: own("ada") });
    const found = panel(own("ada"));
    await found.getByText("Online, in 1 room").waitFor();
    await found.getByRole("button", { name: "Disconnect" }).click();
    await dialog().getByText("connect again at once").waitFor();
    await dialog().getByRole("button", { name: "Disconnect" }).click();
    await found.getByRole("status").getByText("Disconnected: 1 session ended.").waitFor();
    await expect.poll(() => first.closes).toHaveLength(1);

    const second = await join(own("ada"));
    const earlier = await sign({ userId: own("ada") });
    await found.getByRole("button", { name: "Revoke tokens" }).click();
    await dialog().getByText("stop working").waitFor();
    await page.keyboard.press("Escape");
    await dialog().waitFor({ state: "detached" });
    expect(second.closes).toEqual([]);
    await found.getByRole("button", { name: "Revoke tokens" }).click();
    await dialog().getByRole("button", { name: "Revoke" }).click();
    await expect.poll(() => second.closes).toEqual([4401]);
    await found
      .getByRole("status")
      .getByText(/Tokens issued until .* are refused: 1 session ended\./)
      .waitFor();
    await found.getByText(/^Offline/).waitFor();

    const refused = connect(earlier);
    await expect.poll(() => refused.closes).toEqual([4401]);
    // Those of the revocation's second are refused as well.
    await page.waitForTimeout(1_100);
    await join(own("ada"));
    await found.getByRole("button", { name: "Read again" }).click();
    await found.getByText("Online, in 1 room").waitFor();
  });
});

describe("a token of one's own", () => {
  test("that may only watch sees the room, and learns that it may not kick or publish", async () => {
    const ada = await join(own("ada"));
    await openRoom();
    const requests: string[] = [];
    page.on("request", (request) => requests.push(request.url()));
    const token = await sign({ userId: own("guard"), cap: { [`room:${room}`]: ["watch"] } });
    await signInWith(token);
    await page.getByText("Signed in as").waitFor();
    await panel("Events").getByText("Live", { exact: true }).waitFor();

    await row(own("ada")).getByRole("button", { name: "Kick" }).click();
    await dialog().getByRole("button", { name: "Kick" }).click();
    const refusal = dialog().getByRole("alert");
    await refusal.getByText("Your token does not allow to kick").waitFor();
    await refusal.getByText("403 forbidden").waitFor();
    await page.keyboard.press("Escape");
    const form = page.getByRole("form", { name: "Publish" });
    await form.getByRole("button", { name: "Publish" }).click();
    await form.getByRole("alert").getByText("403 forbidden").waitFor();
    expect(ada.closes).toEqual([]);

    await page.goto(`${server.url}/admin?room=elsewhere-${rooms}`);
    await signInWith(token);
    await panel("Events").getByRole("alert").getByText("403 forbidden").waitFor();
    await panel("Events").getByText("Not live").waitFor();
    // Addresses end up in logs.
    expect(requests.filter((url) => url.includes(token))).toEqual([]);

    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByRole("form", { name: "Who you are" }).getByLabel("You are").waitFor();
  });

  test("that the server does not accept is named as the cause", async () => {
    await open({ room });
    const token = await sign({ userId: own("guard") });
    await signInWith(`${token.slice(0, -10)}0123456789`);
    await panel("Events").getByRole("alert").getByText("401 unauthorized").waitFor();
  });
});

describe("a deployment", () => {
  test("asks for a token first, and names the cause where it keeps no directory of users", async () => {
    const secret = randomBytes(32).toString("hex");
    await using production = await startServer({
      vars: {
        ENVIRONMENT: "production",
        CONSOLE: "on",
        DIRECTORY: "off",
        JWT_SECRET: secret,
        PRESENCE_DO_TOKEN_SIGNING_KEY: randomBytes(32).toString("hex"),
      },
    });
    const cap = { "room:*": ["watch"], "user:*": ["presence"] };
    await page.goto(`${production.url}/admin?room=${room}`);
    await signInWith(await sign({ userId: own("guard"), cap }, secret));
    await panel("Events").getByText("Live", { exact: true }).waitFor();
    await page.getByText("Nobody is in this room now.").waitFor();

    const form = page.getByRole("form", { name: "Find a user" });
    await form.getByLabel("User").fill(own("ada"));
    await form.getByRole("button", { name: "Find" }).click();
    await page.getByRole("alert").getByText("503 unavailable").waitFor();
    await page.getByRole("alert").getByText("DIRECTORY").waitFor();
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByRole("form", { name: "Your tokens" }).waitFor();
    // Before its server goes.
    await page.close();
    expect(faults).toEqual([expect.stringContaining("a status of 503")]);
    faults.splice(0);
  });
});

describe("the page", () => {
  test("works by the keyboard alone", async () => {
    const ada = await join(own("ada"));
    const bob = await join(own("bob"));
    await page.goto(`${server.url}/admin`);
    await page.getByText("Rooms cannot be listed").waitFor();
    await tabTo(page.getByLabel("Room", { exact: true }));
    await page.keyboard.type(room);
    await page.keyboard.press("Enter");
    await row(own("ada")).waitFor();
    expect(await focused()).toBe(room);

    const kick = row(own("ada")).getByRole("button", { name: "Kick" });
    await tabTo(kick);
    const outline = await kick.evaluate((element) => getComputedStyle(element).outlineStyle);
    expect(outline).toBe("solid");
    await page.keyboard.press("Enter");
    await dialog().waitFor();
    await page.keyboard.press("Escape");
    await dialog().waitFor({ state: "detached" });
    expect(await focused()).toBe(`Kick ${own("ada")}`);

    await page.keyboard.press("Enter");
    await tabTo(dialog().getByRole("radio", { name: "not at all" }));
    await page.keyboard.press("ArrowRight");
    await dialog().getByText("cannot join this room for 10 min").waitFor();
    await tabTo(dialog().getByRole("button", { name: "Kick" }));
    await page.keyboard.press("Enter");
    await expect.poll(() => ada.closes).toEqual([4404]);
    await row(own("ada")).waitFor({ state: "detached" });
    // The row is gone, so the focus is at the head of the list.
    await expect.poll(focused).toBe(room);

    await tabTo(page.getByRole("button", { name: "Pause" }));
    await page.keyboard.press("Space");
    await page.getByRole("button", { name: "Paused" }).waitFor();
    const event = events().first().locator("summary");
    await tabTo(event);
    await page.keyboard.press("Enter");
    await tabTo(events().first().getByRole("region"));

    // A user who leaves takes no focus along.
    await tabTo(row(own("bob")).getByRole("button", { name: "Kick" }), "Shift+Tab");
    bob.client.disconnect();
    await row(own("bob")).waitFor({ state: "detached" });
    await expect.poll(focused).toBe(room);
  });

  test.for([
    { colorScheme: "light", width: 1280 },
    { colorScheme: "dark", width: 1280 },
    { colorScheme: "light", width: 390 },
    { colorScheme: "dark", width: 390 },
  ] as const)(
    "is accessible, and as wide as its window: $colorScheme, $width px",
    async ({ colorScheme, width }) => {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      await page.setViewportSize({ width, height: 844 });
      const long = own(`augusta-ada-king-countess-of-lovelace-${"and-so-on-".repeat(6)}`);
      await join(long);
      await page.goto(`${server.url}/admin`);
      await page.getByText("Rooms cannot be listed").waitFor();
      await check();

      await openRoom();
      await row(long).waitFor();
      const form = page.getByRole("form", { name: "Publish" });
      await form.getByLabel("Data").fill(`{"text": "${"long".repeat(60)}"}`);
      await form.getByRole("button", { name: "Publish" }).click();
      await events().filter({ hasText: "longlong" }).first().locator("summary").click();
      await form.getByLabel("Data").fill("nothing");
      await form.getByRole("button", { name: "Publish" }).click();
      await form.getByRole("alert").waitFor();
      await check();
      await row(long).getByRole("button", { name: "Kick" }).click();
      await check();
      await page.keyboard.press("Escape");

      await row(long).getByRole("link").click();
      await panel(long).getByText("Online, in 1 room").waitFor();
      await check();
      await page.getByRole("button", { name: "Use a token" }).click();
      await check();
    },
  );

  async function check(): Promise<void> {
    const sideways = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    expect(sideways).toBe(0);
    await page.evaluate(axe.source);
    const { violations } = await page.evaluate<AxeResults>("axe.run()");
    const grave = violations
      .filter(({ impact }) => impact === "serious" || impact === "critical")
      .flatMap(({ id, nodes }) => nodes.map(({ html }) => `${id}: ${html}`));
    expect(grave).toEqual([]);
  }

  test("and the console lead to each other, with the room and the name", async () => {
    await page.goto(`${server.url}/?${new URLSearchParams({ name: own("Ada"), room })}`);
    await page.getByRole("link", { name: "Operator" }).click();
    await panel("Events").getByText("Live", { exact: true }).waitFor();
    expect(page.url()).toBe(`${server.url}/admin?room=${room}`);
    expect(await page.getByRole("textbox", { name: "You are" }).inputValue()).toBe(own("Ada"));
    await page.getByRole("link", { name: "Console" }).click();
    await page
      .locator(".person")
      .filter({ hasText: own("Ada") })
      .waitFor();
  });
});
