import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseEnv } from "node:util";
import { jwtVerify } from "jose";
import { describe, expect, onTestFinished, test } from "vitest";
import { type Server, type ServerOptions, startServer } from "./server.ts";

const PROJECT = fileURLToPath(new URL("../..", import.meta.url));

async function start(options?: ServerOptions): Promise<Server> {
  const server = await startServer(options);
  onTestFinished(() => server.stop());
  return server;
}

function runToken(...args: string[]): string {
  const { JWT_SECRET: _, ...env } = process.env;
  return execFileSync("npm", ["run", "-s", "token", "--", ...args], {
    cwd: PROJECT,
    env,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
  });
}

describe("npm start", () => {
  test("leaves no process behind, whichever signal ends it", { tags: ["slow"] }, async () => {
    const server = await start();
    for (const end of [
      (npm: number) => process.kill(npm, "SIGTERM"),
      // Ctrl-C and a closed terminal reach the whole group; npm alone ignores them.
      (npm: number) => process.kill(-npm, "SIGINT"),
      (npm: number) => process.kill(-npm, "SIGHUP"),
      (npm: number) => process.kill(npm, "SIGKILL"),
      (npm: number) => process.kill(-npm, "SIGKILL"),
    ]) {
      if (!server.isRunning) await server.start();
      const before = server.processes();
      expect(before.filter(({ command }) => command.includes("workerd serve"))).not.toEqual([]);
      const npm = before.find(({ parent }) => parent === process.pid);
      if (!npm) throw new Error("no npm among our children");

      end(npm.pid);

      await expect.poll(() => server.processes(), { timeout: 15_000 }).toEqual([]);
      await expect.poll(() => server.isRunning).toBe(false);
    }
  });

  test("reports that its port is taken, and ends", async () => {
    const other = createServer().listen(0, "127.0.0.1");
    await once(other, "listening");
    onTestFinished(() => {
      other.close();
    });
    const address = other.address();
    if (address === null || typeof address === "string") throw new Error("no address");

    await expect(startServer({ port: address.port })).rejects.toThrow(/Address already in use/);
  });

  test("writes .dev.vars with every name of the example", async () => {
    await start();
    const names = (file: string) =>
      Object.keys(parseEnv(readFileSync(`${PROJECT}${file}`, "utf8")));
    expect(existsSync(`${PROJECT}.dev.vars`)).toBe(true);
    expect(names(".dev.vars")).toEqual(expect.arrayContaining(names(".dev.vars.example")));
  });

  test("leaves no copy of .dev.vars behind: the next start removes that of one that was killed", {
    tags: ["slow"],
  }, async () => {
    const server = await start();
    const copies = () =>
      server
        .processes()
        .map(({ pid }) => `${PROJECT}.wrangler/start-${pid}/.dev.vars`)
        .filter((file) => existsSync(file));
    const killed = copies();
    expect(killed).toHaveLength(1);
    for (const { pid } of server.processes()) process.kill(pid, "SIGKILL");
    await expect.poll(() => server.isRunning, { timeout: 15_000 }).toBe(false);

    await server.start();
    const stopped = copies();
    expect(stopped).toHaveLength(1);
    await server.stop();

    expect([...killed, ...stopped].filter((file) => existsSync(file))).toEqual([]);
  });

  test("ends when its caller is killed", async () => {
    const persistTo = mkdtempSync(join(tmpdir(), "rollcall-e2e-"));
    onTestFinished(() => rmSync(persistTo, { recursive: true, force: true, maxRetries: 5 }));
    const caller = spawn(
      process.execPath,
      [
        "--input-type=module-typescript",
        "-e",
        `import { startServer } from ${JSON.stringify(new URL("./server.ts", import.meta.url).href)};
         const server = await startServer({ persistTo: ${JSON.stringify(persistTo)} });
         console.log(JSON.stringify(server.processes().map(({ pid }) => pid)));
         setInterval(() => {}, 1000);`,
      ],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    onTestFinished(() => {
      caller.kill("SIGKILL");
    });
    const [line] = (await once(caller.stdout, "data")) as [Buffer];
    const pids = JSON.parse(line.toString()) as number[];
    expect(pids.length).toBeGreaterThan(3);

    caller.kill("SIGKILL");

    const isAlive = (pid: number) => {
      try {
        return process.kill(pid, 0);
      } catch {
        return false;
      }
    };
    await expect.poll(() => pids.filter(isAlive), { timeout: 15_000 }).toEqual([]);
  });
});

describe("npm run token", () => {
  test("prints a token signed with JWT_SECRET of .dev.vars, and nothing else", async () => {
    const output = runToken("--user", "alice", "--workspace", "acme:owner", "--ttl", "60");
    const { JWT_SECRET } = parseEnv(readFileSync(`${PROJECT}.dev.vars`, "utf8"));
    const { payload } = await jwtVerify(output.trim(), new TextEncoder().encode(JWT_SECRET));

    expect(payload).toMatchObject({
      userId: "alice",
      sub: "alice",
      workspaces: [{ id: "acme", role: "owner" }],
    });
    expect((payload.exp ?? 0) - (payload.iat ?? 0)).toBe(60);
    expect(output.trim()).not.toMatch(/\s/);
  });

  test("prints a token that the server accepts", async () => {
    const server = await start();
    const ask = (token: string) =>
      fetch(`${server.url}/api/v1/presence`, { headers: { authorization: `Bearer ${token}` } });

    expect((await ask("nonsense")).status).toBe(401);
    expect((await ask(runToken("--user", "alice").trim())).status).toBe(200);
  });

  test("explains its flags when one is unknown or malformed", () => {
    for (const args of [[], ["--user", "a", "--ttl", "soon"], ["--usr", "a"]]) {
      expect(() => runToken(...args)).toThrow(/usage: npm run -s token/);
    }
  });
});
