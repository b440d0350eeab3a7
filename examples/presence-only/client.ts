import { SignJWT } from "jose";
import { type PresenceEvents, VeraniClient } from "rollcall/client";

const encoder = new TextEncoder();

/** A token as your backend signs it, with the secret of `wrangler.toml`. */
function tokenOf(userId: string, username: string): Promise<string> {
  return new SignJWT({ userId, username })
    .setProtectedHeader({ alg: "HS256" })
    .setExpirationTime("1h")
    .sign(encoder.encode("for-this-example-only-0123456789abcdef"));
}

/** Ann and Bob meet; the snapshot over HTTP shows both. */
export default async function demo(server: string): Promise<void> {
  const join = (userId: string, username: string) =>
    new VeraniClient<PresenceEvents>(`${server}/ws/presence`, {
      token: () => tokenOf(userId, username),
    });
  const next = (client: VeraniClient<PresenceEvents>, event: keyof PresenceEvents["out"]) =>
    new Promise<void>((resolve) => client.once(event, () => resolve()));

  const ann = join("1", "Ann");
  await next(ann, "presence.sync");
  const bob = join("2", "Bob");
  await next(ann, "presence.online");
  ann.emit("presence.status", { status: "busy" });
  await next(bob, "presence.status");

  const response = await fetch(`${server}/api/v1/presence`, {
    headers: { Authorization: `Bearer ${await tokenOf("3", "Clara")}` },
  });
  const { users } = (await response.json()) as PresenceEvents["out"]["presence.sync"];
  for (const { username, status } of users) console.log(`${username} is ${status}`);
  ann.close();
  bob.close();
}
