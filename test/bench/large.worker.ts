/**
 * Presence rooms whose shards are distributed over two runtimes, since one process cannot open enough files
 * for all sockets. Each runtime has the shards of even or of odd numbers, and calls those of the other one.
 */
import { env as globals } from "cloudflare:workers";
import { presence } from "../../rooms/presence/index.ts";
import { createActorHandler } from "../../src/shards/index.ts";
import { MAX_SHARDS, placeOf, shardName, totalName } from "../../src/shards/layout.ts";

/** The only room with shards here. */
const ROOM = "stadium";

interface Env {
  /** Whether this runtime has the odd shards. */
  IS_ODD?: "yes";
  HERE: DurableObjectNamespace;
  /** Missing where one runtime has all. */
  THERE?: DurableObjectNamespace;
}

const { IS_ODD, HERE, THERE = HERE } = globals as unknown as Env;

function actorOf(name: string): DurableObjectStub {
  const isOdd = (placeOf(name).index ?? 0) % 2 === 1;
  return (isOdd === (IS_ODD === "yes") ? HERE : THERE).getByName(name);
}
const namespace = { getByName: actorOf, idFromName: (name: string) => name, get: actorOf };

// The framework finds actors by their class's name in here, and the routes by the binding.
Object.assign(globals, { PresenceRoom: namespace });

const room = presence();

/** A call from the other runtime comes without the actor's name, which an actor reads in its storage then. */
function storeName(state: DurableObjectState): void {
  if (state.id.name !== undefined) return;
  const shards = Array.from({ length: MAX_SHARDS }, (_, i) => shardName(ROOM, i));
  const name = [totalName(ROOM), ...shards].find((name) => HERE.idFromName(name).equals(state.id));
  state.storage.kv.put("rollcall:name", name);
}

export class PresenceRoom extends createActorHandler(room) {
  constructor(state: DurableObjectState, env: never) {
    storeName(state);
    super(state, env);
  }
}

const routes = room.routes();
export default {
  fetch: (request: Request, env: Env, ctx: ExecutionContext): Response | Promise<Response> =>
    routes.fetch(request, { ...env, PRESENCE: namespace }, ctx),
};
