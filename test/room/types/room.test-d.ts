/** For tsc, never run: code that must compile, and code that must not. */
import { z } from "zod";
import { type ConnectionMeta, createActorHandler, defineRoom } from "../../../src/index.ts";

interface ChatMeta extends ConnectionMeta {
  nickname: string;
}
interface ChatEvents {
  in: { say: { text: string }; leave: object };
  out: { said: { from: string; text: string }; left: { from: string } };
}

const chat = defineRoom<ChatMeta, Env, ChatEvents>({
  name: "chat",
  extractMeta: (_request, env) => {
    env.JWT_SECRET satisfies string;
    return { userId: "u", clientId: "c", channels: [], nickname: "n" };
  },
  onConnect({ meta, emit }) {
    meta.nickname satisfies string;
    // @ts-expect-error no such field
    meta.nick;
    emit.emit("left", { from: meta.nickname });
  },
});

chat.on("say", ({ actor, meta, emit }, data) => {
  data.text satisfies string;
  // @ts-expect-error no such field
  data.txt;
  meta.nickname = data.text;
  actor.emit.to("default").emit("said", { from: meta.nickname, text: data.text });
  // @ts-expect-error no such event
  emit.emit("sad", {});
  emit.emitWithAck("left", { from: "x" }, { timeoutMs: 10 }) satisfies Promise<unknown>;
});
// @ts-expect-error no such event from a client
chat.on("shout", () => {});

chat.ingest("add", z.object({ n: z.number() }), (actor, { n }) => {
  n satisfies number;
  actor.env.JWT_SECRET satisfies string;
});
chat.on("*", ({ frame }) => frame.type satisfies string);

// Written for Verani: untyped events, with any data.
const untyped = defineRoom({ extractMeta: () => ({ userId: "", clientId: "", channels: [] }) });
untyped.on("anything", async (ctx, data) => {
  ctx.actor.emit.to("default").emit("whatever", { text: data.text, deep: data.a.b.c });
  ctx.emit.to(data.user).emit("dm", { from: ctx.meta.userId });
});

export class Chat extends createActorHandler(chat) {}
export const Untyped = createActorHandler(untyped);
