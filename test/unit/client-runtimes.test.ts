import { createContext, runInContext } from "node:vm";
import { type BuildOptions, build } from "esbuild";
import { beforeAll, describe, expect, it } from "vitest";

/**
 * The clients in contexts that have only what a runtime has. A context of `node:vm` has the language
 * itself; everything else must be given.
 */

const ENTRY = `
  import { VeraniClient } from "./client/client.ts";
  import { FanoutClient, publish } from "./client/fanout.ts";
  import { joinMoods } from "./client/moods.ts";
  import { watchDevices } from "./client/devices.ts";
  Object.assign(globalThis, { VeraniClient, FanoutClient, publish, joinMoods, watchDevices });
`;
/** What the oldest supported browsers understand. */
const TARGETS = ["safari17.0", "chrome119", "firefox120", "es2022"];
let script = "";

const options: BuildOptions = {
  stdin: { contents: ENTRY, resolveDir: process.cwd(), loader: "ts" },
  bundle: true,
  format: "iife",
  write: false,
  logLevel: "silent",
};

beforeAll(async () => {
  const { outputFiles } = await build(options);
  script = outputFiles?.[0]?.text ?? "";
});

/** A WebSocket that opens, says hello and keeps what is sent. */
class Socket {
  static all: Socket[] = [];
  readonly url: string;
  readonly sent: string[] = [];
  readyState = 0;
  readonly #listeners: [string, (event: unknown) => void][] = [];

  constructor(url: string) {
    this.url = url;
    Socket.all.push(this);
    queueMicrotask(() => {
      this.readyState = 1;
      this.#fire("open", {});
      const data = { protocol: 2, session: "s", epoch: "e", seq: 0, pingMs: 5_000 };
      this.#fire("message", { data: JSON.stringify({ type: "hello", data }) });
    });
  }

  addEventListener(type: string, listener: (event: unknown) => void): void {
    this.#listeners.push([type, listener]);
  }

  send(text: string): void {
    this.sent.push(text);
  }

  close(): void {
    this.readyState = 3;
  }

  #fire(type: string, event: unknown): void {
    for (const [name, listener] of this.#listeners) if (name === type) listener(event);
  }
}

const timers = { setTimeout, clearTimeout, queueMicrotask };
const web = { URL, URLSearchParams, TextEncoder, TextDecoder, AbortController };
/** `crypto` of an insecure origin: no `randomUUID`, no `subtle`. */
const insecure = {
  getRandomValues: (bytes: Uint8Array<ArrayBuffer>) => crypto.getRandomValues(bytes),
};
const answer = async () => new Response('{"clientCount":0,"results":[]}');

const page = {
  document: { hidden: false },
  location: { href: "http://test.example/app" },
  addEventListener() {},
  navigator: {},
};

/** Each runtime with what it has of what is not the language. */
const RUNTIMES: Record<string, object> = {
  "a page of an insecure origin": { ...timers, ...web, ...page, crypto: insecure, fetch: answer },
  "Safari 17.0": {
    ...timers,
    ...web,
    ...page,
    crypto: insecure,
    fetch: answer,
    sessionStorage: { getItem: () => null, setItem() {}, removeItem() {} },
  },
  // Its URLSearchParams and its events are partly missing, and there is no document.
  "React Native": {
    ...timers,
    URL,
    URLSearchParams,
    crypto: insecure,
    fetch: answer,
    TextEncoder,
    TextDecoder,
    AbortController,
    navigator: { product: "ReactNative" },
  },
  Workers: { ...timers, ...web, crypto, fetch: answer },
  Deno: { ...timers, ...web, crypto, fetch: answer, addEventListener() {}, navigator: {} },
  Bun: { ...timers, ...web, crypto, fetch: answer },
};

describe("the clients", () => {
  it.each(Object.entries(RUNTIMES))("connect, emit and publish in %s", async (_, has) => {
    Socket.all = [];
    const context = createContext({ ...has, WebSocket: Socket });
    (context as Record<string, unknown>).globalThis = context;
    const run = (code: string): Promise<unknown> =>
      runInContext(`(async () => { ${code} })()`, context) as Promise<unknown>;
    runInContext(script, context);
    await run(`
      const client = new VeraniClient("ws://test.example/ws", { token: () => "t" });
      await client.waitForConnection();
      client.emit("said", { text: "hello" });
      client.emitWithAck("asked", {}).catch(() => {});
      const inbox = new FanoutClient("ws://test.example", { token: "t" });
      inbox.subscribe({ type: "note" }, () => {});
      const me = joinMoods({ url: "http://test.example", onState() {} });
      const watch = watchDevices("ws://test.example/ws/devices", { onDevices() {} });
      await new Promise((resolve) => setTimeout(resolve, 0));
      me.leave();
      watch.close();
      inbox.disconnect();
      client.close();
      return publish({ url: "https://test.example/live", token: "t" }, { userId: "ann" });
    `);
    expect(Socket.all[0]?.sent.join()).toContain('"said"');
    expect(Socket.all).toHaveLength(4);
  });

  it.each(TARGETS)("are written in syntax that %s has", async (target) => {
    // esbuild rewrites newer syntax and fails where it cannot: the built-ins are tested above.
    await expect(build({ ...options, target })).resolves.toMatchObject({ errors: [] });
  });

  it("use no built-in that Safari 17.0, Chrome 119 or Firefox 120 lack", () => {
    const newer =
      /Promise\.(withResolvers|try)|AbortSignal\.any|Array\.fromAsync|Object\.groupBy|Map\.groupBy|URL\.parse|\.isWellFormed|\.toWellFormed|RegExp\.escape|Iterator\.from|\.(union|intersection|difference)\(/;
    expect(script.match(newer)?.[0]).toBeUndefined();
  });

  it("throw where there is no WebSocket, and name the option", () => {
    const context = createContext({ ...timers, ...web, crypto, fetch: answer });
    (context as Record<string, unknown>).globalThis = context;
    runInContext(script, context);
    for (const code of [
      `new VeraniClient("ws://test/ws")`,
      `new FanoutClient("ws://test", { token: "t" })`,
      `joinMoods({ url: "http://test", onState() {} })`,
    ]) {
      expect(() => runInContext(code, context)).toThrow(/option WebSocket/);
    }
  });

  it("keep the path of the url that they publish to", async () => {
    const urls: string[] = [];
    const context = createContext({
      ...timers,
      ...web,
      crypto,
      fetch: async (url: string) => {
        urls.push(url);
        return answer();
      },
    });
    (context as Record<string, unknown>).globalThis = context;
    runInContext(script, context);
    for (const url of ["https://test/live", "https://test/live/?a=1", "https://test"]) {
      await runInContext(`publish({ url: "${url}", token: "t" }, { userId: "ann" })`, context);
    }
    expect(urls).toEqual([
      "https://test/live/publish",
      "https://test/live/publish",
      "https://test/publish",
    ]);
  });
});
