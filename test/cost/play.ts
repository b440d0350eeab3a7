/** Plays simulated days, each in a runtime of its own. */
import { convertV4MiniflareOptions, Miniflare } from "miniflare";
import { bundleWorker, COMPATIBILITY_DATE, PROJECT } from "../kit/workers.ts";
import type { Counters } from "./bill.ts";
import { MINT_TOKEN } from "./model.ts";

const BY_HAND = { PINGED: "PingedRoom", WOKEN: "WokenRoom" };

/** What each Worker of a day needs. */
const WORKERS = {
  "days.worker.ts": {
    flags: ["nodejs_als"],
    actors: {
      ...{ PRESENCE: "PresenceRoom", FANOUT: "FanoutRoom", DEVICES: "DeviceRoom" },
      ...{ MOODS: "MoodRoom", SSE: "SseDevices", ...BY_HAND },
    },
    storage: {},
  },
  "workspace-days.worker.ts": {
    flags: ["nodejs_compat"],
    actors: { WORKSPACES: "WorkspaceRoom", ...BY_HAND },
    storage: { kvNamespaces: ["WORKSPACE_CLAIMS_VERSION"], d1Databases: ["DB"] },
  },
} as const;
type Entry = keyof typeof WORKERS;

/** The days of what this repository offers; the others are of designs that it replaces. */
export const OUR_DAYS = [
  ...["presence/rollcall", "devices/rollcall", "fanout/rollcall"],
  ...["moods/socket-1000", "moods/socket-100000", "moods/polling-1000", "moods/polling-100000"],
  ...["workspace/d1", "workspace/do"],
] as const;

/** As deployed: what a server for development does on top, such as counting its starts, costs rows. */
const BINDINGS = {
  ENVIRONMENT: "production",
  REQUIRE_AUTH: "true",
  JWT_SECRET: "cost-jwt-secret-0123456789-0123456789",
  PRESENCE_DO_INGEST_TOKEN: "cost-ingest-token-0123456789-0123456789",
  PRESENCE_DO_MINT_TOKEN: MINT_TOKEN,
  PRESENCE_DO_TOKEN_SIGNING_KEY: "cost-signing-key-0123456789-0123456789",
  PRESENCE_DO_KEEPALIVE_FLUSH_MS: "30000",
  PUBLISH_REQUIRES_SCOPE: "true",
  MOOD_SHARDS: "1",
  CONSOLE: "off",
};

/** The counters of `day`, such as `presence/rollcall`, for one user. */
async function play(entry: Entry, script: string, day: string): Promise<Counters> {
  const { flags, actors, storage } = WORKERS[entry];
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      modules: true,
      script,
      // sync-cf tells of each frame.
      handleStructuredLogs: ({ level, message }) => {
        if (level === "error") console.error(message);
      },
      compatibilityDate: COMPATIBILITY_DATE,
      compatibilityFlags: [...flags, "enable_request_signal", "unsafe_module", "experimental"],
      bindings: BINDINGS,
      ...(structuredClone(storage) as { kvNamespaces?: string[]; d1Databases?: string[] }),
      durableObjects: Object.fromEntries(
        Object.entries(actors).map(([name, className]) => [name, { className, useSQLite: true }]),
      ),
    }),
  );
  try {
    const answer = await miniflare.dispatchFetch(`http://cost.test/${day}`);
    if (!answer.ok) throw new Error(`${day}: ${answer.status} ${await answer.text()}`);
    return (await answer.json()) as Counters;
  } finally {
    await miniflare.dispose();
  }
}

/** Plays `days` two at a time, because CI has two cores. `root`: of the checkout; default: this one. */
export async function playAll(
  days: readonly string[],
  root: string = PROJECT,
): Promise<Map<string, Counters>> {
  const scripts = new Map<Entry, Promise<string>>();
  const played = new Map<string, Counters>();
  const waiting = [...new Set(days)];
  const work = async (): Promise<void> => {
    for (let day = waiting.shift(); day !== undefined; day = waiting.shift()) {
      const isWorkspace = day.startsWith("workspace/");
      const entry: Entry = isWorkspace ? "workspace-days.worker.ts" : "days.worker.ts";
      // clock.worker.ts has an effect of its own.
      const script = scripts.get(entry) ?? bundleWorker(`test/cost/${entry}`, root, true);
      scripts.set(entry, script);
      const startedAt = performance.now();
      played.set(day, await play(entry, await script, day));
      console.error(`  ${day}: ${((performance.now() - startedAt) / 1000).toFixed(1)} s`);
    }
  };
  await Promise.all([work(), work()]);
  return played;
}
