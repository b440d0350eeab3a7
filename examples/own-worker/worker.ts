import { Hono } from "hono";
import { createActorHandler } from "rollcall";
import { fanout } from "rollcall/rooms/fanout";
import { presence } from "rollcall/rooms/presence";
import { createApp } from "rollcall/server";
import { logIn, readSession, type SessionEnv } from "./session.ts";

export interface Env extends SessionEnv {
  PRESENCE: DurableObjectNamespace<PresenceRoom>;
  FANOUT: DurableObjectNamespace<FanoutRoom>;
}

const lobby = presence({
  authenticate: readSession,
  statuses: ["here", "lunch"],
});
const inbox = fanout<Env>({
  authenticateSubscriber: readSession,
  // Every user with a login may publish to every other.
  authenticatePublisher: async (request, env) => (await readSession(request, env)) !== null,
});

export class PresenceRoom extends createActorHandler(lobby) {}
export class FanoutRoom extends createActorHandler(inbox) {}

/** The app's own routes, with Rollcall's beside them. */
const app = new Hono<{ Bindings: Env }>();

app.post("/login", async (c) => {
  const { name, password } = (await c.req.json()) as Record<string, unknown>;
  const token = await logIn(name, password, c.env);
  return token === null ? c.json({ error: "Wrong name or password" }, 401) : c.json({ token });
});

app.route("/", createApp<Env>({ presence: lobby, fanout: inbox }));

export default app;
