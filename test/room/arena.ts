/** A room with shards for tests, and the faults of its shards. */
import { env } from "cloudflare:workers";
import type { CallResult } from "../../src/actor/call.ts";
import { createActorHandler, type RoomStub, roomStub } from "../../src/shards/index.ts";
import { shardName } from "../../src/shards/layout.ts";
import { Client, line } from "./continuity.ts";

/** The number of shards of a room, where it is not 4. */
export const shardCounts = new Map<string, number>();

/**
 * What is wrong with an actor, by its name. `slow`: it answers late. `mute`: its answers are lost. `down`: no
 * call reaches it. `old`: it knows none of the calls between shards.
 */
export type Fault = "slow" | "mute" | "down" | "old";
export const faults = new Map<string, Fault>();
/** The calls between actors, by the name of the actor that was called. */
export const callsTo = new Map<string, string[]>();

const shards = (room: string) => shardCounts.get(room) ?? 4;
const arena = line({ name: "arena", log: { events: 1_000 }, shards });
const lasting = line({ name: "lasting-arena", log: { events: 1_000, durable: true }, shards });

export class Arena extends createActorHandler(arena) {}
/** The same with a durable log: rooms whose names begin with `lasting`. */
export class LastingArena extends createActorHandler(lasting) {}

type Ingest = (name: string, data: unknown) => CallResult | Promise<CallResult>;
for (const { prototype } of [Arena, LastingArena]) {
  // The class's type has it as a property, which a subclass cannot override as a method.
  const faulty = prototype as unknown as { ingest: Ingest };
  const { ingest } = faulty;
  faulty.ingest = async function (this: object, name, data) {
    const actor = (this as { ctx: DurableObjectState }).ctx.id.name ?? "";
    callsTo.set(actor, [...(callsTo.get(actor) ?? []), name]);
    const fault = name.startsWith("rollcall:") ? faults.get(actor) : undefined;
    if (fault === "down") throw new Error("This actor cannot be reached");
    if (fault === "old") return { ok: false, error: { code: "unknown_event", message: "No call" } };
    if (fault === "slow") await scheduler.wait(60);
    const answer = await ingest.call(this, name, data);
    if (fault === "mute") throw new Error("The answer was lost");
    return answer;
  };
}

const isLasting = (room: string) => room.startsWith("lasting");
const actorOf = (room: string, name: string) =>
  (isLasting(room) ? env.LASTING_ARENA : env.ARENA).getByName(name);

/** The room as a Worker reaches it. */
export function arenaOf(room: string): RoomStub {
  const definition = isLasting(room) ? lasting : arena;
  return roomStub(definition, room, env, (name) => actorOf(room, name));
}

export const shardStub = (room: string, index: number) => actorOf(room, shardName(room, index));

/** A client of protocol 3 that the Worker connects to the shard of its user. */
export function arenaClient(room: string, user: string): Client {
  const target = {
    fetch: (url: string, init: RequestInit) => arenaOf(room).fetch(new Request(url, init)),
  };
  return new Client(target, `&user=${user}`);
}
