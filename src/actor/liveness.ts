import { log } from "../log.ts";
import { CLOSE } from "../wire/close.ts";
import { PROBED } from "../wire/frames.ts";
import type { Protocol } from "../wire/version.ts";

/** When a silent socket counts as dead. The runtime answers pings; they wake no actor. */
export interface Liveness {
  /** The longest ping interval that a client may have, in ms; announced in `hello`. */
  pingMs: number;
  /**
   * Time for the first ping of a client of protocol 2, in ms. An upgrade whose client left before the
   * answer came leaves a socket that looks open. One sweep serves all that connected meanwhile.
   */
  firstPingMs: number;
  /** Silence after which a socket of protocol 2 is closed with 4408, in ms. */
  deadAfterMs: number;
  /** The same for a client of protocol 1, which does not know `pingMs`. */
  legacyDeadAfterMs: number;
  /** Least time between two sweeps by alarm, each of which is a wake-up and a row, in ms. */
  sweepMs: number;
  /**
   * Above 0: a client that can probe (of protocol 2, with `probe=1`, as `VeraniClient`) sends a probe
   * once none has come for this long, in ms, or up to a ping interval later; the actor then sweeps.
   * While all clients can probe, sweeps cost no row. If all die at once, nobody is left to probe, and
   * their sessions stay for up to 10 minutes. For rooms whose `onDisconnect` matters to members only.
   */
  probeMs: number;
  /**
   * Whether a socket of protocol 1 that never pinged can be dead; false spares clients that never
   * ping. Clients of protocol 2 must ping, unless `pingMs` is 0.
   */
  requirePing: boolean;
  /**
   * Whether a socket of protocol 1 from which nothing came at all can be dead: a client that left during
   * its upgrade may look open for ever. For rooms in which a client must send something first.
   */
  requireFrame: boolean;
}

/**
 * A dead peer is gone within a minute, at one alarm per 45 s while anyone is connected; one that left
 * during its upgrade after about 7 s, at one more alarm after a join.
 */
export const LIVENESS: Liveness = {
  pingMs: 5_000,
  firstPingMs: 7_000,
  deadAfterMs: 15_000,
  legacyDeadAfterMs: 45_000,
  sweepMs: 45_000,
  probeMs: 0,
  requirePing: false,
  requireFrame: false,
};

/** Time between two sweeps by alarm while all clients probe, in ms. */
const PROBED_SWEEP_MS = 10 * 60_000;

/** When a peer counts as dead unless something comes from it. */
export interface Deadline {
  /** Server time in ms; Infinity where silence is allowed. */
  ms: number;
  /** Nothing has come from it yet: the alarm comes at this time, not at the next sweep. */
  isFirst: boolean;
}

/**
 * @param seenAtMs when the last frame came, or the upgrade
 * @param unheard whether no frame has come yet
 * @param pingedAtMs when the runtime answered its last ping, if ever
 */
export function silenceDeadline(
  liveness: Liveness,
  protocol: Protocol,
  seenAtMs: number,
  unheard: boolean,
  pingedAtMs: number | undefined,
): Deadline {
  const { pingMs, firstPingMs, deadAfterMs, legacyDeadAfterMs, requirePing, requireFrame } =
    liveness;
  if (pingedAtMs === undefined) {
    // A client of protocol 2 knows from `hello` how often to ping: one that never does is dead, too.
    const mustPing = requirePing || (requireFrame && unheard) || (protocol >= 2 && pingMs > 0);
    if (!mustPing) return { ms: Number.POSITIVE_INFINITY, isFirst: false };
    if (protocol >= 2 && unheard) return { ms: seenAtMs + firstPingMs, isFirst: true };
  }
  const afterMs = protocol >= 2 ? deadAfterMs : legacyDeadAfterMs;
  return { ms: Math.max(pingedAtMs ?? 0, seenAtMs) + afterMs, isFirst: false };
}

/** What a sweep needs of a session. */
export interface Peer {
  readonly probes: boolean;
  readonly meta: { readonly mayBeSilent?: boolean };
  /** Server time in ms; Infinity where nothing expires. */
  readonly expiresAtMs: number;
  deadline(): Deadline;
  /** Ends it because its token has expired. */
  expire(): void;
  close(code: number, reason: string, end: "dead"): void;
  enqueue(text: string): void;
}

/** Finds the sockets of an actor that are dead or whose token has expired, and knows the next deadline. */
export class Sweeper {
  readonly #liveness: Liveness;
  readonly #peers: () => Iterable<Peer>;
  /** When this instance last swept, in ms. */
  #sweptAtMs = 0;

  constructor(liveness: Liveness, peers: () => Iterable<Peer>) {
    this.#liveness = liveness;
    this.#peers = peers;
  }

  /** Closes all whose token has expired or that have been silent for too long. */
  sweep(now: number): void {
    this.#sweptAtMs = now;
    for (const peer of [...this.#peers()]) {
      try {
        if (now >= peer.expiresAtMs) peer.expire();
        else if (now >= peer.deadline().ms) peer.close(CLOSE.dead, "No ping", "dead");
      } catch (error) {
        log("sweep_failed", { error });
      }
    }
  }

  /**
   * Sweeps before somebody connects, in rooms whose alarms sweep rarely or that rely on probes: dead
   * sockets must not use up a user's limit, and when all members died at once, nobody was left to probe.
   */
  sweepBeforeJoin(): void {
    const { probeMs, sweepMs } = this.#liveness;
    if (probeMs > 0 || sweepMs >= PROBED_SWEEP_MS) this.#sweepUnlessRecent();
  }

  /** A probe from `sender`. After a sweep all clients that probe are notified, so that they need not. */
  probe(sender: Peer): void {
    const notified = this.#sweepUnlessRecent() ? this.#peers() : [sender];
    for (const peer of notified) if (peer.probes) peer.enqueue(PROBED);
  }

  /** One sweep per ping interval is enough, however many request it. @returns whether it swept */
  #sweepUnlessRecent(): boolean {
    const now = Date.now();
    if (Math.abs(now - this.#sweptAtMs) < this.#liveness.pingMs) return false;
    this.sweep(now);
    return true;
  }

  /** The first deadline of a peer that has just connected, in ms. */
  deadlineOf(peer: Peer): number {
    if (peer.meta.mayBeSilent) return peer.expiresAtMs;
    const { deadAfterMs } = this.#liveness;
    const sweepAtMs = Date.now() + Math.max(this.#sweepMs(peer.probes), deadAfterMs);
    const { ms, isFirst } = peer.deadline();
    return Math.min(sweepAtMs, isFirst ? ms : Number.POSITIVE_INFINITY, peer.expiresAtMs);
  }

  /** When to sweep next, in ms; Infinity while no peer can die or expire. */
  nextDeadline(): number {
    let dead = Number.POSITIVE_INFINITY;
    let next = Number.POSITIVE_INFINITY;
    let allProbe = true;
    for (const peer of this.#peers()) {
      allProbe &&= peer.probes;
      const { ms, isFirst } = peer.deadline();
      if (isFirst) next = Math.min(next, ms);
      else dead = Math.min(dead, ms);
      next = Math.min(next, peer.expiresAtMs);
    }
    return Math.min(next, Math.max(dead, Date.now() + this.#sweepMs(allProbe)));
  }

  #sweepMs(probes: boolean): number {
    return probes ? PROBED_SWEEP_MS : this.#liveness.sweepMs;
  }
}
