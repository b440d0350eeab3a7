/**
 * Presence rooms whose shards are distributed over two runtimes, since one process cannot open enough files
 * for all sockets. Each runtime has the shards of even or of odd numbers, and calls those of the other one.
 */
import { env as globals } from "cloudflare:workers";
import { presence } from "../../rooms/presence/index.ts";
import { createActorHandler } from "../../src/shards/index.ts";
import { placeOf } from "../../src/shards/layout.ts";

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

export class PresenceRoom extends createActorHandler(room) {}

const routes = room.routes();
export default {
  fetch: (request: Request, env: Env, ctx: ExecutionContext): Response | Promise<Response> =>
    routes.fetch(request, { ...env, PRESENCE: namespace }, ctx),
};
