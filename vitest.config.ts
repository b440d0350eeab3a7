import { readFileSync } from "node:fs";
import { parseEnv } from "node:util";
import { cloudflareTest } from "@cloudflare/vitest-plugin";
import { Response as MiniflareResponse } from "miniflare";
import { defineConfig } from "vitest/config";
import { buildAssets } from "./scripts/assets.ts";
import { serveConsumer } from "./test/kit/consumer.ts";
import { CONSUMER } from "./test/room/consumer.ts";

/**
 * Durable Objects that exist for tests only: binding → class exported by test/room/worker.ts,
 * which also re-exports src/server/worker.ts. The types of the bindings stand in test/room/env.d.ts.
 */
const TEST_OBJECTS: Record<string, string> = {
  LAB: "Lab",
  TIGHT: "Tight",
  FALLBACK: "FallbackRoom",
  FAULTY: "Faulty",
  PLANNED: "Planned",
  ARENA: "Arena",
  LASTING_ARENA: "LastingArena",
  LINE: "Line",
  SHORT_LINE: "ShortLine",
  LASTING_LINE: "LastingLine",
  INCURIOUS_LINE: "IncuriousLine",
  CATCHING: "Catching",
  CREW: "Crew",
  BOARD: "Board",
  CROWD: "Crowd",
  FOCUS: "Focus",
  MOODS4: "FourMoodShards",
  MOODS8: "EightMoodShards",
};

/** The values every clone has, whatever stands in a developer's .dev.vars. */
const exampleSecrets = parseEnv(readFileSync(".dev.vars.example", "utf8"));

// wrangler.toml names their folder.
await buildAssets();

export default defineConfig({
  test: {
    // Two cores are what CI has; workerd and vitest's own process need room as well.
    maxWorkers: 2,
    tags: [
      { name: "slow", description: "Watches for long, or installs: a part of `npm run test:slow`" },
    ],
    projects: [
      {
        test: {
          name: "unit",
          environment: "node",
          include: ["test/unit/**/*.test.{ts,tsx}"],
        },
      },
      {
        plugins: [
          cloudflareTest({
            main: "./test/room/worker.ts",
            wrangler: { configPath: "./wrangler.toml" },
            miniflare: {
              bindings: {
                ...exampleSecrets,
                ENVIRONMENT: "development",
                WEBHOOKS: JSON.stringify([
                  { url: `${CONSUMER}/all`, rooms: "hook-*" },
                  { url: `${CONSUMER}/left`, rooms: "hook-two-*", events: ["user.left"] },
                  { rooms: "pull-*" },
                ]),
                LARGE_ROOMS: "large-*:4",
              },
              // No test reaches another server.
              outboundService: (request) =>
                request.url.startsWith(CONSUMER)
                  ? serveConsumer(request, exampleSecrets.WEBHOOK_SECRET ?? "", MiniflareResponse)
                  : new MiniflareResponse("Not here", { status: 502 }),
              // The second Worker has a project of its own.
              serviceBindings: { WORKSPACE: () => new Response(null, { status: 503 }) },
              durableObjects: Object.fromEntries(
                Object.entries(TEST_OBJECTS).map(([binding, className]) => [
                  binding,
                  { className, useSQLite: true },
                ]),
              ),
            },
          }),
        ],
        test: {
          name: "room",
          // `npm run test:slow` plays more.
          provide: { plays: Number(process.env.PLAYS ?? 50) },
          include: [
            "test/room/**/*.test.ts",
            "test/http/**/*.test.ts",
            "test/compat/storage/**/*.test.ts",
          ],
          // Properties run hundreds of plays; the machine may be busy.
          testTimeout: 60_000,
        },
      },
      {
        plugins: [
          cloudflareTest({
            main: "./src/server/workspace.ts",
            wrangler: { configPath: "./wrangler.workspace.toml" },
            miniflare: {
              bindings: { ...exampleSecrets, ENVIRONMENT: "development", REQUIRE_AUTH: "true" },
            },
          }),
        ],
        test: {
          name: "workspace",
          include: ["test/workspace/**/*.test.ts"],
          // Properties run hundreds of plays; the machine may be busy.
          testTimeout: 60_000,
        },
      },
      {
        test: {
          name: "e2e",
          environment: "node",
          include: ["test/e2e/**/*.test.ts", "test/compat/*.test.ts"],
          // Mostly they wait, for sleeps and expiries: two real servers at a time do on two cores.
          testTimeout: 120_000,
          hookTimeout: 90_000,
        },
      },
    ],
  },
});
