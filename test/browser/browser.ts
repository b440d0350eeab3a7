/** A real Chromium with the console open, for tests. */
import { existsSync } from "node:fs";
import { type Browser, chromium, type Page } from "playwright-core";

/** Where Debian puts it. `CHROMIUM` names another one. */
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";

/** @throws Error when there is no Chromium */
export function launch(): Promise<Browser> {
  if (!existsSync(CHROMIUM)) {
    throw new Error(`No Chromium at ${CHROMIUM}: install it, or name yours with CHROMIUM=`);
  }
  return chromium.launch({
    executablePath: CHROMIUM,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      // It would look for Google's hosts at each start.
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}

/** Collects what a page complains about: errors in the console, and exceptions nobody caught. */
export function watchFaults(page: Page, faults: string[]): void {
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) faults.push(message.text());
  });
  page.on("pageerror", (error) => faults.push(String(error)));
}

/**
 * Tells how long this machine stood still, at worst, since it was started: what a measured time may
 * be longer by through no fault of the page.
 */
export function startWitness(): Disposable & { stalledMs(): number } {
  const TICK_MS = 20;
  let last = performance.now();
  let worst = 0;
  const tick = () => {
    const now = performance.now();
    worst = Math.max(worst, now - last - TICK_MS);
    last = now;
  };
  const timer = setInterval(tick, TICK_MS);
  return {
    stalledMs() {
      tick();
      return worst;
    },
    [Symbol.dispose]: () => clearInterval(timer),
  };
}
