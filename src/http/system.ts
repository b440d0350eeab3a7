import type { Hono } from "hono";

/** What `createApp` mounts: a system's routes, sockets and streams. `E` is the Worker's env. */
export interface System<E extends object = object> {
  routes(): Hono<{ Bindings: E }>;
}
