import { type ConnectionMeta, createActorHandler, defineRoom, RollcallError } from "rollcall";
import * as z from "zod/mini";
import type { ChatEvents, Message } from "./events.ts";

interface Env {
  CHAT: DurableObjectNamespace;
}

/** Messages that a channel remembers, and channels that one connection may be in. */
const HISTORY = 50;
const CHANNELS = 20;

const chat = defineRoom<ConnectionMeta, Env, ChatEvents>({
  name: "chat",
  websocketPath: "/ws/chat",

  // Your app checks a token here, and takes the name from it. Throwing refuses the connection.
  extractMeta(request) {
    const name = new URL(request.url).searchParams.get("name");
    if (!name || name.length > 32) throw new RollcallError("unauthorized", "Who are you?");
    return { userId: name, clientId: crypto.randomUUID(), channels: [] };
  },
});

const channel = z.string().check(z.regex(/^[a-z0-9-]{1,32}$/));
const historyKey = (name: string) => `history:${name}`;

// What a handler returns is the ack; what it throws is the error that the client sees.
chat.on("join", z.object({ channel }), ({ actor, meta }, data) => {
  if (!meta.channels.includes(data.channel)) {
    if (meta.channels.length === CHANNELS) throw new RollcallError("conflict", "Leave one first");
    // `meta` lives as long as the socket, also while the actor sleeps.
    meta.channels.push(data.channel);
  }
  return { history: actor.getStorage().kv.get<Message[]>(historyKey(data.channel)) ?? [] };
});

chat.on("leave", z.object({ channel }), ({ meta }, data) => {
  meta.channels = meta.channels.filter((name) => name !== data.channel);
});

const words = z.object({
  channel,
  text: z.string().check(z.trim(), z.minLength(1), z.maxLength(500)),
});
chat.on("say", words, ({ actor, meta }, { channel, text }) => {
  if (!meta.channels.includes(channel)) throw new RollcallError("forbidden", "Join it first");
  const message: Message = { channel, from: meta.userId, text, at: Date.now() };
  const storage = actor.getStorage();
  // Nobody receives what could not be stored: emits leave with the commit.
  storage.transactionSync(() => {
    const history = storage.kv.get<Message[]>(historyKey(channel)) ?? [];
    storage.kv.put(historyKey(channel), [...history, message].slice(-HISTORY));
    actor.emit.to(channel).emit("said", message);
  });
  return { at: message.at };
});

chat.on("typing", z.object({ channel }), ({ meta, emit }, { channel }) => {
  // From a socket to a channel it is in: to all the others. A channel it is not in is refused.
  if (!meta.channels.includes(channel)) throw new RollcallError("forbidden", "Join it first");
  emit.to(channel).emit("typing", { channel, from: meta.userId });
});

export class Chat extends createActorHandler(chat) {}

export default {
  /** One actor per team, named by the URL. */
  fetch(request: Request, env: Env): Promise<Response> {
    const team = new URL(request.url).searchParams.get("team") ?? "everyone";
    return env.CHAT.getByName(team).fetch(request);
  },
};
