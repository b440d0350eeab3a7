import { type ConnectionMeta, createActorHandler, defineRoom } from "rollcall";
import * as z from "zod/mini";
import type { LobbyEvents } from "./events.ts";

interface Env {
  LOBBY: DurableObjectNamespace;
}

// Without `extractMeta`, a client is the user of `?userId=`, in the channel `default`.
const lobby = defineRoom<ConnectionMeta, Env, LobbyEvents>({
  name: "lobby",
  websocketPath: "/ws",

  onConnect({ actor, meta, emit }) {
    emit.emit("here", { users: actor.getConnectedUserIds() });
    const isFirst = actor.sessionsOf(meta.userId).size === 1;
    if (isFirst) actor.emit.to("default").emit("joined", { user: meta.userId });
  },

  onDisconnect({ actor, meta }) {
    const isLast = actor.sessionsOf(meta.userId).size === 0;
    if (isLast) actor.emit.to("default").emit("left", { user: meta.userId });
  },
});

lobby.on("wave", z.object({ to: z.string() }), ({ actor, meta }, { to }) => {
  actor.emit.toUser(to).emit("waved", { from: meta.userId });
});

export class Lobby extends createActorHandler(lobby) {}

export default {
  fetch: (request: Request, env: Env) => env.LOBBY.getByName("main").fetch(request),
};
