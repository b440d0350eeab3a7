import { VeraniClient } from "rollcall/client";
import type { LobbyEvents } from "./events.ts";

/** Ann and Bob meet in the lobby. */
export default async function demo(server: string): Promise<void> {
  const join = (userId: string) => {
    const client = new VeraniClient<LobbyEvents>(`${server}/ws?userId=${userId}`);
    const show = (text: string) => console.log(`${userId}: ${text}`);
    client.on("here", ({ users }) => show(`here are ${users.join(", ")}`));
    client.on("joined", ({ user }) => show(`${user} came`));
    client.on("left", ({ user }) => show(`${user} went`));
    client.on("waved", ({ from }) => show(`${from} waves`));
    const heard = (event: keyof LobbyEvents["out"]) =>
      new Promise<void>((resolve) => client.once(event, () => resolve()));
    return { client, heard };
  };

  const ann = join("ann");
  await ann.heard("here");
  const bobCame = ann.heard("joined");
  const bob = join("bob");
  await Promise.all([bob.heard("here"), bobCame]);

  const waved = bob.heard("waved");
  ann.client.emit("wave", { to: "bob" });
  await waved;

  const bobWent = ann.heard("left");
  bob.client.close();
  await bobWent;
  ann.client.close();
}
