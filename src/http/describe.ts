import type * as z from "zod/mini";

/**
 * What a system tells of its routes and sockets, as data. `/openapi.json` and `/asyncapi.json` are
 * made of it at build time, with the very schemas that routes and rooms check with. A contract gives
 * it from a function that the Worker never calls, so that none of it is in the Worker's bundle.
 */
export interface SystemDescription {
  /** Its heading in both documents. */
  tag: { name: string; description: string };
  routes: RouteDescription[];
  /** Sockets and streams, by name. */
  channels: Record<string, ChannelDescription>;
  /** Schemas that stand under `components` by name, and are referred to from there. */
  components?: Record<string, Schema>;
}

export type Schema = z.core.$ZodType;

/** Names of the security schemes, which `src/server` describes. */
export type SecurityName =
  | "bearer"
  | "bearerQuery"
  | "presenceToken"
  | "presenceTokenQuery"
  | "ingest";

/** A body, by its content type. */
export type Content = Record<string, Schema>;

export interface RouteDescription {
  method: "get" | "post" | "delete" | "put";
  /** With `{name}` for a parameter. */
  path: string;
  summary: string;
  description?: string;
  /** Any one of them will do; none: open to all. */
  security?: readonly SecurityName[];
  /** Objects whose fields are the parameters. A field's `describe` metadata is its description. */
  query?: Schema;
  params?: Schema;
  headers?: Schema;
  body?: { description?: string; content: Content };
  responses: Record<number, { description: string; content?: Content }>;
}

export interface ChannelDescription {
  /** Path of the socket or stream. */
  address: string;
  title: string;
  description: string;
  /** Parameters of a socket's URL, an object's fields; those of a stream stand with its route. */
  query?: Schema;
  security?: readonly SecurityName[];
  /**
   * `room`: the framework's frames carry the events, and its own frames come and go as well;
   * `plain`: a message is what its schema says.
   */
  wire: "room" | "plain";
  /** Messages from clients, and to them, by name. */
  in: Record<string, Schema>;
  out: Record<string, Schema>;
}
