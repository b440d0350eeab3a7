import { isRevoked } from "../../src/access/claims.ts";
import type { Departure } from "../../src/actor/session.ts";
import { log } from "../../src/log.ts";
import type { Report, ReportAnswer } from "../../src/people/directory.ts";
import { CLOSE } from "../../src/wire/close.ts";
import type { ChangeLog } from "./changes.ts";
import { type ChangeDraft, type Member, memberRecord } from "./contract.ts";
import type { PresenceActor } from "./meta.ts";

/** Storage key of a user whose presence was reported, or is in the change log. */
const MEMBER_PREFIX = "member:";
/** Reports that are under way at once. */
const REPORTS_AT_ONCE = 100;
/** The wait before reports that failed are sent again, in ms; each further time doubles it. */
const RETRY_MS = 1_000;
const LONGEST_RETRY_MS = 300_000;
/** Time for the closes of sockets to arrive that closed while the actor slept, in ms. */
const LATE_CLOSES_MS = 200;
/** Name of the timer of reports that failed. */
export const REPORTS = "reports";

/** Sessions of a user in the room, and those of them that others see. */
export interface Count {
  sessions: number;
  listed: number;
}

/** What a ledger needs of the room's presence. */
export interface LedgerHost {
  count(userId: string): Count;
  /** How a user left, since the last commit. */
  reasonOf(userId: string): Departure | undefined;
  /** All sessions that others see. */
  totalListed(): number;
}

export interface LedgerOptions extends LedgerHost {
  /** Where changes are written, in rooms that webhooks select. */
  changes: ChangeLog | undefined;
  /** Sends a report to the user's actor, where the directory is on. */
  report:
    | ((userId: string, report: Omit<Report, "binding" | "room">) => Promise<ReportAnswer>)
    | undefined;
  /** The change log may have more; `isVacated`: and others see nobody any more. */
  onChanges(isVacated: boolean): void;
}

/**
 * The users of the room, in storage, with a row each. After a crash the room reads from it which users it has
 * lost. A user's row changes in one transaction with the change log.
 */
export class Ledger {
  readonly #actor: PresenceActor<string>;
  readonly #storage: DurableObjectStorage;
  readonly #options: LedgerOptions;
  /** As stored. */
  readonly #members = new Map<string, Member>();
  #listed = 0;
  /** Users whose sessions may have changed since the last commit. */
  readonly #touched = new Set<string>();
  /** Users whose report is due, in order. */
  readonly #due = new Set<string>();
  /** Those whose report is under way. */
  readonly #reporting = new Set<string>();
  #reportedAtMs = 0;
  #isRestoring = false;
  /** Those whose last report failed. */
  readonly #failed = new Set<string>();
  #retryMs = RETRY_MS;

  constructor(actor: PresenceActor<string>, options: LedgerOptions) {
    this.#actor = actor;
    this.#storage = actor.getStorage();
    this.#options = options;
    for (const [key, stored] of this.#storage.kv.list({ prefix: MEMBER_PREFIX })) {
      const member = memberRecord.read(stored);
      if (member) this.#members.set(key.slice(MEMBER_PREFIX.length), member);
    }
    // A new log has no entry of the users that are stored.
    if (options.changes?.isNew) {
      for (const [userId, member] of this.#members) {
        this.#members.set(userId, { ...member, listed: false });
      }
    }
    for (const { listed } of this.#members.values()) if (listed) this.#listed += 1;
  }

  /** Whether a token that was issued at this second was revoked, as far as the room knows. */
  isRevoked(userId: string, issuedAtS: number | undefined): boolean {
    return isRevoked(issuedAtS, this.#members.get(userId)?.floorS);
  }

  /** The sessions of a user have changed: {@link commit} is due at the next flush. */
  touch(userId: string): void {
    this.#touched.add(userId);
  }

  /**
   * Finds what has changed while no instance ran. A missing user may only have closed a socket while the actor
   * slept: the runtime reports such a close a moment later. So missing users get a short time.
   */
  restore(userIds: Iterable<string>): void {
    for (const userId of userIds) this.touch(userId);
    this.commit();
    this.#options.onChanges(false);
    const { count } = this.#options;
    const missing = [...this.#members.keys()].filter((userId) => count(userId).sessions === 0);
    // A timer keeps the actor awake: mostly all are here.
    if (this.#isRestoring || missing.length === 0) return;
    this.#isRestoring = true;
    setTimeout(() => {
      this.#isRestoring = false;
      for (const userId of this.#members.keys()) this.touch(userId);
      this.commit();
      // A user who is back may have been reported as gone just before a crash.
      for (const userId of missing) if (count(userId).sessions > 0) this.#due.add(userId);
      this.#sendReports();
    }, LATE_CLOSES_MS);
  }

  /** The users that others see, with the number of their sessions, as the change log has them. */
  snapshot(): { userId: string; sessions: number }[] {
    return [...this.#members].flatMap(([userId, { listed }]) =>
      listed ? [{ userId, sessions: this.#options.count(userId).listed }] : [],
    );
  }

  /** Stores and reports the users that joined and left. */
  commit(): void {
    if (this.#touched.size === 0) return;
    const { changes, report } = this.#options;
    const drafts: ChangeDraft[] = [];
    const writes = new Map<string, Member | null>();
    const reports: string[] = [];
    const members = new Map<string, Member | undefined>();
    let listedUsers = this.#listed;
    for (const userId of this.#touched) {
      const before = this.#members.get(userId);
      const { sessions, listed } = this.#options.count(userId);
      const isListed = listed > 0;
      const isPresent = report ? sessions > 0 : isListed;
      const isChanged = isListed !== (before?.listed ?? false);
      if (isPresent === (before !== undefined) && !isChanged) continue;
      if (isChanged) {
        listedUsers += isListed ? 1 : -1;
        if (changes) drafts.push(...this.#drafts(userId, listed, listedUsers));
      }
      const member = { ...before, listed: isListed };
      // The row of a user whose end is still to be reported stays until then.
      if (isPresent || report) {
        members.set(userId, member);
        if (isPresent || changes) writes.set(userId, member);
      } else {
        members.set(userId, undefined);
        writes.set(userId, null);
      }
      if (report) reports.push(userId);
    }
    if (members.size === 0) {
      this.#touched.clear();
      return;
    }
    try {
      this.#storage.transactionSync(() => {
        for (const [userId, member] of writes) this.#write(userId, member);
        changes?.append(drafts);
      });
    } catch (error) {
      // Presence goes on; the next flush tries again.
      log("roster_not_stored", { error });
      return;
    }
    this.#touched.clear();
    this.#listed = listedUsers;
    for (const [userId, member] of members) {
      if (member) this.#members.set(userId, member);
      else this.#members.delete(userId);
    }
    if (drafts.length > 0) this.#options.onChanges(listedUsers === 0);
    for (const userId of reports) this.#due.add(userId);
    this.#sendReports();
  }

  #write(userId: string, member: Member | null): void {
    const { kv } = this.#storage;
    if (member) kv.put(MEMBER_PREFIX + userId, memberRecord.write(member));
    else kv.delete(MEMBER_PREFIX + userId);
  }

  /** @param listedUsers as many as others see from now on */
  #drafts(userId: string, listed: number, listedUsers: number): ChangeDraft[] {
    const at = Date.now();
    const total = this.#options.totalListed();
    if (listed > 0) {
      const joined = { type: "user.joined", userId, sessions: listed, at } as const;
      if (listedUsers > 1) return [joined];
      return [{ type: "room.occupied", sessions: total, at }, joined];
    }
    const reason = this.#options.reasonOf(userId) ?? "lost";
    const left = { type: "user.left", userId, sessions: 0, reason, at } as const;
    return listedUsers > 0 ? [left] : [left, { type: "room.vacated", sessions: 0, at }];
  }

  // ── Reports ─────────────────────────────────────────────────────────────────────────────────

  #sendReports(): void {
    for (const userId of this.#due) {
      if (this.#reporting.size >= REPORTS_AT_ONCE) return;
      if (this.#reporting.has(userId)) continue;
      this.#due.delete(userId);
      this.#reporting.add(userId);
      this.#actor.keep(this.#sendReport(userId));
    }
  }

  async #sendReport(userId: string): Promise<void> {
    try {
      await this.#report(userId);
    } catch (error) {
      log("report_failed", { error });
      this.#failed.add(userId);
      this.#retryMs = Math.min(this.#retryMs * 2, LONGEST_RETRY_MS);
      this.#actor.timers.soonest(REPORTS, Date.now() + this.#retryMs);
    } finally {
      this.#reporting.delete(userId);
      this.#sendReports();
    }
  }

  async #report(userId: string): Promise<void> {
    const { report, count } = this.#options;
    if (!report) return;
    const { sessions, listed } = count(userId);
    this.#reportedAtMs = Math.max(Date.now(), this.#reportedAtMs + 1);
    const atMs = this.#reportedAtMs;
    const answer = await report(userId, { atMs, isPresent: sessions > 0, isListed: listed > 0 });
    this.#failed.delete(userId);
    if (this.#failed.size === 0) this.#retryMs = RETRY_MS;
    if (answer.floorS !== undefined) this.revoke(userId, answer.floorS);
    if (answer.atMs > atMs) {
      // The clock was set back since another report.
      this.#reportedAtMs = answer.atMs;
      this.#due.add(userId);
    } else if (answer.isFull) {
      this.#actor.closeUser(userId, CLOSE.forbidden, "This user is in too many rooms");
    } else if (sessions === 0 && count(userId).sessions > 0) {
      // Back meanwhile: where nobody sees the user, the row is the same as before.
      this.#due.add(userId);
    } else if (sessions === 0 && !this.#touched.has(userId)) {
      this.#members.delete(userId);
      this.#write(userId, null);
    }
  }

  /** Reports again what could not be reported: all users, if that was forgotten in a sleep. */
  retry(): void {
    const userIds = this.#failed.size > 0 ? this.#failed : this.#members.keys();
    for (const userId of userIds) this.#due.add(userId);
    this.#sendReports();
  }

  // ── Revocation ──────────────────────────────────────────────────────────────────────────────

  /** Closes a user's sessions whose tokens were issued up to a second. @returns how many */
  revoke(userId: string, floorS: number): number {
    const member = this.#members.get(userId);
    if (member && (member.floorS ?? 0) < floorS) {
      const raised = { ...member, floorS };
      this.#members.set(userId, raised);
      this.#write(userId, raised);
    }
    return this.#actor.closeUser(userId, CLOSE.unauthorized, "The token was revoked", ({ meta }) =>
      isRevoked(meta.issuedAtS, floorS),
    );
  }
}
