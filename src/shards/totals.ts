import type { StandardSchemaV1 } from "@standard-schema/spec";
import type { CallTarget } from "../actor/call.ts";
import type { ConnectionMeta, EventMap, Room, VeraniActor } from "../actor/room.ts";
import { log } from "../log.ts";
import { RollcallError } from "../wire/errors.ts";
import { callWithin } from "./within.ts";

/** A report, and a shard's count of the others, are at most so old each: together within 1 s. */
const REPORT_MS = 500;
/** After a failure, the time until the next attempt, in ms. */
const RETRY_MS = 1_000;
/** Time for a shard to answer the total, in ms, and for the total, which may ask shards first. */
const SHARD_MS = 2_000;
const TOTAL_MS = 2 * SHARD_MS;
/** The total stores what it knows once nothing has changed for so long, in ms: before it sleeps. */
const STORE_MS = 2_000;
/** Name of the timer of a report that failed. */
const REPORT = "report";
const REPORTS_KEY = "rollcall:reports";

/** What is counted: so many numbers, which are added up by their places. */
export type Tally = number[];

/** From a shard to the total. The numbers are absolute: the next report makes up for a lost one. */
export interface Report {
  shard: number;
  tally: Tally;
  /** Whether it needs the count of the others at once. */
  watched: boolean;
  atMs: number;
  /** The shard's next alarm, in ms: until then it may sleep. Absent in reports of earlier releases. */
  untilMs?: number;
}

/** From the total to a shard: the count of all the other shards. */
export interface Others {
  tally: Tally;
  /** Grows with each message: an answer and a call may overtake each other. */
  version: number;
}

/** The calls between the actors that count: `report` of the total, `count` of a shard. */
export type TotalCalls = {
  report: { in: Report; out: Others };
  count: { in: Others | undefined; out: Report };
};

/** The count of a room, as one of its actors knows it. */
export interface Totals {
  /** As far as it is known now. */
  readonly tally: Tally;
  /**
   * Resolves when {@link tally} is at most a second old.
   *
   * @throws RollcallError `unavailable` when the total does not answer and never has
   */
  refresh(): Promise<void>;
  /** The own count, or whether it is watched here, may have changed. */
  changed(): void;
}

/** The actor that counts, as far as counting needs it. */
type CountingActor = Pick<VeraniActor, "keep" | "timers" | "getStorage">;

/** What counting needs of a room. */
export interface TotalsHost {
  readonly actor: CountingActor;
  readonly shards: number;
  /** The length of a tally. */
  readonly width: number;
  /** The actor of a shard, or with `null` the total. */
  stub(shard: number | null): CallTarget;
  /** The own count. */
  own(): Tally;
  /** Whether somebody here is to learn the count at once. */
  isWatched(): boolean;
  /** {@link Totals.tally} is another. */
  onChange(): void;
}

/**
 * The count of an actor: of a shard by its number, or with `null` the total. A single shard knows the
 * count by itself.
 */
export function createTotals(index: number | null, host: TotalsHost): Totals {
  if (host.shards === 1) {
    return {
      get tally() {
        return host.own();
      },
      refresh: async () => {},
      changed: () => {},
    };
  }
  return index === null ? new SumTotals(host) : new ShardTotals(host, index);
}

/** Declares the calls, and the timer, by which the actors of a room count together. */
export function countTogether<M extends ConnectionMeta, E, V extends EventMap>(
  room: Room<M, E, V>,
  width: number,
  totalsOf: (actor: VeraniActor<M, E, V>) => Totals | undefined,
): Room<M, E, V, TotalCalls> {
  function roleOf<T>(actor: VeraniActor<M, E, V>, role: new (...args: never[]) => T): T {
    const totals = totalsOf(actor);
    if (totals instanceof role) return totals;
    throw new RollcallError("unprocessable", `${actor.name} is no ${role.name} here`);
  }
  room.timer(REPORT, (actor) => roleOf(actor, ShardTotals).report());
  return room
    .call("report", reportSchema(width), async (actor, report) => {
      const total = roleOf(actor, SumTotals);
      total.adopt(report);
      await total.refresh();
      return total.othersOf(report.shard);
    })
    .call("count", othersSchema(width), (actor, others) => {
      const shard = roleOf(actor, ShardTotals);
      shard.receive(others);
      return shard.ownReport();
    });
}

/** A tally as a text, to compare. */
export const keyOf = (tally: Tally) => tally.join();

/** The sum of tallies of `width` numbers. */
export function sumTallies(width: number, tallies: Iterable<Tally>): Tally {
  const total: Tally = new Array(width).fill(0);
  for (const tally of tallies) for (const [i, n] of tally.entries()) total[i] = (total[i] ?? 0) + n;
  return total;
}

/** The rest of a pause of `intervalMs` since `sinceMs`, in ms; right even if the clock was set back. */
export const remaining = (intervalMs: number, sinceMs: number) =>
  Math.min(Math.max(sinceMs + intervalMs - Date.now(), 0), intervalMs);

// ── What actors send each other ──────────────────────────────────────────────────────────────────

const isCount = (n: unknown) => Number.isInteger(n) && (n as number) >= 0;

function schemaOf<T>(matches: (value: Partial<T>) => boolean): StandardSchemaV1<T, T> {
  return {
    "~standard": {
      version: 1,
      vendor: "rollcall",
      validate: (value) =>
        typeof value === "object" && value !== null && matches(value)
          ? { value: value as T }
          : { issues: [{ message: "Not what shards send each other" }] },
    },
  };
}

const isTally = (width: number, tally: unknown) =>
  Array.isArray(tally) && tally.length === width && tally.every(isCount);

/** The schema of a {@link Report} of `width` numbers. Fields of a later release are ignored. */
const reportSchema = (width: number) =>
  schemaOf<Report>(
    ({ shard, tally, watched, atMs }) =>
      isCount(shard) &&
      isTally(width, tally) &&
      typeof watched === "boolean" &&
      Number.isFinite(atMs),
  );

/** The schema of {@link Others}, or of nothing. */
function othersSchema(width: number): StandardSchemaV1<Others | undefined> {
  const { validate, ...standard } = schemaOf<Others>(
    ({ tally, version }) => isTally(width, tally) && Number.isFinite(version),
  )["~standard"];
  return {
    "~standard": {
      ...standard,
      validate: (value) => (value === undefined ? { value: undefined } : validate(value)),
    },
  };
}

function parse<T>(schema: StandardSchemaV1<unknown, T>, value: unknown): T {
  const result = schema["~standard"].validate(value);
  if (!(result instanceof Promise) && !result.issues) return result.value;
  throw new RollcallError("bad_request", "Not what shards send each other");
}

// ── Shards ───────────────────────────────────────────────────────────────────────────────────────

/** One shard: its own count, and the count of the others as the total sent it. */
class ShardTotals implements Totals {
  readonly #host: TotalsHost;
  readonly #index: number;
  #others: Others | null = null;
  #othersAtMs = 0;
  #reporting: Promise<void> | null = null;
  #reportedAtMs = 0;
  #isUnreported = false;
  #isScheduled = false;

  constructor(host: TotalsHost, index: number) {
    this.#host = host;
    this.#index = index;
  }

  get tally(): Tally {
    return sumTallies(this.#host.width, [this.#host.own(), this.#others?.tally ?? []]);
  }

  async refresh(): Promise<void> {
    if (Math.abs(Date.now() - this.#othersAtMs) < REPORT_MS) return;
    try {
      await this.report();
    } catch (error) {
      if (!this.#others) throw new RollcallError("unavailable", "The total does not answer");
      log("total_unreachable", { error });
    }
  }

  changed(): void {
    this.#isUnreported = true;
    if (this.#isScheduled || this.#reporting) return;
    this.#isScheduled = true;
    setTimeout(
      () => {
        this.#isScheduled = false;
        if (this.#isUnreported) this.#host.actor.keep(this.report());
      },
      remaining(REPORT_MS, this.#reportedAtMs),
    );
  }

  /** Sends the own count to the total, whose answer is the count of the others. A failure is retried. */
  report(): Promise<void> {
    this.#reporting ??= this.#exchange().finally(() => {
      this.#reporting = null;
      if (this.#isUnreported) this.changed();
    });
    return this.#reporting;
  }

  async #exchange(): Promise<void> {
    this.#reportedAtMs = Date.now();
    this.#isUnreported = false;
    const { width } = this.#host;
    try {
      const stub = this.#host.stub(null);
      const answer = await callWithin(TOTAL_MS, stub, "report", this.ownReport());
      this.receive(parse(othersSchema(width), answer));
    } catch (error) {
      this.#host.actor.timers.soonest(REPORT, Date.now() + RETRY_MS);
      throw error;
    }
  }

  /** For the total. As an answer it may be lost, so a report that is due is sent nevertheless. */
  ownReport(): Report {
    return {
      shard: this.#index,
      tally: [...this.#host.own()],
      watched: this.#host.isWatched(),
      atMs: Date.now(),
      untilMs: this.#host.actor.timers.alarmAt ?? Number.POSITIVE_INFINITY,
    };
  }

  /** The count of the others, from the total. */
  receive(others: Others | undefined): void {
    if (!others || (this.#others && this.#others.version > others.version)) return;
    const isNews = keyOf(others.tally) !== keyOf(this.#others?.tally ?? []);
    this.#others = others;
    this.#othersAtMs = Date.now();
    if (isNews) this.#host.onChange();
  }
}

// ── The total ────────────────────────────────────────────────────────────────────────────────────

/** What the total knows of a shard. */
interface Known {
  report: Report;
  /** From then on the shard must be asked before its count is used, in ms. */
  staleAtMs: number;
  /** The count of the others as it was last sent to the shard, as {@link keyOf}. */
  lastSent: string | undefined;
}

/**
 * Adds up the shards, which report whenever they start and when their count changes. It holds no socket
 * and asks nobody by itself, so it sleeps while nothing happens, and stores what it knows before that. A
 * shard that crashes still has its alarm, and reports then at the latest.
 */
class SumTotals implements Totals {
  readonly #host: TotalsHost;
  readonly #kv: DurableObjectStorage["kv"];
  readonly #known = new Map<number, Known>();
  #asking: Promise<void> | null = null;
  #version = 0;
  #isSpreading = false;
  #spreadAtMs = 0;
  /** What storage has; undefined: that there is something newer. */
  #stored: string | undefined;
  #storeTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(host: TotalsHost) {
    this.#host = host;
    this.#kv = host.actor.getStorage().kv;
    const rows = this.#kv.get<unknown[]>(REPORTS_KEY);
    for (const row of rows ?? []) {
      const result = reportSchema(host.width)["~standard"].validate(row);
      if (result instanceof Promise || result.issues) continue;
      this.#setReport(this.#knownOf(result.value.shard), result.value);
    }
    if (rows && rows.length > 0) this.#stored = this.#key();
  }

  get tally(): Tally {
    return this.#sum([...this.#known.values()]);
  }

  #sum(shards: readonly Known[]): Tally {
    return sumTallies(
      this.#host.width,
      shards.map(({ report }) => report.tally),
    );
  }

  /** Asks the shards that never reported, and those that may be gone. */
  refresh(): Promise<void> {
    this.#asking ??= this.#askAll().finally(() => {
      this.#asking = null;
    });
    return this.#asking;
  }

  async #askAll(): Promise<void> {
    const now = Date.now();
    const stale = Array.from({ length: this.#host.shards }, (_, shard) => shard).filter(
      (shard) => (this.#known.get(shard)?.staleAtMs ?? 0) <= now,
    );
    await Promise.all(stale.map((shard) => this.#ask(shard)));
  }

  /** Asks a shard for its report; the question may carry the count of the others. */
  async #ask(shard: number, others?: Others): Promise<void> {
    try {
      const answer = await callWithin(SHARD_MS, this.#host.stub(shard), "count", others);
      this.adopt(parse(reportSchema(this.#host.width), answer));
    } catch (error) {
      log("shard_unreachable", { shard, error });
      const known = this.#knownOf(shard);
      const now = Date.now();
      // It cannot have slept so long with anybody.
      const isGone = now >= (known.report.untilMs ?? 0) + RETRY_MS;
      if (isGone && this.#isEmptied(known)) this.changed();
      known.lastSent = undefined;
      known.staleAtMs = now + RETRY_MS;
      if (known.report.watched) this.#spreadWithin(RETRY_MS);
    }
  }

  #isEmptied(known: Known): boolean {
    const wasEmpty = known.report.tally.every((n) => n === 0);
    known.report = this.#emptyReport(known.report.shard);
    return !wasEmpty;
  }

  /** Takes over a shard's report, unless it has a newer one. */
  adopt(report: Report): void {
    const known = this.#knownOf(report.shard);
    const { report: old, lastSent } = known;
    if (old.atMs > report.atMs) return;
    this.#setReport(known, report);
    const isBehind = report.watched && lastSent === undefined;
    const isNews = keyOf(old.tally) !== keyOf(report.tally);
    if (isBehind || isNews) this.changed();
    this.#storeSoon();
  }

  #setReport(known: Known, report: Report): void {
    known.report = report;
    // An empty shard's report is right until the shard's next event, after which it reports.
    const isEmpty = !report.watched && report.tally.every((n) => n === 0);
    const untilMs = report.untilMs ?? report.atMs;
    known.staleAtMs = isEmpty ? Number.POSITIVE_INFINITY : untilMs + RETRY_MS;
  }

  /** The count of all shards but this one, which is going to be sent to it. */
  othersOf(shard: number): Others {
    const tally = this.#sum(
      [...this.#known.values()].filter(({ report }) => report.shard !== shard),
    );
    this.#knownOf(shard).lastSent = keyOf(tally);
    // The clock, so that the next instance of the total goes on from there.
    this.#version = Math.max(this.#version + 1, Date.now());
    return { tally, version: this.#version };
  }

  changed(): void {
    this.#host.onChange();
    this.#spreadWithin(remaining(REPORT_MS, this.#spreadAtMs));
  }

  #spreadWithin(waitMs: number): void {
    if (this.#isSpreading) return;
    this.#isSpreading = true;
    setTimeout(() => {
      this.#isSpreading = false;
      this.#spreadAtMs = Date.now();
      this.#host.actor.keep(this.#spread());
    }, waitMs);
  }

  /** Sends the count of the others to shards where it is watched. Others receive it when they report. */
  async #spread(): Promise<void> {
    const watched = [...this.#known.values()].filter(({ report }) => report.watched);
    const calls = watched.map(({ report: { shard }, lastSent }) => {
      const others = this.othersOf(shard);
      return keyOf(others.tally) === lastSent ? undefined : this.#ask(shard, others);
    });
    await Promise.all(calls);
  }

  // ── Storage ─────────────────────────────────────────────────────────────────────────────────

  #reports(): Report[] {
    return [...this.#known.values()].map(({ report }) => report);
  }

  #key(): string {
    return this.#reports()
      .map(({ shard, tally, watched }) => `${shard}:${tally.join()}:${watched}`)
      .join(";");
  }

  /** Storage must not have what is not true any more: the next instance asks the shards then. */
  #storeSoon(): void {
    if (this.#stored !== undefined && this.#stored !== this.#key()) {
      this.#stored = undefined;
      this.#kv.put(REPORTS_KEY, []);
    }
    if (this.#stored !== undefined) return;
    if (this.#storeTimer !== undefined) clearTimeout(this.#storeTimer);
    this.#storeTimer = setTimeout(() => {
      this.#stored = this.#key();
      this.#kv.put(REPORTS_KEY, this.#reports());
    }, STORE_MS);
  }

  #knownOf(shard: number): Known {
    let known = this.#known.get(shard);
    if (!known) {
      known = { report: this.#emptyReport(shard), staleAtMs: 0, lastSent: undefined };
      this.#known.set(shard, known);
    }
    return known;
  }

  #emptyReport(shard: number): Report {
    return { shard, tally: sumTallies(this.#host.width, []), watched: false, atMs: 0 };
  }
}
