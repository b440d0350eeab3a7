/**
 * `npm run fuzz [-- --seconds 30 --seed N --case I]`: hostile input to every route and socket of the
 * real server, while a witness goes on as if nothing were. See README.md.
 */
import { randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { type ClientRequest, request as httpRequest } from "node:http";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { SignJWT } from "jose";
import { WebSocket as StockSocket } from "ws";
import { VeraniClient } from "../../client/client.ts";
import { FanoutClient, publish } from "../../client/fanout.ts";
import { mintPresenceToken } from "../../rooms/devices/token.ts";
import { type Server, startServer } from "../e2e/server.ts";
import { Random, seedOf } from "../kit/random.ts";
import {
  METHODS,
  mutateBytes,
  mutateHeaders,
  mutateJson,
  mutatePath,
  mutateQuery,
  type Passes,
  ROUTES,
  SOCKETS,
  USER,
} from "./grammar.ts";

/** Cases under way at once. */
const WORKERS = 6;
/** Generous, for machines that stall: a request that has no answer by then hangs. */
const ANSWER_MS = 20_000;
const WITNESS_MS = 10_000;
/**
 * What the runtimes' memory may grow by after the first third of the run: so much, or so much for
 * each case. `wrangler dev` itself grows by about 70 KiB with each request, also with one that no
 * route takes, and gives little back.
 */
const GROWTH_MIB = 384;
const GROWTH_KIB_PER_CASE = 300;
/** Above every limit of a route, sent without a Content-Length. */
const OVERSIZE_BYTES = 1_500_000;
const SHOWN = 300;
/** Time until every connection of a run is known to be gone: streams notice within 20 s. */
const GHOST_MS = 60_000;

interface Case {
  what: string;
  fault?: string;
}

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "30" },
    seed: { type: "string" },
    case: { type: "string" },
  },
});
const seed = seedOf(values.seed);
const seconds = Number(values.seconds);
const only = values.case === undefined ? undefined : Number(values.case);
const say = (line: string): boolean => process.stdout.write(`${line}\n`);

/** In every hostile input, and never in what the server may log. */
const marker = `zq${randomBytes(6).toString("hex")}`;
const secrets = {
  JWT_SECRET: `jwt-${randomBytes(24).toString("hex")}`,
  PRESENCE_DO_INGEST_TOKEN: `ingest-${randomBytes(24).toString("hex")}`,
  PRESENCE_DO_TOKEN_SIGNING_KEY: `key-${randomBytes(24).toString("hex")}`,
};

async function makePasses(): Promise<Passes> {
  const jwt = await new SignJWT({ userId: "fuzz", workspaces: [{ id: "fuzz", role: "owner" }] })
    .setProtectedHeader({ alg: "HS256" })
    .setExpirationTime("1h")
    .sign(new TextEncoder().encode(secrets.JWT_SECRET));
  const grant = { user_id: USER, device_id: USER };
  const { token } = await mintPresenceToken(grant, secrets.PRESENCE_DO_TOKEN_SIGNING_KEY);
  return { jwt, presence: token, ingest: secrets.PRESENCE_DO_INGEST_TOKEN };
}

// ── Requests ────────────────────────────────────────────────────────────────────────────────────

function judge(status: number, path: string): string | undefined {
  if (status < 500) return undefined;
  // The one 503 that is documented for a server configured as this one is: no upstream.
  if (status === 503 && path.startsWith("/api/llm/")) return undefined;
  return `answered ${status}`;
}

async function fuzzRequest(port: number, passes: Passes, random: Random): Promise<Case> {
  const route = random.pick(ROUTES);
  const path = random.chance(0.15) ? mutatePath(route.path, random, marker) : route.path;
  const method = random.chance(0.25) ? random.pick(METHODS) : route.method;
  const query = mutateQuery(route.query?.(passes, random) ?? {}, random, marker);
  const valid: Record<string, string> = { "Content-Type": "application/json" };
  if (route.bearer) valid.Authorization = `Bearer ${passes[route.bearer]}`;
  const headers = mutateHeaders(valid, random, marker);
  let body: Buffer | undefined;
  if (route.body && method !== "GET" && method !== "HEAD") {
    const text = mutateJson(route.body(random) as Parameters<typeof mutateJson>[0], random, marker);
    body = mutateBytes(text, random);
    if (random.chance(0.03)) body = Buffer.concat([body, Buffer.alloc(OVERSIZE_BYTES, 0x20)]);
  }
  const chunked = random.chance(0.3);
  const abort = random.chance(0.03);
  const what =
    `${method} ${path}${query.replaceAll(/token=[^&]{40,}/g, "token=…")} ` +
    `${JSON.stringify(headers).replaceAll(/Bearer [^"]{40,}/g, "Bearer …")} ` +
    (body ? `${body.length} bytes${chunked ? " chunked" : ""}: ${body.toString("latin1")}` : "");

  return new Promise((resolve) => {
    let asked: ClientRequest;
    const done = (fault?: string): void => {
      clearTimeout(timer);
      asked?.destroy();
      resolve(fault === undefined ? { what } : { what, fault });
    };
    const timer = setTimeout(() => done(`no answer in ${ANSWER_MS} ms`), ANSWER_MS);
    try {
      asked = httpRequest({
        host: "127.0.0.1",
        port,
        method,
        path: path + query,
        headers: {
          ...headers,
          ...(body && !chunked ? { "Content-Length": String(body.length) } : {}),
        },
        agent: false,
      });
    } catch (error) {
      // Node's own parser does not let it out: no input for the server.
      clearTimeout(timer);
      return resolve({ what: `${what} (not sent: ${error})` });
    }
    asked.on("error", () => done());
    asked.on("upgrade", (_, socket) => {
      socket.destroy();
      done();
    });
    asked.on("response", (response) => {
      const { statusCode = 0 } = response;
      const fault = judge(statusCode, path);
      response.on("error", () => done(fault));
      response.on("close", () => done(fault));
      const text: Buffer[] = [];
      if (response.headers["content-type"]?.includes("event-stream")) {
        setTimeout(() => done(fault), random.int(0, 300));
      } else {
        response.on("data", (chunk: Buffer) => text.push(chunk));
        response.on("end", () =>
          done(fault && `${fault}: ${Buffer.concat(text).subarray(0, SHOWN)}`),
        );
      }
    });
    if (body && chunked) {
      for (let at = 0; at < body.length; at += 65_536) asked.write(body.subarray(at, at + 65_536));
    } else if (body) asked.write(body);
    asked.end();
    if (abort) setTimeout(() => done(), random.int(0, 20));
  });
}

/** Bytes that are hardly HTTP. What counts is that the server outlives them. */
async function fuzzBytes(port: number, passes: Passes, random: Random): Promise<Case> {
  const route = random.pick(ROUTES);
  const text = random.pick([
    `${route.method} ${route.path} HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n`,
    `POST ${route.path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    `POST ${route.path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n${marker}`,
    `POST ${route.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${passes.ingest}\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"half":`,
    `GET ${route.path} HTTP/1.1\r\nHost: x\r\nHost: y\r\n${"A: b\r\n".repeat(random.int(1, 3_000))}\r\n`,
    `GET //${marker}\\..\\ HTTP/1.1\r\nHost: x\r\n\r\n`,
    `GET http://${marker}.example/ HTTP/1.1\r\nHost: x\r\n\r\n`,
    `GET ${route.path} HTTP/1.1\r\nHost: \u0000\r\n\r\n`,
    `GET ${route.path} HTTP/9.9\r\n\r\n`,
    `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`,
    randomText(random),
  ]);
  await new Promise<void>((resolve) => {
    const socket = connect(port, "127.0.0.1", () => socket.write(mutateBytes(text, random)));
    socket.on("error", () => {}).on("close", () => resolve());
    socket.resume();
    setTimeout(() => socket.destroy(), random.int(20, 300));
  });
  return { what: `bytes ${JSON.stringify(text)}` };
}

function randomText(random: Random): string {
  return Array.from({ length: 200 }, () => String.fromCharCode(random.int(0, 255))).join("");
}

// ── Sockets ─────────────────────────────────────────────────────────────────────────────────────

async function fuzzSocket(port: number, passes: Passes, random: Random): Promise<Case> {
  const target = random.pick(SOCKETS);
  const headers = { Authorization: `Bearer ${passes.jwt}` };
  const url = `ws://127.0.0.1:${port}${target.path(passes, random)}`;
  const socket = new StockSocket(url, target.name === "fanout" ? { headers } : {});
  const sent: string[] = [];
  const what = () => `socket ${target.name}: ${sent.join(" | ")}`;
  const refused = await new Promise<string | undefined>((resolve) => {
    const timer = setTimeout(() => resolve(`no upgrade in ${ANSWER_MS} ms`), ANSWER_MS);
    const settle = (fault?: string): void => {
      clearTimeout(timer);
      resolve(fault);
    };
    socket.on("open", () => settle());
    socket.on("unexpected-response", (_, { statusCode = 0 }) => {
      settle(statusCode >= 500 ? `the upgrade was answered ${statusCode}` : "");
    });
    socket.on("error", () => settle(""));
  });
  if (refused !== undefined) {
    socket.terminate();
    return refused === "" ? { what: what() } : { what: what(), fault: refused };
  }
  let fault: string | undefined;
  socket.on("close", (code) => {
    // 1011: a bug or a failure of the server's, as ERRORS has it.
    if (code === 1011) fault = "closed with 1011";
  });
  // Now and then a storm, as fast as it goes.
  const isStorm = random.chance(0.08);
  const frames = isStorm ? random.int(150, 400) : random.int(1, 12);
  for (let i = 0; i < frames && socket.readyState === socket.OPEN; i++) {
    const frame = target.frame(random);
    const text =
      typeof frame === "string"
        ? frame
        : mutateJson(frame as Parameters<typeof mutateJson>[0], random, marker);
    if (sent.length < 20) sent.push(text.slice(0, SHOWN));
    const way = random.unit();
    try {
      if (way < 0.02) socket.send(`${text}${" ".repeat(70_000)}`);
      else if (way < 0.07) socket.send(mutateBytes(text, random), { binary: true });
      else if (way < 0.12) {
        socket.send(text.slice(0, 3), { fin: false });
        socket.send(text.slice(3));
      } else if (way < 0.14) {
        // Not in the language of frames at all: an unmasked one, a reserved bit, a lying length.
        rawOf(socket)?.write(Buffer.from([random.int(0, 255), random.int(0, 255), 1, 2, 3, 4, 5]));
      } else socket.send(text);
    } catch {
      break;
    }
    if (!isStorm && random.chance(0.2)) await sleep(random.int(0, 20));
  }
  await sleep(random.int(0, 150));
  if (random.chance(0.5)) socket.terminate();
  else {
    socket.close(random.pick([1000, 1001, 3000, 4999]), random.chance(0.3) ? marker : "");
    setTimeout(() => socket.terminate(), 1_000);
  }
  return fault === undefined ? { what: what() } : { what: what(), fault };
}

/** The TCP connection below a socket of the package `ws`. */
function rawOf(socket: StockSocket): { write(bytes: Buffer): boolean } | undefined {
  return (socket as unknown as { _socket?: { write(bytes: Buffer): boolean } })._socket;
}

// ── The witness, and what is seen of the server ─────────────────────────────────────────────────

/** One who behaves: in a presence room and subscribed, published to every half second. */
class Witness {
  readonly faults: string[] = [];
  slowestMs = 0;
  published = 0;
  readonly #presence: VeraniClient;
  readonly #fanout: FanoutClient;
  readonly #publisher: { url: string; token: string };
  #running = true;

  constructor(server: Server, token: string) {
    this.#presence = new VeraniClient(`${server.wsUrl}/ws/presence?room=witness`, { token });
    this.#fanout = new FanoutClient(server.wsUrl, {
      token,
      onClose: ({ code }) => this.#lost("fan-out", code),
    });
    this.#presence.onClose(({ code }) => this.#lost("presence", code));
    this.#fanout.subscribe({ type: "witness" }, ({ payload }) => payload);
    this.#publisher = { url: server.url, token };
  }

  #lost(which: string, code: number): void {
    if (this.#running) this.faults.push(`the witness's ${which} connection closed with ${code}`);
  }

  async ready(): Promise<void> {
    await this.#presence.waitForConnection();
    while (this.#fanout.state !== "connected") await sleep(20);
  }

  async run(until: () => boolean): Promise<void> {
    for (let n = 1; !until(); n++) {
      const startedMs = performance.now();
      try {
        const message = { userId: "witness", type: "witness", payload: { n } };
        const { results } = await publish<{ n: number }>(this.#publisher, message);
        if (results[0]?.n !== n) this.faults.push(`publish ${n} to the witness was not acked`);
        this.published += 1;
      } catch (error) {
        this.faults.push(`publish ${n} to the witness failed: ${error}`);
      }
      const tookMs = performance.now() - startedMs;
      this.slowestMs = Math.max(this.slowestMs, tookMs);
      if (tookMs > WITNESS_MS) this.faults.push(`publish ${n} took ${Math.round(tookMs)} ms`);
      await sleep(500);
    }
  }

  /** What the witness should know at the end, and does not. */
  check(): void {
    if (!this.#presence.roster.has("witness")) this.faults.push("the witness is not in its room");
  }

  stop(): void {
    this.#running = false;
    this.#presence.close();
    this.#fanout.disconnect();
  }
}

/** Connections that hostile members left behind: all have gone. @returns a fault for each actor with some */
async function findGhosts(url: string): Promise<string[]> {
  const actors = ["presence/fuzz", "fanout/fuzz", `devices/${USER}`];
  const deadline = performance.now() + GHOST_MS;
  for (;;) {
    const ghosts: string[] = [];
    for (const actor of actors) {
      const response = await fetch(`${url}/debug/actors/${actor}`);
      const { sessions } = (await response.json()) as { sessions: number };
      if (sessions > 0) ghosts.push(`${sessions} ghosts in ${actor}`);
    }
    if (ghosts.length === 0 || performance.now() > deadline) return ghosts;
    await sleep(1_000);
  }
}

/** Process ids of the server's runtimes. */
function runtimesOf(server: Server): number[] {
  return server
    .processes()
    .filter(({ command }) => /workerd\S* serve/.test(command))
    .map(({ pid }) => pid)
    .sort();
}

/** Memory of the runtimes together, in MiB. */
function residentMib(pids: readonly number[]): number {
  let kib = 0;
  for (const pid of pids) {
    try {
      kib += Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0);
    } catch {
      // Gone: said elsewhere.
    }
  }
  return Math.round(kib / 1024);
}

/** What must not stand in a log: an input, a secret, a query with a token, a crash. */
function judgeLog(text: string, passes: Passes): string[] {
  const faults = new Set<string>();
  const hidden = [...Object.values(secrets), passes.jwt, passes.presence];
  for (const line of text.split("\n")) {
    const shown = line.slice(0, SHOWN);
    // workerd's own word on an aborted upgrade: names its URL, on a developer's screen only.
    if (line.includes("NOSENTRY")) continue;
    if (line.includes('{"event":"')) {
      if (line.includes(marker)) faults.add(`input in a line of ours: ${shown}`);
      if (/"(request|upgrade|handler|ingest|parse|timer|due|task)_failed"/.test(line)) {
        faults.add(`an unexpected failure: ${shown}`);
      }
    }
    // wrangler's own lines name the path that was asked for, which is no business of ours.
    if (hidden.some((secret) => line.includes(secret))) faults.add(`a secret in the log: ${shown}`);
    // Not `Uncaught exception: kj/…`, by which workerd notes that a client broke the protocol.
    if (/unhandled|panicked|Uncaught \(in|FATAL|SIGSEGV|SIGABRT/.test(line)) {
      faults.add(`the runtime says: ${shown}`);
    }
  }
  return [...faults];
}

// ── The run ─────────────────────────────────────────────────────────────────────────────────────

say(
  `fuzz: seed ${seed}, ${seconds} s; repeat with: npm run fuzz -- --seed ${seed} --seconds ${seconds}`,
);
const server = await startServer({ vars: secrets });
const faults: string[] = [];
const counts = { requests: 0, bytes: 0, sockets: 0 };
const memory: number[] = [];
const passes = await makePasses();
const witnessToken = await new SignJWT({ userId: "witness" })
  .setProtectedHeader({ alg: "HS256" })
  .sign(new TextEncoder().encode(secrets.JWT_SECRET));
const witness = new Witness(server, witnessToken);
await witness.ready();
const runtimes = runtimesOf(server);
/** Before this stands the command line, with the secrets that this run made up. */
const logFrom = server.logs.length;

let next = 0;
let endAt = performance.now() + seconds * 1000;
async function work(): Promise<void> {
  while (performance.now() < endAt) {
    const number = only ?? next++;
    if (only !== undefined) endAt = 0;
    // Each case is a function of the seed and its own number: whoever runs it draws the same.
    const random = new Random(seed, number);
    const kind = random.unit();
    const [name, play] =
      kind < 0.72
        ? (["requests", fuzzRequest] as const)
        : kind < 0.78
          ? (["bytes", fuzzBytes] as const)
          : (["sockets", fuzzSocket] as const);
    counts[name] += 1;
    const { what, fault } = await play(server.port, passes, random);
    if (only !== undefined) say(what);
    if (fault !== undefined) {
      faults.push(`case ${number}: ${fault}\n    ${what.slice(0, 4 * SHOWN)}`);
    }
  }
}
const isOver = (): boolean => performance.now() >= endAt;
async function watch(): Promise<void> {
  while (!isOver()) {
    memory.push(residentMib(runtimes));
    await sleep(500);
  }
}
await Promise.all([
  witness.run(isOver),
  watch(),
  ...Array.from({ length: only === undefined ? WORKERS : 1 }, work),
]);

await sleep(1_000);
witness.check();
if (only === undefined) faults.push(...(await findGhosts(server.url)));
const logs = server.logs.slice(logFrom);
faults.push(...witness.faults, ...judgeLog(logs, passes));
witness.stop();
const stillRuns = runtimesOf(server);
if (!server.isRunning || stillRuns.join() !== runtimes.join()) {
  faults.push(`the runtime did not survive: processes ${runtimes} became ${stillRuns}`);
}
const settled = memory.slice(Math.floor(memory.length / 3));
const growthMib = (settled.at(-1) ?? 0) - (settled[0] ?? 0);
const perCaseKib = (growthMib * 1024) / Math.max(1, (next * settled.length) / memory.length);
if (growthMib > GROWTH_MIB && perCaseKib > GROWTH_KIB_PER_CASE) {
  faults.push(`memory grew by ${growthMib} MiB, ${Math.round(perCaseKib)} KiB a case`);
}
await server.stop();

say("");
say(`requests          ${counts.requests}`);
say(`raw bytes         ${counts.bytes}`);
say(`sockets           ${counts.sockets}`);
say(
  `witness           ${witness.published} publishes acked, slowest ${Math.round(witness.slowestMs)} ms`,
);
say(
  `memory            ${memory[0]} MiB, then ${settled[0]}, at the end ${memory.at(-1)}; ${Math.round(perCaseKib)} KiB a case`,
);
say(`faults            ${faults.length}`);
for (const fault of faults.slice(0, 40)) say(`  ${fault}`);
if (faults.length > 0) {
  const file = join(tmpdir(), `rollcall-fuzz-${seed}.log`);
  writeFileSync(file, logs);
  say(`\nThe server's log: ${file}`);
}
if (/Reloading local server/.test(logs))
  say("A source file changed meanwhile: this run says nothing.");
if (faults.length > 0) say(`Repeat one case with: npm run fuzz -- --seed ${seed} --case N`);
process.exit(faults.length === 0 ? 0 : 1);
