import { build } from "esbuild";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { MoodSession, MoodState } from "../../client/moods.ts";
import { type Server, startServer } from "../e2e/server.ts";
import { launch, startWitness } from "./browser.ts";

/** A session that nobody takes back expires after 30 s: what happens well before was meant. */
const SOON_MS = 5_000;

let server: Server;
let browser: Browser;
let context: BrowserContext;
let script: string;

declare global {
  var me: MoodSession;
  var states: MoodState[];
  var socketsFail: boolean;
  var visitorId: string | undefined;
}

beforeAll(async () => {
  const built = build({
    stdin: {
      contents: `import { joinMoods } from "./client/moods.ts";
        globalThis.states = [];
        globalThis.me = joinMoods({
          url: location.origin, mood: "gratitude", sessionId: globalThis.visitorId,
          onState: (state) => states.push(state),
        });`,
      resolveDir: process.cwd(),
    },
    bundle: true,
    format: "iife",
    write: false,
  });
  const [, , { outputFiles }] = await Promise.all([
    startServer().then((started) => {
      server = started;
    }),
    launch().then((launched) => {
      browser = launched;
    }),
    built,
  ]);
  script = outputFiles[0]?.text ?? "";
});
afterAll(async () => {
  await Promise.all([browser?.close(), server?.stop()]);
});

beforeEach(async () => {
  context = await browser.newContext();
  context.setDefaultTimeout(15_000);
});
afterEach(async () => {
  await context.close();
  // The next test begins with nobody here.
  await countOf(0);
});

async function look(): Promise<MoodState> {
  return (await fetch(`${server.url}/api/presence`)).json() as Promise<MoodState>;
}

/** Waits until so many are here; says how long that took, in ms. */
async function countOf(count: number): Promise<number> {
  const began = performance.now();
  while ((await look()).count !== count) {
    if (performance.now() - began > 45_000) throw new Error(`it stays at ${(await look()).count}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return performance.now() - began;
}

/** @param sessionId of the visitor; default a random one */
async function visit(sessionId?: string): Promise<Page> {
  const page = await context.newPage();
  // A page of the server's, since browsers keep made-up ones from this machine's ports; not the
  // console, which has a session of its own.
  await page.goto(`${server.url}/api/presence`);
  await page.evaluate((id) => {
    globalThis.visitorId = id;
  }, sessionId);
  await page.evaluate(script);
  return page;
}

/** Sockets of this page find nobody who listens, until `socketsFail` is unset. */
function breakSockets(): Promise<unknown> {
  return context.addInitScript(() => {
    const Real = WebSocket;
    globalThis.socketsFail = true;
    globalThis.WebSocket = class extends Real {
      constructor(url: string | URL, protocols?: string | string[]) {
        super(socketsFail ? "ws://127.0.0.1:1/" : url, protocols);
      }
    };
  });
}

const last = (page: Page) => page.evaluate(() => states.at(-1));

describe("a page that joined", () => {
  test("is counted by its socket, changes its mood, and leaves when told to", async () => {
    const requests: string[] = [];
    const page = await visit();
    page.on("request", (request) => requests.push(request.url()));
    await page.waitForFunction(() => states.at(-1)?.count === 1);
    await page.evaluate(() => me.setMood("release"));
    await page.waitForFunction(() => states.at(-1)?.moods.release === 1);
    expect(await last(page)).toMatchObject({ count: 1, moods: { gratitude: 0 } });
    expect(requests).toEqual([]);
    await page.evaluate(() => me.leave());
    using witness = startWitness();
    expect(await countOf(0)).toBeLessThan(SOON_MS + witness.stalledMs());
  });

  test("leaves with its socket when the page goes away, and no other tab of the same visitor does", async () => {
    await context.addInitScript(() => {
      const { sendBeacon } = navigator;
      navigator.sendBeacon = function (url, body) {
        sessionStorage.setItem("beacon", String(url));
        return sendBeacon.call(this, url, body);
      };
    });
    const page = await visit();
    await page.waitForFunction(() => states.at(-1)?.count === 1);
    const sessionId = await page.evaluate(() => me.sessionId);
    const other = await visit(sessionId);
    await other.waitForFunction(() => states.at(-1)?.count === 1);
    await page.goto(`${server.url}/api/presence?elsewhere`);
    expect(await page.evaluate(() => sessionStorage.getItem("beacon"))).toBeNull();
    expect((await look()).count).toBe(1);
    await other.evaluate(() => me.setMood("connection"));
    await other.waitForFunction(() => states.at(-1)?.moods.connection === 1);
    await other.goto(`${server.url}/api/presence?elsewhere`);
    using witness = startWitness();
    expect(await countOf(0)).toBeLessThan(SOON_MS + witness.stalledMs());
  });

  test("polls where sockets fail, says its mood at once, and still leaves by a beacon", async () => {
    await breakSockets();
    const page = await visit();
    const beat = page.waitForRequest(/\/api\/heartbeat$/);
    await page.waitForFunction(() => states.at(-1)?.moods.gratitude === 1);
    expect((await beat).postDataJSON()).toMatchObject({ mood: "gratitude" });
    await page.evaluate(() => me.setMood("connection"));
    await page.waitForFunction(() => states.at(-1)?.moods.connection === 1);
    expect(await look()).toMatchObject({ count: 1, moods: { connection: 1 } });

    await page.goto(`${server.url}/api/presence?elsewhere`);
    // No socket closed that could have told: without the beacon it would take 30 s.
    using witness = startWitness();
    expect(await countOf(0)).toBeLessThan(SOON_MS + witness.stalledMs());
  });

  test("goes on by its socket once sockets work again", async () => {
    await breakSockets();
    const page = await visit();
    await page.waitForFunction(() => states.at(-1)?.count === 1);
    const opened = page.waitForEvent("websocket", (socket) => socket.url().includes("/ws/moods"));
    await page.evaluate(() => {
      globalThis.socketsFail = false;
    });
    await (await opened).waitForEvent("framereceived", ({ payload }) =>
      payload.includes("mood.state"),
    );
    const polls: string[] = [];
    page.on("request", (request) => polls.push(request.url()));
    const other = await visit();
    await page.waitForFunction(() => states.at(-1)?.count === 2);
    expect(polls).toEqual([]);
    await other.close();
  });
});
