/** For tsc, never run: the events whose handlers can be taken away. */
import { type ConnectionMeta, defineRoom } from "../../../src/index.ts";

interface ChatEvents {
  in: { say: { text: string } };
  out: { said: { text: string } };
}
const chat = defineRoom<ConnectionMeta, Env, ChatEvents>({ name: "chat" });
const handler = (_ctx: unknown, data: { text: string }) => data.text;

chat.on("say", handler);
chat.off("say", handler);
chat.off("say");
chat.off("*");
// @ts-expect-error no such event from a client
chat.off("shout", handler);
// @ts-expect-error an event to clients
chat.off("said");

// Without an event map, any event.
declare const name: string;
defineRoom({ name: "untyped" }).off(name);
chat.eventEmitter.off(name);
