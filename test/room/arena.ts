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

const definition = line({
  name: "arena",
  log: { events: 1_000 },
  shards: (room) => shardCounts.get(room) ?? 4,
});

export class Arena extends createActorHandler(definition) {}

type Ingest = (name: string, data: unknown) => CallResult | Promise<CallResult>;
// The class's type has it as a property, which a subclass cannot override as a method.
const prototype = Arena.prototype as unknown as { ingest: Ingest };
const { ingest } = prototype;
prototype.ingest = async function (this: Arena, name, data) {
  const actor = (this as unknown as { ctx: DurableObjectState }).ctx.id.name ?? "";
  callsTo.set(actor, [...(callsTo.get(actor) ?? []), name]);
  const fault = name.startsWith("rollcall:") ? faults.get(actor) : undefined;
  if (fault === "down") throw new Error("This actor cannot be reached");
  if (fault === "old") return { ok: false, error: { code: "unknown_event", message: "No call" } };
  if (fault === "slow") await scheduler.wait(60);
  const answer = await ingest.call(this, name, data);
  if (fault === "mute") throw new Error("The answer was lost");
  return answer;
};

/** The room as a Worker reaches it. */
export function arenaOf(room: string): RoomStub {
  return roomStub(definition, room, env, (name) => env.ARENA.getByName(name));
}

export const shardStub = (room: string, index: number) =>
  env.ARENA.getByName(shardName(room, index));

/** A client of protocol 3 that the Worker connects to the shard of its user. */
export function arenaClient(room: string, user: string): Client {
  const target = {
    fetch: (url: string, init: RequestInit) => arenaOf(room).fetch(new Request(url, init)),
  };
  return new Client(target, `&user=${user}`);
}
