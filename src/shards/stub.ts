import type { CallResult } from "../actor/call.ts";
import type { RpcBroadcastOptions } from "../actor/emit.ts";
import type { ConnectionMeta } from "../actor/meta.ts";
import type { Room } from "../actor/room.ts";
import type { ActorStub } from "../actor/stub.ts";
import { metaOf, refusal } from "../actor/upgrade.ts";
import { log } from "../log.ts";
import { RollcallError } from "../wire/errors.ts";
import type { AnyEvents, EventMap } from "../wire/events.ts";
import { checkShards, shardName, shardOf } from "./layout.ts";

/** A room as a Worker reaches it, in one actor or in several. */
export interface RoomStub<V extends EventMap = AnyEvents> extends ActorStub<V> {
  /** The actor that has all connections of a user, for calls about this user. */
  ofUser(userId: string): ActorStub<V>;
  /** All actors that have connections, in the order of their numbers. */
  readonly actors: readonly ActorStub<V>[];
}

/** What is needed of a room to find its actors. */
export type ShardedRoom<M extends ConnectionMeta, E, V extends EventMap> = Pick<
  Room<M, E, V>,
  "name" | "websocketPath" | "extractMeta" | "shards"
>;

/** The number of a room's actors. @throws RangeError when the room's option gives no number from 1 to 256 */
export function shardsOf<M extends ConnectionMeta, E, V extends EventMap>(
  { shards = 1 }: Pick<Room<M, E, V>, "shards">,
  name: string,
  env: E,
): number {
  return checkShards(typeof shards === "function" ? shards(name, env) : shards);
}

/**
 * A room by its name, where a Worker binds the rooms' class. A WebSocket goes to the actor that has the
 * user; what is asked of the room is asked of all its actors and added up. Calls go to the first actor.
 *
 * @param stubOf the actor of a name, as `(name) => env.CHAT.getByName(name)`
 *
 * @example
 * const room = roomStub(chat, "stadium", env, (name) => env.CHAT.getByName(name));
 * return room.fetch(request);
 */
export function roomStub<M extends ConnectionMeta, E, V extends EventMap = AnyEvents>(
  room: ShardedRoom<M, E, V>,
  name: string,
  env: E,
  stubOf: (name: string) => unknown,
): RoomStub<V> {
  const shards = shardsOf(room, name, env);
  const at = (actor: string) => stubOf(actor) as ActorStub;
  const ofIndex = (index: number) => at(shards === 1 ? name : shardName(name, index));
  const ofKey = (key: string) => ofIndex(shards === 1 ? 0 : shardOf(key, shards));
  const actors = () => Array.from({ length: shards }, (_, index) => ofIndex(index));
  const label = room.name ?? room.websocketPath ?? "/ws";

  async function fetchOf(request: Request): Promise<Response> {
    if (shards === 1) return ofIndex(0).fetch(request);
    try {
      const { userId } = await metaOf(request.clone(), { room, env, label });
      return await ofKey(userId).fetch(request);
    } catch (thrown) {
      if (thrown instanceof RollcallError) return refusal(request, thrown);
      log("upgrade_failed", { room: label, error: thrown });
      return refusal(request, new RollcallError("internal", "Internal error"));
    }
  }

  const sum = async (ask: (actor: ActorStub) => Promise<number>): Promise<number> =>
    (await Promise.all(actors().map(ask))).reduce((total, n) => total + n, 0);

  const stub: RoomStub = {
    fetch: fetchOf,
    ofUser: ofKey,
    get actors() {
      return actors();
    },
    // By the channel, so that a Worker's events to a channel arrive in the order of its calls.
    emitToChannel: (channel, event, ...data) =>
      ofKey(channel).emitToChannel(channel, event, ...data),
    emitToUser: (userId, event, ...data) => ofKey(userId).emitToUser(userId, event, ...data),
    sendToUser: (userId, channel, data) => ofKey(userId).sendToUser(userId, channel, data),
    broadcast: (channel: string, data: unknown, options?: RpcBroadcastOptions) =>
      ofKey(channel).broadcast(channel, data, options),
    getSessionCount: () => sum((actor) => actor.getSessionCount()),
    cleanupStaleSessions: () => sum((actor) => actor.cleanupStaleSessions()),
    getConnectedUserIds: async () =>
      (await Promise.all(actors().map((actor) => actor.getConnectedUserIds()))).flat(),
    inspect: () => ofIndex(0).inspect(),
    ingest: (call: string, data: unknown): Promise<CallResult> => ofIndex(0).ingest(call, data),
  };
  return stub as RoomStub<V>;
}
