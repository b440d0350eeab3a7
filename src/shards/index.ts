/** Rooms that are distributed over several actors. */
import { env } from "cloudflare:workers";
import { createActorHandler as createHandler } from "../actor/actor.ts";
import type { ConnectionMeta } from "../actor/meta.ts";
import type { Room } from "../actor/room.ts";
import { type ActorHandlerClass as AnyHandlerClass, findActor } from "../actor/stub.ts";
import type { AnyEvents, EventMap } from "../wire/events.ts";
import { placeOf } from "./layout.ts";
import { Shards } from "./shards.ts";
import { type RoomStub, roomStub, shardsOf } from "./stub.ts";

export { type RoomStub, roomStub, type ShardedRoom } from "./stub.ts";

/** A Durable Object class made of a room. */
export interface ActorHandlerClass<E = unknown, V extends EventMap = AnyEvents>
  extends AnyHandlerClass<E, V> {
  /**
   * The room named `name`, in one actor or in several. The class is found by its name among the Worker's
   * bindings and exports.
   *
   * @throws Error when no binding or export has the name
   */
  get(name: string): RoomStub<V>;
}

/**
 * The Durable Object class of a room. Its class needs SQLite storage (`new_sqlite_classes`) and the
 * compatibility flag `nodejs_als` (or `nodejs_compat`).
 *
 * @example
 * export class Chat extends createActorHandler(chat) {}
 */
export function createActorHandler<
  M extends ConnectionMeta = ConnectionMeta,
  E = unknown,
  V extends EventMap = AnyEvents,
>(room: Room<M, E, V>): ActorHandlerClass<E, V> {
  const distribute = room.shards !== undefined && {
    roomOf: (actorName: string) => placeOf(actorName).room,
    create: (host: ConstructorParameters<typeof Shards>[0], env: E) =>
      new Shards(host, shardsOf(room, placeOf(host.actorName).room, env)),
  };
  const Actor = createHandler(room, distribute || undefined);
  const get = function (this: { name: string }, name: string): RoomStub<V> {
    return roomStub(room, name, env as E, (actor) => findActor(this.name, actor));
  };
  return Object.defineProperty(Actor, "get", { value: get }) as ActorHandlerClass<E, V>;
}
