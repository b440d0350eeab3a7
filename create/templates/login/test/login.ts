import { exports } from "cloudflare:workers";
import type { ConnectOptions } from "rollcall/testing";

/** How a visitor of this name connects: with a token of the app's own login. */
export async function login(name: string): Promise<ConnectOptions & { token: string }> {
  const response = await exports.default.fetch("https://app.test/login", {
    method: "POST",
    body: JSON.stringify({ name }),
  });
  if (!response.ok) throw new Error(`The login failed: ${response.status}`);
  return (await response.json()) as { token: string };
}
