import { RollcallError, VeraniClient } from "rollcall/client";
import type { ChatEvents } from "./events.ts";

function connect(server: string, name: string) {
  const client = new VeraniClient<ChatEvents>(`${server}/ws/chat?team=birds&name=${name}`);
  const show = (text: string) => console.log(`${name}: ${text}`);
  client.on("typing", ({ channel, from }) => show(`#${channel} ${from} is typing …`));
  client.on("said", ({ channel, from, text }) => show(`#${channel} ${from}: ${text}`));
  const heard = (event: keyof ChatEvents["out"]) =>
    new Promise<void>((resolve) => client.once(event, () => resolve()));
  return { client, show, heard };
}

/** Ann and Bob talk; Bob misses a message, and finds it when he comes back. */
export default async function demo(server: string): Promise<void> {
  const channel = "general";
  const ann = connect(server, "ann");
  const bob = connect(server, "bob");
  await ann.client.emitWithAck("join", { channel });
  await bob.client.emitWithAck("join", { channel });

  const typing = bob.heard("typing");
  ann.client.emit("typing", { channel });
  await typing;

  const said = bob.heard("said");
  const { at } = await ann.client.emitWithAck("say", { channel, text: "Hello, Bob!" });
  await said;
  ann.show(`stored at ${new Date(at).toISOString()}`);

  // What the room refuses, or its schema, comes back with a code.
  try {
    await bob.client.emitWithAck("say", { channel: "board", text: "Let me in" });
  } catch (error) {
    if (!(error instanceof RollcallError)) throw error;
    bob.show(`refused with ${error.code}: ${error.message}`);
  }

  bob.client.close();
  await ann.client.emitWithAck("say", { channel, text: "Where have you gone?" });
  const again = connect(server, "bob");
  const { history } = await again.client.emitWithAck("join", { channel });
  again.show(`missed "${history.at(-1)?.text}"`);

  again.client.close();
  ann.client.close();
}
