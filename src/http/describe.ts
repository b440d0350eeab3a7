import * as z from "zod/mini";
import { ERRORS, type ErrorCode } from "../wire/errors.ts";

/**
 * The routes and sockets of one system, as data. `/openapi.json` and `/asyncapi.json` are made of it
 * at build time, from the schemas that routes and rooms check with. A contract gives it from a
 * function that the Worker never calls, so the Worker's bundle holds none of it.
 */
export interface SystemDescription {
  /** Its heading in both documents. */
  tag: { name: string; description: string };
  routes: RouteDescription[];
  /** Sockets and streams, by name. */
  channels: Record<string, ChannelDescription>;
  /** Schemas that stand under `components` by name. Routes refer to them from there. */
  components?: Record<string, Schema>;
}

/**
 * Descriptions and formats are metadata of a schema: `z.string().check(z.describe("…"))`, or
 * `z.meta({ description, format })`. Add them inside the describe function.
 */
export type Schema = z.core.$ZodType;

/** Names of the security schemes, which `src/server/description` explains. */
export type SecurityName =
  | "bearer"
  | "bearerQuery"
  | "presenceToken"
  | "presenceTokenQuery"
  | "ingest"
  | "mint"
  | "server";

/** A body, by its content type. */
export type Content = Record<string, Schema>;

export interface ResponseDescription {
  description: string;
  content?: Content;
}

export interface RouteDescription {
  method: "get" | "post" | "delete" | "put";
  /** With `{name}` for a parameter. */
  path: string;
  summary: string;
  description?: string;
  /** Any one of them is enough; none: open to everybody. */
  security?: readonly SecurityName[];
  /** Objects whose fields are the parameters. Every field of `params` is required. */
  query?: Schema;
  params?: Schema;
  headers?: Schema;
  body?: { description?: string; content: Content };
  /** By HTTP status. */
  responses: Record<number, ResponseDescription>;
}

export interface ChannelDescription {
  /** Path of the socket, which begins with `/ws/`, or of the stream. */
  address: string;
  title: string;
  description: string;
  /**
   * Parameters of a socket's URL, an object's fields. `token` is added where `security` has a scheme
   * of the query, and `v` where the wire is a room's. A stream's stand with its route.
   */
  query?: Schema;
  security?: readonly SecurityName[];
  /**
   * `room`: events travel in the framework's frames, and the framework's own frames come as well;
   * `plain`: a message is exactly what its schema describes.
   */
  wire: "room" | "plain";
  /** Whether clients may probe (`liveness.probeMs` of the room): adds `probe=1` and its frames. */
  probes?: boolean;
  /** Messages from clients, and to them, by name. */
  in: Record<string, Schema>;
  out: Record<string, Schema>;
}

let errorBody: Schema | undefined;

/** The body of an error, {@link ErrorBody}, as a schema. `components` names it `Refusal`. */
export function describeErrorBody(): Schema {
  const codes = Object.keys(ERRORS) as [ErrorCode, ...ErrorCode[]];
  errorBody ??= z.object({
    error: z.enum(codes).check(z.describe("Stable: switch on it")),
    details: z.string().check(z.describe("For people")),
  });
  return errorBody;
}

/** A refusal in the words of {@link ErrorBody}, for a route's `responses`. */
export function refused(description: string): ResponseDescription {
  return answered(description, describeErrorBody());
}

/**
 * Above a limit of requests, for a route's `responses`.
 *
 * @param schema its body, where a contract words it; default as of {@link refused}
 */
export function limited(schema = describeErrorBody()): ResponseDescription {
  return answered("Above a limit of requests. `Retry-After`: when to try again, in s", schema);
}

/** An answer with a JSON body, for a route's `responses`. */
export function answered(description: string, schema: Schema): ResponseDescription {
  return { description, content: { "application/json": schema } };
}
