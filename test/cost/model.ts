/**
 * What users do on one day: the assumptions behind `npm run cost`, to be edited here. All else is
 * measured. Times of day are drawn from a seed, evenly over the waking hours.
 */
const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;

export const DAYS_PER_MONTH = 30;
export const USERS = [1_000, 100_000, 1_000_000] as const;
export const SEED = 8;

/** Everybody sleeps at night. */
export const WAKING = { fromMs: 7 * HOUR, toMs: 23 * HOUR } as const;
/** How late a heartbeat or a message may be. */
export const JITTER_MS = 300;
/** From an envelope to the client's ack. */
export const ACK_MS = 100;

/**
 * What an event takes an actor at least, whatever it does: the figure of Cloudflare's own examples of
 * a bill. Here, on an idle machine, most events take a tenth of it.
 */
export const EVENT_MS = 10;
/** CPU of one request in a Worker: parse, check a token, call an actor. */
export const WORKER_CPU_MS = 1;

/** How sessions of sockets end, as shares: the page closes (1001), the network is gone, or left (1000). */
export const ENDS = { gone: 0.5, lost: 0.1 } as const;

export const MODEL = {
  presence: {
    says: "rooms of 20; per user 2 sessions of 45 min and 8 changes of status; tokens of 1 h; half of the sessions end with 1001, one in ten with a lost network",
    cohort: 20,
    roomUsers: 20,
    sessions: 2,
    sessionMs: 45 * MINUTE,
    statusChanges: 8,
    tokenMs: HOUR,
  },
  devices: {
    says: "per user 2 devices for 8 h; each sends a heartbeat, or a ping, every 10 s and has a ttl of 35 s; it reports offline and online again for 2 breaks of 15 min (4 changes of status); one phone watches for 2 h by SSE, with tokens of 15 min",
    cohort: { socket: 6, rollcall: 2 },
    devices: 2,
    beatMs: 10 * SECOND,
    awakeMs: 8 * HOUR,
    breaks: 2,
    breakMs: 15 * MINUTE,
    ttlMs: 35 * SECOND,
    watchMs: 2 * HOUR,
    tokenMs: 15 * MINUTE,
    /** How often a phone looks where nothing can be pushed to it. */
    pollMs: 10 * SECOND,
  },
  fanout: {
    says: "per user 2 sockets of 4 h, 3 filters each; 20 publishes spread over the waking hours, with an idempotency key; an ack after 100 ms; half of the sockets end with 1001, one in ten with a lost network",
    cohort: 5,
    sockets: 2,
    socketMs: 4 * HOUR,
    publishes: 20,
    filters: 3,
    tokenMs: 12 * HOUR,
  },
  moods: {
    says: "per user 6 visits of 10 min, one change of mood in each; one room for the whole app, evenly used; by a socket, or by polling every 10 s",
    visits: 6,
    visitMs: 10 * MINUTE,
    pollMs: 10 * SECOND,
    /**
     * Actors that sessions are spread over. Polled, each gets up to 110 heartbeats a second on average,
     * which leaves room for peaks below Cloudflare's soft limit of 1000 requests a second.
     */
    shards: { 1000: 1, 100000: 4, 1000000: 40 },
  },
  workspace: {
    says: "workspaces of 5 members, each connected for 8 h; 200 events a day per workspace, pushed one by one",
    cohort: 5,
    members: 5,
    socketMs: 8 * HOUR,
    events: 200,
    tokenMs: 12 * HOUR,
  },
} as const;

export type System = keyof typeof MODEL;

/** Pings of clients, in ms: ours as they are set, and those of the designs that are replaced. */
export const PINGS = {
  presence: 5 * SECOND,
  fanout: 25 * SECOND,
  moods: 10 * SECOND,
  workspace: 10 * SECOND,
  replaced: 5 * SECOND,
} as const;

/** The bearer of the backend that mints phones' tokens. */
export const MINT_TOKEN = "cost-mint-token-0123456789-0123456789";
