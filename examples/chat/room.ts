import { type ConnectionMeta, createActorHandler, defineRoom, RollcallError } from "rollcall";
import * as z from "zod/mini";
import type { ChatEvents, Message } from "./events.ts";

interface Env {
  CHAT: DurableObjectNamespace;
}

/** Messages that somebody gets who joins, and channels that one connection may be in. */
const HISTORY = 50;
const CHANNELS = 20;
const MONTH_MS = 30 * 24 * 3_600_000;

const chat = defineRoom<ConnectionMeta, Env, ChatEvents>({
  name: "chat",
  websocketPath: "/ws/chat",
  // Stored before anybody receives it: a message survives whatever happens to the actor.
  log: { durable: true, ageMs: MONTH_MS, events: 5_000 },

  // Your app checks a token here, and takes the name from it. Throwing refuses the connection.
  extractMeta(request) {
    const name = new URL(request.url).searchParams.get("name");
    if (!name || name.length > 32) throw new RollcallError("unauthorized", "Who are you?");
    return { userId: name, clientId: crypto.randomUUID(), channels: [] };
  },
});

const channel = z.string().check(z.regex(/^[a-z0-9-]{1,32}$/));

// What a handler returns is the ack; what it throws is the error that the client sees.
chat.on("join", z.object({ channel }), ({ actor, meta }, data) => {
  if (!meta.channels.includes(data.channel)) {
    if (meta.channels.length === CHANNELS) throw new RollcallError("conflict", "Leave one first");
    // `meta` lives as long as the socket, also while the actor sleeps.
    meta.channels.push(data.channel);
  }
  const { events } = actor.log.read({ channel: data.channel, limit: 1_000 });
  const said = events.filter(({ event }) => event === "said");
  return { history: said.slice(-HISTORY).map((event): Message => event.data) };
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
  actor.emit.to(channel).emit("said", message);
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
