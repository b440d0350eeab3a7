/** A deployment whose Worker in front and whose rooms behind it may be of different releases. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseEnv } from "node:util";
import { build } from "esbuild";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";

/** `previous` is the bundle in previous/, `current` this tree. */
export type Release = "previous" | "current";

const PROJECT = fileURLToPath(new URL("../..", import.meta.url));
const PREVIOUS = fileURLToPath(new URL("previous/worker.js", import.meta.url));

/** Binding → class, as in wrangler.toml. */
const ROOMS = {
  PRESENCE: "PresenceRoom",
  FANOUT: "FanoutRoom",
  DEVICES: "DeviceRoom",
  MOODS: "MoodRoom",
} as const;

export const secrets = parseEnv(readFileSync(`${PROJECT}/.dev.vars.example`, "utf8"));

/** As in wrangler.toml. */
const VARS = {
  CONSOLE: "off",
  PRESENCE_DO_KEEPALIVE_FLUSH_MS: "30000",
  PUBLISH_REQUIRES_SCOPE: "false",
  MOOD_SHARDS: "1",
};

/** In place of the second Worker. */
const answerUnavailable = () => new Response(null, { status: 503 });

let current: Promise<string> | undefined;

async function bundleCurrent(): Promise<string> {
  const bundled = await build({
    entryPoints: ["src/server/worker.ts"],
    absWorkingDir: PROJECT,
    bundle: true,
    write: false,
    format: "esm",
    target: "es2024",
    conditions: ["workerd", "worker", "browser"],
    external: ["cloudflare:*", "node:*"],
  });
  return bundled.outputFiles[0]?.text ?? "";
}

/** The main Worker of a release as one module. */
export async function scriptOf(release: Release): Promise<string> {
  if (release === "previous") return readFileSync(PREVIOUS, "utf8");
  current ??= bundleCurrent();
  return current;
}

export interface DeploymentOptions {
  /** Whose routes answer. */
  front: Release;
  /** Whose classes the actors are. */
  rooms: Release;
  /** Variables that differ from those of wrangler.toml. */
  vars?: Record<string, string>;
  /** Folder that keeps the actors' storage for the next deployment; default: none does. */
  persistTo?: string;
  /** A module in front of the rooms' own, which it imports as `./worker.js`. */
  wrapper?: string;
}

export class Deployment {
  readonly url: string;
  readonly wsUrl: string;
  readonly runtime: Miniflare;

  private constructor(runtime: Miniflare, url: string) {
    this.runtime = runtime;
    this.url = url;
    this.wsUrl = url.replace("http", "ws");
  }

  /** Starts a runtime of its own and waits until it answers. */
  static async start(options: DeploymentOptions): Promise<Deployment> {
    const { persistTo, vars, wrapper } = options;
    const worker = (name: string, contents: string) => ({
      name,
      modules: [
        ...(wrapper ? [{ type: "ESModule" as const, path: "wrapper.js", contents: wrapper }] : []),
        { type: "ESModule" as const, path: "worker.js", contents },
      ],
      modulesRoot: "/",
      compatibilityDate: "2026-10-15",
      compatibilityFlags: ["nodejs_als", "enable_request_signal"],
      bindings: { ...VARS, ...secrets, ...vars },
      serviceBindings: { WORKSPACE: answerUnavailable },
      durableObjects: Object.fromEntries(
        Object.entries(ROOMS).map(([binding, className]) => [
          binding,
          { className, useSQLite: true, ...(name === "front" && { scriptName: "rooms" }) },
        ]),
      ),
    });
    const runtime = new Miniflare(
      convertV4MiniflareOptions({
        ...(persistTo && { resourcePersistencePath: persistTo }),
        workers: [
          {
            ...worker("front", await scriptOf(options.front)),
            unsafeDirectSockets: [{ host: "127.0.0.1", port: 0 }],
          },
          worker("rooms", await scriptOf(options.rooms)),
        ],
      }),
    );
    await runtime.ready;
    const { port } = await runtime.unsafeGetDirectURL("front");
    return new Deployment(runtime, `http://127.0.0.1:${port}`);
  }

  stop(): Promise<void> {
    return this.runtime.dispose();
  }
}
