import { type ErrorPayload, RollcallError } from "../wire/errors.ts";

/** The answer to a call: plain data, since an error's code would not survive the way over RPC. */
export type CallResult = { ok: true; value: unknown } | { ok: false; error: ErrorPayload };
/** @deprecated use {@link CallResult} */
export type IngestResult = CallResult;

/**
 * The stub of an actor. The method is called `ingest` for as long as Workers and actors of an
 * earlier release meet those of this one.
 */
export interface CallTarget {
  /** Runs a call. Use {@link call}, which types it. */
  ingest(name: string, data: unknown): Promise<CallResult>;
}

/** The calls that a room declares, by name: what goes in, what comes out. */
export type CallMap = Record<string, { in: unknown; out: unknown }>;

/** A room's calls as functions. One that takes nothing is called without an argument. */
export type Calls<C extends CallMap> = {
  readonly [N in keyof C]: (
    ...args: undefined extends C[N]["in"] ? [data?: C[N]["in"]] : [data: C[N]["in"]]
  ) => Promise<C[N]["out"]>;
};

/** What {@link call} needs to know of a room: the types of its calls. Never there at run time. */
export interface CallableRoom<C extends CallMap> {
  readonly "~calls"?: C;
}

/**
 * Calls a room from a Worker, with the types of its {@link Room.call}s.
 *
 * @param stub the actor's stub: `env.MOODS.getByName("shard:0")`
 * @param room the room, for its types only: `call<typeof moods>(stub)` does as well, and keeps the
 *   room's code out of the Worker
 * @throws RollcallError (by rejection) what the call's handler, or its schema, refused with
 *
 * @example
 * const state = await call(env.MOODS.getByName("shard:0"), moods).state();
 */
export function call<C extends CallMap>(stub: CallTarget, room?: CallableRoom<C>): Calls<C>;
export function call<R extends CallableRoom<CallMap>>(stub: CallTarget): CallsOf<R>;
export function call(stub: CallTarget): unknown {
  return new Proxy(
    {},
    {
      // Without `then`: what is awaited by mistake must not be taken for a promise.
      get: (_, name) =>
        typeof name === "string" && name !== "then"
          ? (data: unknown) => callIngest(stub, name, data)
          : undefined,
    },
  );
}

/** The calls of a room's type: `CallsOf<typeof moods>`. */
export type CallsOf<R> = R extends CallableRoom<infer C> ? Calls<C> : never;

/**
 * Calls a room by the call's name, without types.
 *
 * @deprecated use {@link call}
 * @throws RollcallError what the handler, or its schema, refused with
 */
export async function callIngest(stub: CallTarget, name: string, data: unknown): Promise<unknown> {
  const result = await stub.ingest(name, data);
  if (result.ok) return result.value;
  throw RollcallError.from(result.error);
}

/** What an actor reports about itself, for debug routes. Counts are of this instance. */
export interface Inspection {
  /** Differs after every start. */
  instance: string;
  startedAt: string;
  /** Starts of this actor so far; counted in development only, since each costs a row. */
  starts: number | null;
  /** Events that ran code here: what is billed, and what keeps an actor from sleeping. */
  wakeUps: { fetch: number; message: number; close: number; alarm: number; rpc: number };
  sessions: number;
  users: number;
  alarm: string | null;
  /** The sockets that have been silent longest, up to three; `deadAtMs` is null where silence is allowed. */
  silent: { protocol: number; seenAtMs: number; deadAtMs: number | null }[];
}
