import { authenticateMinter, devices, requireDaemon } from "../../rooms/devices/index.ts";
import { fanout } from "../../rooms/fanout/index.ts";
import { moods } from "../../rooms/moods/index.ts";
import { presence } from "../../rooms/presence/index.ts";
import { workspace } from "../../rooms/workspace/index.ts";
import { notFound } from "../http/errors.ts";
import { createActorHandler } from "../shards/index.ts";
import { createApp } from "./app.ts";
import { consoleRoutes, findPage } from "./console.ts";
import { debugRoutes } from "./debug.ts";
import { descriptionRoutes } from "./description/routes.ts";
import { scriptRoutes } from "./script.ts";

const lobby = presence();
const phones = devices<Env>();
const inbox = fanout<Env>();
const mood = moods<Env>();

export class DeviceRoom extends createActorHandler(phones) {}
export class FanoutRoom extends createActorHandler(inbox) {}
export class MoodRoom extends createActorHandler(mood) {}
export class PresenceRoom extends createActorHandler(lobby) {}

const app = createApp<Env>(
  { presence: lobby, devices: phones, fanout: inbox, moods: mood, workspace: workspace() },
  {
    async authorizeBackend(request, env) {
      requireDaemon(authenticateMinter(request, env));
    },
  },
);
// These belong to the service alone.
app.route("/", debugRoutes<Env>());
app.route("/", descriptionRoutes<Env>());
app.route("/", scriptRoutes<Env>());
app.route("/", consoleRoutes(app.fetch));
app.notFound(async (c) => (await findPage(c.req.raw, c.env)) ?? notFound(c.req.path));

export default app;
