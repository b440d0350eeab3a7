/** Native servers that Debian has: nats-server, and nginx with nchan. For those that are installed. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { serve, untilEnd } from "../kit/processes.ts";
import type { BenchServer } from "./server.ts";

const NATS = "/usr/sbin/nats-server";
const NGINX = "/usr/sbin/nginx";
const NCHAN = "/usr/lib/nginx/modules/ngx_nchan_module.so";

interface Native {
  /** What must be installed. */
  files: readonly string[];
  config(port: number, folder: string): string;
  args(config: string, folder: string): string[];
  /** What it prints once it listens. */
  ready: RegExp;
}

const NATIVES = {
  NATS: {
    files: [NATS],
    config: (port) => `
      listen: "127.0.0.1:-1"
      websocket { listen: "127.0.0.1:${port}", no_tls: true }`,
    args: (config) => ["-c", config],
    ready: /(Server is ready)/,
  },
  // One process, as each Worker here is. Each client may be as far behind as 1 000 messages.
  nchan: {
    files: [NGINX, NCHAN],
    config: (port, folder) => `
      load_module ${NCHAN};
      daemon off;
      master_process off;
      pid ${folder}/pid;
      error_log stderr notice;
      worker_rlimit_nofile 20000;
      events { worker_connections 19000; }
      http {
        access_log off;
        nchan_shared_memory_size 256M;
        server {
          listen 127.0.0.1:${port};
          nchan_channel_id room;
          nchan_message_buffer_length 1000;
          location = /sub { nchan_subscriber websocket; nchan_subscriber_first_message newest; }
          location = /pub { nchan_publisher http; }
        }
      }`,
    args: (config, folder) => ["-p", folder, "-c", config],
    ready: /(getrlimit)/,
  },
} satisfies Record<string, Native>;

/** @returns undefined, after a line that says why, where it cannot be measured here */
export async function startNative(name: keyof typeof NATIVES): Promise<BenchServer | undefined> {
  const { files, config, args, ready }: Native = NATIVES[name];
  if (!files.every((file) => existsSync(file))) {
    console.log(`${name} is not measured: ${files.join(" or ")} is not installed.`);
    return undefined;
  }
  const folder = mkdtempSync(join(tmpdir(), "bench-"));
  const port = await freePort();
  const file = join(folder, "conf");
  writeFileSync(file, config(port, folder));
  const [command = ""] = files;
  const place = { cwd: folder, env: process.env };
  const { pid, stop } = await serve(command, args(file, folder), place, ready);
  // It knows nothing of us, and would go on.
  process.once("exit", () => void stop());
  return untilEnd({
    ...{ url: `ws://127.0.0.1:${port}`, pid },
    async stop() {
      await stop();
      rmSync(folder, { recursive: true });
    },
  });
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => probe.once("listening", resolve));
  const { port } = probe.address() as { port: number };
  await new Promise((resolve) => probe.close(resolve));
  return port;
}
