/** The real service under test, and what its clients need: addresses, secrets, tokens. */
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SignJWT } from "jose";
import { mintPresenceToken, TOKEN_TTL_MAX_MS } from "../../rooms/devices/token.ts";
import type { Inspection } from "../../src/actor/call.ts";
import { type Server, type ServerOptions, startServer } from "../e2e/server.ts";
import { getJson } from "./http.ts";

/** Plain data, so that it can be sent to another process. */
export interface Stage {
  /** Where clients connect: the server, or a proxy in front of it. */
  url: string;
  wsUrl: string;
  /** The server itself. */
  direct: string;
  jwtSecret: string;
  ingestToken: string;
  signingKey: string;
}

/** Starts `npm start` with secrets of its own. */
export async function startStage(
  options: ServerOptions = {},
): Promise<{ server: Server; stage: Stage }> {
  const secret = (name: string) => `${name}-${randomBytes(24).toString("hex")}`;
  const secrets = {
    jwtSecret: secret("jwt"),
    ingestToken: secret("ingest"),
    signingKey: secret("key"),
  };
  const vars = {
    JWT_SECRET: secrets.jwtSecret,
    PRESENCE_DO_INGEST_TOKEN: secrets.ingestToken,
    PRESENCE_DO_TOKEN_SIGNING_KEY: secrets.signingKey,
    ...options.vars,
  };
  const server = await startServer({ ...options, vars });
  return {
    server,
    stage: { ...secrets, url: server.url, wsUrl: server.wsUrl, direct: server.url },
  };
}

/** A user's JWT. Without `exp` among the claims it outlives every run. */
export function signUser(
  secret: string,
  userId: unknown,
  claims: Record<string, unknown> = {},
): Promise<string> {
  const exp = Math.floor(Date.now() / 1_000) + 12 * 3_600;
  return new SignJWT({ userId, exp, ...claims })
    .setProtectedHeader({ alg: "HS256" })
    .sign(new TextEncoder().encode(secret));
}

/** A presence token: it lets a phone watch the user's devices for as long as tokens may live. */
export async function signWatcher({ signingKey }: Stage, userId: string): Promise<string> {
  const grant = { user_id: userId, device_id: userId, ttlMs: TOKEN_TTL_MAX_MS };
  return (await mintPresenceToken(grant, signingKey)).token;
}

/** What an actor reports of itself; the request wakes it. `actor`: such as `presence/lobby`. */
export function inspectActor(
  { direct }: Stage,
  actor: string,
): Promise<Pick<Inspection, "sessions" | "silent"> & { starts: number }> {
  return getJson(`${direct}/debug/actors/${actor}`);
}

/** The process ids of the server's runtimes: the one that runs Rollcall, and wrangler's proxy. */
export function runtimesOf(server: Server): { workerd: number; proxy: number } {
  const all = server.processes().filter(({ command }) => /workerd\S* serve/.test(command));
  // Only the proxy listens on the port.
  const isProxy = (command: string) => command.includes(`entry=localhost:${server.port}`);
  const workerd = all.find(({ command }) => !isProxy(command));
  const proxy = all.find(({ command }) => isProxy(command));
  if (!workerd || !proxy) throw new Error("a runtime of the server is not to be found");
  return { workerd: workerd.pid, proxy: proxy.pid };
}

/** Whether wrangler restarted the runtime because a source file changed: the run then proves nothing. */
export function wasReloaded({ logs }: Pick<Server, "logs">): boolean {
  return /Reloading local server/.test(logs);
}

/** Writes the server's log to a file, and returns its path. */
export function saveLog(run: string, seed: number, { logs }: Pick<Server, "logs">): string {
  const file = join(tmpdir(), `rollcall-${run}-${seed}.log`);
  writeFileSync(file, logs);
  return file;
}

/** Our own log lines that report a failure, by event. */
export function failuresIn(logs: string): Map<string, string[]> {
  const failures = new Map<string, string[]>();
  const event = /"event":"(\w+_(?:failed|unreachable|interrupted|not_set|not_stored))"/;
  for (const line of logs.split("\n")) {
    const name = event.exec(line)?.[1];
    if (name) failures.set(name, [...(failures.get(name) ?? []), line]);
  }
  return failures;
}

/** Writes a line of cells, padded to columns of these widths. */
export function printRow(widths: readonly number[], cells: readonly unknown[]): void {
  print(cells.map((cell, i) => String(cell).padEnd(widths[i] ?? 0)).join(""));
}

/** Writes a line to the terminal. */
export function print(line = ""): void {
  process.stdout.write(`${line}\n`);
}
