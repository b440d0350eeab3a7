import { SignJWT } from "jose";
import { VeraniClient } from "rollcall/client";
import type { FeedEvents } from "./events.ts";

// As in wrangler.toml. Only the backend knows these; it hands tokens to its users.
const JWT_SECRET = "for-this-example-only-0123456789abcdef";
const PUSH_TOKEN = "for-this-example-only";

function tokenOf(userId: string): Promise<string> {
  return new SignJWT({ sub: userId })
    .setProtectedHeader({ alg: "HS256" })
    .setExpirationTime("15m")
    .sign(new TextEncoder().encode(JWT_SECRET));
}

async function push(server: string, userId: string, text: string): Promise<void> {
  const response = await fetch(`${server}/push`, {
    method: "POST",
    headers: { Authorization: `Bearer ${PUSH_TOKEN}`, "Content-Type": "application/json" },
    body: JSON.stringify({ userId, text }),
  });
  const { devices } = (await response.json()) as { devices: number };
  console.log(`backend: "${text}" shown on ${devices} devices`);
}

function connect(server: string, device: string) {
  const client = new VeraniClient<FeedEvents>(`${server}/ws/feed`, { token: () => tokenOf("ann") });
  const show = (text: string) => console.log(`${device}: ${text}`);
  client.on("feed", ({ items, unread }) => show(`${items.length} in the feed, ${unread} unread`));
  client.on("pushed", ({ text }) => show(`new: ${text}`));
  client.on("read", ({ unread }) => show(`one was read, ${unread} unread`));
  const heard = <K extends keyof FeedEvents["out"]>(event: K) =>
    new Promise<FeedEvents["out"][K]>((resolve) => client.once(event, resolve as () => void));
  return { client, show, heard };
}

/** Ann's phone and laptop: what is read on one is read on the other, and nothing is missed. */
export default async function demo(server: string): Promise<void> {
  const phone = connect(server, "phone");
  const laptop = connect(server, "laptop");
  await Promise.all([phone.heard("feed"), laptop.heard("feed")]);

  const onPhone = phone.heard("pushed");
  const onLaptop = laptop.heard("pushed");
  await push(server, "ann", "Your parcel is on its way");
  const [{ id }] = await Promise.all([onPhone, onLaptop]);

  const readOnLaptop = laptop.heard("read");
  await phone.client.emitWithAck("read", { id });
  await readOnLaptop;

  phone.client.close();
  laptop.client.close();
  await push(server, "ann", "Your parcel is at the door");
  const tablet = connect(server, "tablet");
  const { items } = await tablet.heard("feed");
  tablet.show(`the latest: ${items[0]?.text}`);
  tablet.client.close();
}
