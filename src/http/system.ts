import type { Hono } from "hono";
import type { Untyped } from "../wire/frames.ts";

/**
 * A system that `createApp` mounts: its routes, sockets and streams. `E` is the Worker's env, of which
 * a system reads its binding and its variables.
 */
export interface System<E extends object = object> {
  /** The system's routes, sockets and streams, for a Worker. */
  routes(): Hono<{ Bindings: Untyped }>;
  /** Takes the options of `createApp` that are for this system. */
  configure?(options: { maySee?: Untyped }): void;
  /** For types only: a Worker whose env has more than `E` can mount it. */
  readonly "~env"?: (env: E) => void;
  /** Deletes what is stored about a user. Absent where nothing is. */
  deleteUser?(env: E, userId: string): Promise<void>;
}
