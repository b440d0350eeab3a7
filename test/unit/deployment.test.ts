import { describe, expect, it } from "vitest";
import { unstable_readConfig } from "wrangler";
import { isDevelopment } from "../../src/access/secrets.ts";

describe.each(["wrangler.toml", "wrangler.workspace.toml"])(
  "what is deployed from %s",
  (config) => {
    it.each([
      ["--env production", "production"],
      ["no --env at all", undefined],
    ])("with %s is no server for development, and logs no token of a URL", (_, env) => {
      const { vars, observability } = unstable_readConfig(
        { config, ...(env === undefined ? {} : { env }) },
        { hideWarnings: true },
      );
      expect(isDevelopment(vars)).toBe(false);
      expect(observability).toMatchObject({ redact_query_string: true });
    });
  },
);
