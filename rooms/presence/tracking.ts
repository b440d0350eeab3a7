import { isDirectoryOn } from "../../src/access/claims.ts";
import { call } from "../../src/actor/call.ts";
import { namespaceOf } from "../../src/http/binding.ts";
import type { DirectoryCalls } from "../../src/people/directory.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { ChangeLog, parseChangeCursor } from "./changes.ts";
import type { Change } from "./contract.ts";
import { Deliveries } from "./deliveries.ts";
import { Ledger, type LedgerHost } from "./ledger.ts";
import type { PresenceActor } from "./meta.ts";
import { keepsChanges, type WebhookEnv, webhooksOf } from "./webhooks.ts";

/** Changes of a page, at most. */
const PAGE = 500;

/** A page of the change feed. */
export type ChangesPage =
  | { changes: Change[]; cursor: string; more: boolean }
  | { snapshot: { userId: string; sessions: number }[]; cursor: string };

/** How a room finds the directory, and the directory the room. */
export interface TrackingOptions {
  /** Name of the rooms' binding, and of that of the users' actors. */
  binding: string;
  directory: string;
}

/** Stores the users of a room for the directory and for webhooks. Where neither is on, it stores nothing. */
export class Tracking {
  readonly #actor: PresenceActor<string>;
  readonly #options: TrackingOptions;
  readonly #env: WebhookEnv & { DIRECTORY?: string };
  ledger: Ledger | undefined;
  #changes: ChangeLog | undefined;
  deliveries: Deliveries | undefined;

  constructor(actor: PresenceActor<string>, options: TrackingOptions) {
    this.#actor = actor;
    this.#options = options;
    this.#env = actor.env as WebhookEnv & { DIRECTORY?: string };
  }

  /** @returns undefined where nothing is stored */
  begin(host: LedgerHost): Ledger | undefined {
    const actor = this.#actor;
    const { name: room } = actor;
    const env = this.#env;
    const isOn = isDirectoryOn(env) && this.#options.directory in env;
    const isKept = keepsChanges(room, env);
    if (!isOn && !isKept) return undefined;
    const storage = actor.getStorage();
    // An alarm after a crash must know the room's name.
    actor.keepName();
    if (isKept) this.#changes = new ChangeLog(storage, room);
    else ChangeLog.drop(storage);
    const hooks = webhooksOf(room, env);
    const changes = this.#changes;
    if (changes && hooks.length > 0) {
      this.deliveries = new Deliveries(actor, changes, hooks);
    }
    const { binding, directory } = this.#options;
    this.ledger = new Ledger(actor, {
      ...host,
      changes,
      report: isOn
        ? (userId, report) => {
            const stub = namespaceOf(env, directory).getByName(userId);
            const calls = call<{ "~calls"?: DirectoryCalls }>(stub);
            const shard = actor.shard?.index ?? undefined;
            return calls.report({
              binding,
              room,
              ...(shard !== undefined && { shard }),
              ...report,
            });
          }
        : undefined,
      onChanges: (isVacated) => {
        if (isVacated) this.deliveries?.vacated();
        this.deliveries?.send();
      },
    });
    return this.ledger;
  }

  /**
   * The changes after a cursor, or a snapshot where they are not known.
   *
   * @throws RollcallError `not_found` in a room that keeps no changes
   */
  changesAfter(after: string | undefined): ChangesPage {
    const changes = this.#changes;
    if (!changes || !this.ledger) {
      throw new RollcallError("not_found", "This room keeps no changes: no webhook selects it");
    }
    const from = after === undefined ? undefined : parseChangeCursor(after);
    const page = from?.epoch === changes.epoch ? changes.after(from.offset, PAGE) : undefined;
    if (!from || !page) return { snapshot: this.ledger.snapshot(), cursor: changes.cursor };
    const offset = page.at(-1)?.offset ?? from.offset;
    return { changes: page, cursor: `${changes.epoch}:${offset}`, more: offset < changes.offset };
  }
}
