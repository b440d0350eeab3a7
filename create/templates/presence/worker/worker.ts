import { createActorHandler } from "rollcall";
import { type PresenceEnv, presence } from "rollcall/rooms/presence";
import { createApp } from "rollcall/server";
import { type LoginEnv, logIn } from "./login.ts";

type Env = PresenceEnv & LoginEnv;

const room = presence<Env>();
export class PresenceRoom extends createActorHandler(room) {}

const app = createApp<Env>({ presence: room });
app.post("/login", (c) => logIn(c.req.raw, c.env));

export default app;
