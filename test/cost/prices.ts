/**
 * What Cloudflare charges on the Workers Paid plan, in US dollars, as published on the date below.
 * All prices of `npm run cost` stand here and nowhere else.
 */

/** The day on which the pages under {@link SOURCES} were read. */
export const PRICES_DATE = "2026-11-21";

export const SOURCES = [
  "https://developers.cloudflare.com/workers/platform/pricing/",
  "https://developers.cloudflare.com/durable-objects/platform/pricing/",
  "https://developers.cloudflare.com/durable-objects/concepts/durable-object-lifecycle/",
  "https://developers.cloudflare.com/kv/platform/pricing/",
  "https://developers.cloudflare.com/d1/platform/pricing/",
] as const;

export interface Price {
  /** As a bill would name it. */
  name: string;
  /** What a month has for nothing. */
  included: number;
  perMillion: number;
}

/** The plan itself, per month. */
export const BASE = 5;

export const PRICES = {
  /** Inbound requests and upgrades. What a Worker asks of others, and frames that pass, are not. */
  workerRequests: { name: "Worker requests", included: 10e6, perMillion: 0.3 },
  workerCpuMs: { name: "Worker CPU", included: 30e6, perMillion: 0.02 },
  /** Calls, upgrades, alarms that ring, and incoming messages at {@link MESSAGES_PER_REQUEST}. */
  actorRequests: { name: "actor requests", included: 1e6, perMillion: 0.15 },
  /** Time awake, at {@link ACTOR_GB} whatever is used. */
  gbSeconds: { name: "time awake", included: 400e3, perMillion: 12.5 },
  rowsRead: { name: "rows read", included: 25e9, perMillion: 0.001 },
  /** A `put`, a `delete` and a `setAlarm` are a row each. */
  rowsWritten: { name: "rows written", included: 50e6, perMillion: 1 },
  d1RowsRead: { name: "D1 rows read", included: 25e9, perMillion: 0.001 },
  d1RowsWritten: { name: "D1 rows written", included: 50e6, perMillion: 1 },
  kvReads: { name: "KV reads", included: 10e6, perMillion: 0.5 },
  kvWrites: { name: "KV writes", included: 1e6, perMillion: 5 },
} as const satisfies Record<string, Price>;

/** Incoming WebSocket messages that are billed as one request to an actor. */
export const MESSAGES_PER_REQUEST = 20;
/** An actor is billed for 128 MB. */
export const ACTOR_GB = 0.128;
/** An actor that may hibernate does so after this time without an event, in ms. */
export const HIBERNATES_AFTER_MS = 10_000;
