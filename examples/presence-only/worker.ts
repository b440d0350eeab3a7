import { createActorHandler } from "rollcall";
import { type PresenceEnv, presence } from "rollcall/rooms/presence";
import { createApp } from "rollcall/server";

const lobby = presence<PresenceEnv>();

export class PresenceRoom extends createActorHandler(lobby) {}
export default createApp<PresenceEnv>({ presence: lobby });
