import { cloudflareTest } from "@cloudflare/vitest-plugin";
import { defineConfig } from "vitest/config";

// Tests run in the Workers runtime, with the actors of wrangler.toml and a secret of their own.
export default defineConfig({
  plugins: [
    cloudflareTest({
      wrangler: { configPath: "./wrangler.toml" },
      miniflare: { bindings: { JWT_SECRET: "for-tests-only-0123456789abcdef0123456789" } },
    }),
  ],
});
