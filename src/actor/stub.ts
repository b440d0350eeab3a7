import { type DurableObject, env, exports } from "cloudflare:workers";
import type { AnyEvents, EventMap, Payload } from "../wire/events.ts";
import type { CallTarget, Inspection } from "./call.ts";
import type { RpcBroadcastOptions } from "./emit.ts";

/** The actor over RPC. */
export interface ActorStub<V extends EventMap = AnyEvents> extends CallTarget {
  /** Sends a request, such as the upgrade of a client. */
  fetch(request: Request): Promise<Response>;
  /** Emits to all in a channel. @returns to how many sockets */
  emitToChannel<K extends keyof V["out"] & string>(
    channel: string,
    event: K,
    ...[data]: Payload<V["out"][K]>
  ): Promise<number>;
  /** Emits to all sockets of a user. @returns to how many sockets */
  emitToUser<K extends keyof V["out"] & string>(
    userId: string,
    event: K,
    ...[data]: Payload<V["out"][K]>
  ): Promise<number>;
  /**
   * Verani's emit to a user.
   *
   * @deprecated use emitToUser
   */
  sendToUser(userId: string, channel: string, data?: unknown): Promise<number>;
  /**
   * Verani's emit to a channel.
   *
   * @deprecated use emitToChannel
   */
  broadcast(channel: string, data: unknown, options?: RpcBroadcastOptions): Promise<number>;
  /** The number of live connections. */
  getSessionCount(): Promise<number>;
  /** The users with live connections, each once. */
  getConnectedUserIds(): Promise<string[]>;
  /** Ends sessions whose socket is dead or not open any more. @returns how many */
  cleanupStaleSessions(): Promise<number>;
  /** What the actor holds, for debug routes and tests. */
  inspect(): Promise<Inspection>;
}

/** A Durable Object class made of a room. */
export interface ActorHandlerClass<E = unknown, V extends EventMap = AnyEvents> {
  new (
    state: DurableObjectState,
    env: E,
  ): DurableObject<E> & {
    [K in keyof ActorStub]: ActorStub[K] extends (...args: infer A) => Promise<infer R>
      ? (...args: A) => R | Promise<R>
      : never;
  };
  /**
   * The actor named `id`, found by this class's name among the Worker's bindings and exports.
   *
   * @throws Error when no binding or export has the name
   */
  get(id: string): ActorStub<V>;
}

/** `user-presence` → `UserPresence`. */
export function toClassName(name: string): string {
  const words = name.split(/[^A-Za-z0-9]+/).filter(Boolean);
  return (
    words.map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join("") || "VeraniActor"
  );
}

/**
 * The actor named `id` of the class that is bound or exported as `className`.
 *
 * @throws Error when there is none
 */
export function findActor(className: string, id: string): ActorStub {
  const bindings = { ...exports, ...(env as object) } as Record<string, unknown>;
  const namespace = bindings[className] as DurableObjectNamespace | undefined;
  if (typeof namespace?.idFromName !== "function") {
    throw new Error(
      `No Durable Object is bound or exported as ${className}: export the class under this name and list it under migrations in wrangler.toml`,
    );
  }
  return namespace.get(namespace.idFromName(id)) as unknown as ActorStub;
}
