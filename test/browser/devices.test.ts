/** A page that reports itself as a device, in Chromium. */
import { randomUUID } from "node:crypto";
import { build } from "esbuild";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import type { DeviceClient, DeviceClientOptions } from "../../client/devices.ts";
import type { Heartbeat } from "../../rooms/devices/device.ts";
import { mintPresenceToken } from "../../rooms/devices/token.ts";
import { readDevVars } from "../../scripts/dev-vars.ts";
import { type Server, startServer } from "../e2e/server.ts";
import { launch } from "./browser.ts";

declare global {
  var report: (options: DeviceClientOptions) => void;
  var device: DeviceClient;
}

const KEY = readDevVars().PRESENCE_DO_TOKEN_SIGNING_KEY ?? "";
const TTL_MS = 3_000;
let server: Server;
let browser: Browser;
let context: BrowserContext;
let script: string;

beforeAll(async () => {
  const built = build({
    stdin: {
      contents: `import { DeviceClient } from "./client/devices.ts";
        globalThis.report = (options) => { globalThis.device = new DeviceClient(options); };`,
      resolveDir: process.cwd(),
    },
    bundle: true,
    format: "iife",
    write: false,
  });
  const started = await Promise.all([startServer(), launch(), built]);
  [server, browser] = started;
  script = started[2].outputFiles[0]?.text ?? "";
});
afterAll(async () => {
  await Promise.all([browser?.close(), server?.stop()]);
});
beforeEach(async () => {
  context = await browser.newContext();
});
afterEach(() => context.close());

async function listed(user_id: string): Promise<Heartbeat[]> {
  const { token } = await mintPresenceToken({ user_id, device_id: randomUUID() }, KEY);
  const query = new URLSearchParams({ user_id, token });
  const answer = await fetch(`${server.url}/api/v1/mobile/presence?${query}`);
  return ((await answer.json()) as { devices: Heartbeat[] }).devices;
}

/** Opens a page that reports the device with a token of its own, once it is online. */
async function visit(user_id: string): Promise<Page> {
  const page = await context.newPage();
  await page.goto(`${server.url}/api/presence`);
  await page.evaluate(script);
  const device_id = randomUUID();
  const grant = { user_id, device_id, scope: ["presence:heartbeat"] };
  const { token } = await mintPresenceToken(grant, KEY);
  const [userId, deviceId, ttlMs] = [user_id, device_id, TTL_MS];
  await page.evaluate((options) => report({ ...options, url: location.origin }), {
    ...{ url: "", userId, deviceId, token, ttlMs },
  });
  await page.waitForFunction(() => device.state === "online");
  expect(await listed(user_id)).toMatchObject([{ device_id, status: "online" }]);
  return page;
}

const offline = (userId: string) =>
  vi.waitFor(async () => expect(await listed(userId)).toMatchObject([{ status: "offline" }]), {
    timeout: 8_000,
  });

describe("a page that reports a device", () => {
  test("is online by its socket for as long as it is open, and offline its ttl after that", async () => {
    const user = randomUUID();
    const page = await visit(user);
    expect(await page.evaluate(() => device.via)).toBe("socket");
    await page.waitForTimeout(TTL_MS * 1.5);
    expect(await listed(user)).toMatchObject([{ status: "online", seq: 1 }]);
    await page.close();
    expect(await listed(user)).toMatchObject([{ status: "online" }]);
    await offline(user);
  });

  test("says goodbye at once", async () => {
    const user = randomUUID();
    const page = await visit(user);
    await page.evaluate(() => device.close());
    await vi.waitFor(async () =>
      expect(await listed(user)).toMatchObject([{ status: "offline", seq: 2 }]),
    );
  });

  test("beats over HTTP where sockets fail", async () => {
    await context.addInitScript(() => {
      const Real = WebSocket;
      globalThis.WebSocket = class extends Real {
        constructor() {
          super("ws://127.0.0.1:1/");
        }
      };
    });
    const user = randomUUID();
    const page = await visit(user);
    expect(await page.evaluate(() => device.via)).toBe("http");
    await page.waitForTimeout(TTL_MS * 1.5);
    expect(await listed(user)).toMatchObject([{ status: "online" }]);
    await page.evaluate(() => device.close());
    await vi.waitFor(async () => expect(await listed(user)).toMatchObject([{ status: "offline" }]));
  });
});
