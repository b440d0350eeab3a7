import { createHmac } from "node:crypto";
import { describe, expect, it } from "vitest";
import {
  mintPresenceToken,
  type PresenceClaims,
  signPresenceToken,
  verifyPresenceToken,
} from "../../rooms/devices/token.ts";

const SECRET = "a signing key of some length";
const NOW = 1_739_030_400_000;
const CLAIMS: PresenceClaims = {
  token_id: "t1",
  user_id: "6f9619ff-8b86-4d11-b42d-00c04fc964ff",
  device_id: "01890a5d-ac96-774b-bcce-b302099a8057",
  scope: ["presence:read"],
  issued_at_ms: NOW,
  exp_ms: NOW + 60_000,
};

/** The token as another program makes it that knows only the contract. */
function signedElsewhere(payload: unknown, secret = SECRET): string {
  const body = Buffer.from(JSON.stringify(payload)).toString("base64url");
  return `${body}.${createHmac("sha256", secret).update(body).digest("base64url")}`;
}

describe("a presence token", () => {
  it("equals, byte for byte, a token that another program makes by the contract", async () => {
    expect(await signPresenceToken(CLAIMS, SECRET)).toBe(signedElsewhere(CLAIMS));
    expect(await verifyPresenceToken(signedElsewhere(CLAIMS), SECRET, NOW)).toEqual(CLAIMS);
  });

  it("is valid until the millisecond of its expiry", async () => {
    const token = signedElsewhere(CLAIMS);
    await expect(verifyPresenceToken(token, SECRET, CLAIMS.exp_ms - 1)).resolves.toBeDefined();
    await expect(verifyPresenceToken(token, SECRET, CLAIMS.exp_ms)).rejects.toMatchObject({
      code: "forbidden",
      message: "The token has expired",
    });
  });

  it("is refused when its form, its key or its payload is wrong", async () => {
    const good = signedElsewhere(CLAIMS);
    const [body, mac] = good.split(".");
    const bad = [
      "",
      ".",
      `${body}`,
      `${good}.`,
      `.${mac}`,
      `${body}.${mac}=`,
      `${body}=.${mac}`,
      ` ${good}`,
      `${good}\n`,
      `${body}.${"A".repeat(43)}`,
      signedElsewhere(CLAIMS, "another key"),
      signedElsewhere({ ...CLAIMS, exp_ms: "never" }),
      signedElsewhere({ ...CLAIMS, scope: "presence:read" }),
      signedElsewhere([CLAIMS]),
      signedElsewhere(null),
      `${"A".repeat(9_000)}.${mac}`,
    ];
    for (const token of bad) {
      await expect(verifyPresenceToken(token, SECRET, NOW), token).rejects.toMatchObject({
        code: "forbidden",
      });
    }
  });

  it("is valid for 15 minutes with the scope presence:read by default", async () => {
    const { user_id, device_id } = CLAIMS;
    const minted = await mintPresenceToken({ user_id, device_id }, SECRET, NOW);
    expect(minted.expires_at_ms).toBe(NOW + 15 * 60_000);
    expect(await verifyPresenceToken(minted.token, SECRET, NOW)).toMatchObject({
      user_id,
      device_id,
      scope: ["presence:read"],
      issued_at_ms: NOW,
      exp_ms: minted.expires_at_ms,
    });
  });
});
