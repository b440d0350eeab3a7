import { devices } from "../../rooms/devices/room.ts";
import { fanout } from "../../rooms/fanout/room.ts";
import { moods } from "../../rooms/moods/room.ts";
import { presence } from "../../rooms/presence/room.ts";
import { createActorHandler } from "../actor/actor.ts";
import { createApp } from "./app.ts";

export class DeviceRoom extends createActorHandler(devices) {}
export class FanoutRoom extends createActorHandler(fanout) {}
export class MoodRoom extends createActorHandler(moods) {}
export class PresenceRoom extends createActorHandler(presence) {}

export default createApp();
