import { devices } from "../rooms/devices.ts";
import { fanout } from "../rooms/fanout.ts";
import { moods } from "../rooms/moods.ts";
import { presence } from "../rooms/presence.ts";
import { createActorHandler } from "./actor/actor.ts";
import { createApp } from "./http/app.ts";

export class DeviceRoom extends createActorHandler(devices) {}
export class FanoutRoom extends createActorHandler(fanout) {}
export class MoodRoom extends createActorHandler(moods) {}
export class PresenceRoom extends createActorHandler(presence) {}

export default createApp();
