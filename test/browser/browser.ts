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

/** A room's socket in a page, as the page sees it. */
export interface Line {
  /** The first frame. */
  hello: Record<string, unknown>;
  /** Frames after it, without answers to pings. */
  frames: string[];
}

/** Collects the sockets that a page opens with `path` in their URLs, each from its `hello` on. */
export function watchLines(page: Page, path: string): Line[] {
  const lines: Line[] = [];
  page.on("websocket", (socket) => {
    if (!socket.url().includes(path)) return;
    let line: Line | undefined;
    socket.on("framereceived", ({ payload }) => {
      const all = [JSON.parse(String(payload))].flat() as { type: string; data: Line["hello"] }[];
      for (const frame of all) {
        if (frame.type === "hello") {
          line = { hello: frame.data, frames: [] };
          lines.push(line);
        } else if (frame.type !== "pong" && frame.type !== "probed") {
          line?.frames.push(JSON.stringify(frame));
        }
      }
    });
  });
  return lines;
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
