import { presence } from "../rooms/presence.ts";
import { createActorHandler } from "./actor/actor.ts";
import { createApp } from "./http/app.ts";

export class PresenceRoom extends createActorHandler(presence) {}

export default createApp();
