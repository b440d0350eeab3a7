import { createActorHandler } from "rollcall";
import { authenticateMinter, type DeviceEnv, devices, requireDaemon } from "rollcall/rooms/devices";
import { type FanoutEnv, fanout } from "rollcall/rooms/fanout";
import { type MoodEnv, moods } from "rollcall/rooms/moods";
import { type PresenceEnv, presence } from "rollcall/rooms/presence";
import { createApp } from "rollcall/server";
import { type LoginEnv, logIn } from "./login.ts";

type Env = PresenceEnv & DeviceEnv & FanoutEnv & MoodEnv & LoginEnv;

const rooms = presence<Env>();
const phones = devices<Env>();
const inbox = fanout<Env>();
const mood = moods<Env>();

export class PresenceRoom extends createActorHandler(rooms) {}
export class DeviceRoom extends createActorHandler(phones) {}
export class FanoutRoom extends createActorHandler(inbox) {}
export class MoodRoom extends createActorHandler(mood) {}

const app = createApp<Env>(
  { presence: rooms, devices: phones, fanout: inbox, moods: mood },
  {
    async authorizeBackend(request, env) {
      requireDaemon(authenticateMinter(request, env));
    },
  },
);
// The scope lets every user publish to every other. Leave it out where only your backend may.
app.post("/login", (c) => logIn(c.req.raw, c.env, { scope: "publish" }));

export default app;
