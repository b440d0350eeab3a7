/** Presence rooms whose every event is counted: ours, the bare one, PartyServer's. */
import { presence } from "../../rooms/presence/index.ts";
import { createActorHandler } from "../../src/actor/actor.ts";
import partyRoute, { Presence } from "./peers/partyserver.worker.ts";
import bareRoute, { Room } from "./peers/presence.worker.ts";
import type { Count, Counts } from "./wakeups.ts";

const lobby = presence();

export class PresenceRoom extends createActorHandler(lobby) {}
export { Presence, Room };

/** After so long without an event the runtime puts an actor to sleep. */
const SLEEP_AFTER_MS = 10_000;
const counts: Counts = {};
const EVENTS = ["fetch", "webSocketMessage", "webSocketClose", "webSocketError", "alarm"] as const;

/** `count` with the time since its last event. */
function upToNow({ events, awakeMs, lastAtMs }: Count): Count {
  const now = Date.now();
  return {
    events,
    awakeMs: awakeMs + Math.min(now - lastAtMs, SLEEP_AFTER_MS),
    lastAtMs: now,
  };
}

/** Counts by patching the class, so that a look at the counts wakes nobody. */
function count(name: string, { prototype }: { prototype: object }): void {
  const actors: Record<string, Count> = {};
  counts[name] = actors;
  for (const event of EVENTS) {
    const run: unknown = Reflect.get(prototype, event);
    if (typeof run !== "function") continue;
    Object.defineProperty(prototype, event, {
      value(this: { ctx: DurableObjectState }, ...args: unknown[]): unknown {
        const actor = this.ctx.id.name ?? "";
        const before = actors[actor] ?? { events: 0, awakeMs: 0, lastAtMs: Date.now() };
        actors[actor] = { ...upToNow(before), events: before.events + 1 };
        return Reflect.apply(run, this, args);
      },
    });
  }
}
count("Rollcall", PresenceRoom);
count("bare Durable Object", Room);
count("PartyServer", Presence);

const ours = lobby.routes();

export default {
  fetch(
    request: Request,
    env: Cloudflare.Env & { ROOM: DurableObjectNamespace },
    ctx: ExecutionContext,
  ): Response | Promise<Response> {
    const { pathname } = new URL(request.url);
    if (pathname === "/counts") {
      const actors = Object.entries(counts).map(([name, byActor]) => {
        const upToDate = Object.entries(byActor).map(([actor, one]) => [actor, upToNow(one)]);
        return [name, Object.fromEntries(upToDate)];
      });
      return Response.json(Object.fromEntries(actors));
    }
    if (pathname === "/ws") return bareRoute.fetch(request, env);
    if (pathname.startsWith("/parties/")) return partyRoute.fetch(request, env);
    return ours.fetch(request, env, ctx);
  },
};
