import { describe, expect, it } from "vitest";
import { equalSecrets } from "../../src/access/bearer.ts";

describe("a secret", () => {
  it.each([
    ["", "secret"],
    ["secre", "secret"],
    ["secret\0", "secret"],
    ["secret ", "secret"],
    ["Secret", "secret"],
    ["sécret", "secret"],
    ["x".repeat(2_000), "x".repeat(1_999)],
    // A secret longer than what is compared is refused, even the right one.
    ["x".repeat(2_000), "x".repeat(2_000)],
    [`${"é".repeat(512)}a`, `${"é".repeat(512)}b`],
  ])("is not taken for another: %j", (given, expected) => {
    expect(equalSecrets(given, expected)).toBe(false);
  });

  it.each(["secret", "é".repeat(512), "x".repeat(1_024)])("equals itself: %j", (secret) => {
    expect(equalSecrets(secret, secret)).toBe(true);
  });
});
