import type { CallResult, Inspection } from "../actor/call.ts";
import { log } from "../log.ts";
import { RollcallError } from "../wire/errors.ts";

/** A room's actors as a Worker reaches them: by name, for upgrades, calls and debug routes. */
export type RoomNamespace = Pick<DurableObjectNamespace<RoomActor>, "getByName">;

type RoomActor = Rpc.DurableObjectBranded & {
  ingest(name: string, data: unknown): Promise<CallResult>;
  inspect(): Promise<Inspection>;
};

/**
 * The Durable Object namespace that `wrangler.toml` binds as `name`.
 *
 * @throws RollcallError `unavailable` (503) when there is none; the log names it
 */
export function namespaceOf(env: unknown, name: string): RoomNamespace {
  const namespace = (env as Record<string, unknown>)[name] as RoomNamespace | undefined;
  if (typeof namespace?.getByName === "function") return namespace;
  log("binding_missing", { binding: name });
  throw new RollcallError("unavailable", "This server does not offer that");
}
