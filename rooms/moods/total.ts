import type * as z from "zod/mini";
import { log } from "../../src/log.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { type Others, type Report, reportOf } from "./contract.ts";
import {
  type CountHost,
  callShard,
  type GlobalCount,
  keyOf,
  REPORT_INTERVAL_MS,
  RETRY_MS,
  remaining,
  SHARD_TIMEOUT_MS,
  withTimeout,
} from "./shards.ts";
import { shardName, sumTallies, type Tally } from "./tally.ts";

/** A stub needs a host in its URL, whichever. */
const HOST = "https://moods";
/** In the query of a failure detector's upgrade. Shards of the release before know it by this name. */
export const DETECTOR = "witness";

/** What the total knows of a shard. */
interface Known {
  report: Report;
  /** From then on the shard must be asked before its count is used, in ms. */
  staleAtMs: number;
  /** The count of the others as it was last sent to the shard, as {@link keyOf}. */
  lastSent: string | undefined;
  hasDetector: boolean;
}

/**
 * Adds up the shards. All that it knows it could ask for again.
 *
 * After a crash a shard still has what it stored, and its alarm makes it report. Its sockets are gone,
 * and then nothing wakes it. So the total opens a socket of its own to each shard that has sockets, as
 * a failure detector: a crash closes this socket as well. To ask these shards every second would be as
 * exact, but would keep all of them awake; an outgoing socket keeps only the total in memory, and only
 * while anybody is connected.
 */
export class Total implements GlobalCount {
  readonly #host: CountHost;
  readonly #schema: z.ZodMiniType<Report>;
  readonly #detectorUrl: string;
  readonly #known = new Map<number, Known>();
  #asking: Promise<void> | null = null;
  #version = 0;
  #isSpreading = false;
  #spreadAtMs = 0;

  constructor(host: CountHost) {
    this.#host = host;
    this.#schema = reportOf(host.moodCount);
    this.#detectorUrl = `${HOST}${host.websocketPath}?${DETECTOR}`;
  }

  get tally(): Tally {
    return this.#sum([...this.#known.values()]);
  }

  #sum(shards: Known[]): Tally {
    const tallies = shards.map(({ report }) => report.tally);
    return sumTallies(this.#host.moodCount, tallies);
  }

  /** Asks the shards that never reported, and those whose last report is too old. */
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
      const answer = callShard(this.#stub(shard)).count(others);
      this.adopt(this.#schema.parse(await withTimeout(SHARD_TIMEOUT_MS, answer)));
    } catch (error) {
      log("moods_shard_unreachable", { shard, error });
      const known = this.#knownOf(shard);
      const now = Date.now();
      // No heartbeat reached it either, so the sessions of its last report have expired.
      if (now - known.report.atMs >= this.#host.ttlMs) known.report = this.#emptyReport(shard);
      known.lastSent = undefined;
      known.staleAtMs = now + RETRY_MS;
      this.#host.onNews();
    }
  }

  /** Takes over a shard's report, unless it has a newer one. */
  adopt(report: Report): void {
    const known = this.#knownOf(report.shard);
    const { report: old, lastSent } = known;
    if (old.atMs > report.atMs) return;
    // An empty shard's report is right until the shard's next event, after which it reports.
    const isEmpty = !report.watched && report.tally.every((n) => n === 0);
    known.report = report;
    known.staleAtMs = isEmpty ? Number.POSITIVE_INFINITY : Date.now() + this.#host.ttlMs;
    if (report.watched) this.#host.keep(this.#detectFailure(known));
    const isBehind = report.watched && lastSent === undefined;
    if (isBehind || keyOf(old.tally) !== keyOf(report.tally)) this.changed();
  }

  /** Opens a socket to the shard. It ends by a crash, or when the shard closes it for lack of pings. */
  async #detectFailure(known: Known): Promise<void> {
    if (known.hasDetector) return;
    known.hasDetector = true;
    const { shard } = known.report;
    try {
      const upgrade = new Request(this.#detectorUrl, { headers: { Upgrade: "websocket" } });
      const answer = this.#stub(shard).fetch(upgrade);
      const { webSocket } = await withTimeout(SHARD_TIMEOUT_MS, answer);
      if (!webSocket) throw new RollcallError("unavailable", "The shard takes no sockets");
      const ended = new Promise((resolve) => {
        webSocket.addEventListener("close", resolve);
        webSocket.addEventListener("error", resolve);
      });
      webSocket.accept();
      await ended;
      known.hasDetector = false;
      await this.#ask(shard);
    } catch (error) {
      log("moods_detector_failed", { shard, error });
      known.hasDetector = false;
      known.staleAtMs = Date.now() + RETRY_MS;
      this.#host.onNews();
    }
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
    this.#host.onNews();
    if (this.#isSpreading) return;
    this.#isSpreading = true;
    setTimeout(
      () => {
        this.#isSpreading = false;
        this.#spreadAtMs = Date.now();
        this.#host.keep(this.#spread());
      },
      remaining(REPORT_INTERVAL_MS, this.#spreadAtMs),
    );
  }

  /** Sends the count of the others to shards with sockets. Other shards receive it when they report. */
  async #spread(): Promise<void> {
    const watched = [...this.#known.values()].filter(({ report }) => report.watched);
    const calls = watched.map(({ report: { shard }, lastSent }) => {
      const others = this.othersOf(shard);
      return keyOf(others.tally) === lastSent ? undefined : this.#ask(shard, others);
    });
    await Promise.all(calls);
  }

  get dueAtMs(): number | undefined {
    const known = [...this.#known.values()];
    const isWatched = this.#host.hasListeners() || known.some(({ report }) => report.watched);
    const dueAtMs = Math.min(...known.map(({ staleAtMs }) => staleAtMs));
    return isWatched && dueAtMs < Number.POSITIVE_INFINITY ? dueAtMs : undefined;
  }

  #knownOf(shard: number): Known {
    let known = this.#known.get(shard);
    if (!known) {
      const report = this.#emptyReport(shard);
      known = { report, staleAtMs: 0, lastSent: undefined, hasDetector: false };
      this.#known.set(shard, known);
    }
    return known;
  }

  #emptyReport(shard: number): Report {
    return { shard, tally: sumTallies(this.#host.moodCount, []), watched: false, atMs: 0 };
  }

  #stub(shard: number) {
    return this.#host.stub(shardName(shard));
  }
}
