/** The most shards of a room. */
export const MAX_SHARDS = 256;
/** No name of a presence room has it. */
const SEPARATOR = "|";

/** The number of a shard, of `shards`, for a user: FNV-1a over the id's UTF-16 units. */
export function shardOf(userId: string, shards: number): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < userId.length; i++) {
    hash = Math.imul(hash ^ userId.charCodeAt(i), 0x01000193);
  }
  // FNV's low bits depend little on the first characters.
  return ((hash ^ (hash >>> 15)) >>> 0) % shards;
}

/** The name of a shard's actor. */
export function shardName(room: string, index: number): string {
  return `${room}${SEPARATOR}${index}`;
}

/** The name of the actor that adds up what the shards of a room count. */
export function totalName(room: string): string {
  return `${room}${SEPARATOR}total`;
}

/**
 * The room of an actor, and the number of its shard: null for the one that adds up, undefined for the one
 * with the room's own name.
 */
export function placeOf(name: string): { room: string; index: number | null | undefined } {
  const at = name.lastIndexOf(SEPARATOR);
  if (at > 0 && name === totalName(name.slice(0, at)))
    return { room: name.slice(0, at), index: null };
  const index = Number(name.slice(at + 1));
  const isShard = at >= 0 && name === shardName(name.slice(0, at), index) && isIndex(index);
  return isShard ? { room: name.slice(0, at), index } : { room: name, index: undefined };
}

function isIndex(index: number): boolean {
  return Number.isInteger(index) && index >= 0 && index < MAX_SHARDS;
}

/** @throws RangeError for anything but an integer from 1 to 256 */
export function checkShards(shards: number): number {
  if (Number.isInteger(shards) && shards >= 1 && shards <= MAX_SHARDS) return shards;
  throw new RangeError(`shards must be an integer from 1 to ${MAX_SHARDS}`);
}
