import type { CallResult } from "../actor/call.ts";
import type { Distribution, DistributionHost, Relay, Scope, Shard } from "../actor/distribution.ts";
import { log } from "../log.ts";
import { RollcallError, toErrorPayload } from "../wire/errors.ts";
import { MAX_SHARDS, placeOf, shardName, shardOf, totalName } from "./layout.ts";
import { RELAY, Relays, readBatch } from "./relay.ts";
import { callWithin } from "./within.ts";

/** The name of the call that starts an actor, so that it finds the number of shards changed. */
const LAYOUT = "rollcall:layout";
/** An actor must answer it within this time, in ms. */
const LAYOUT_MS = 10_000;
/** The wait before actors that did not answer are called again, in ms. */
const LAYOUT_RETRY_MS = 30_000;
/** Storage key of the number of shards that the room had when the actor last started. */
const SHARDS_KEY = "rollcall:shards";
/** Storage key of the names of actors that are still to be started. */
const PENDING_KEY = "rollcall:layout";

/**
 * One actor of a room that is distributed: a shard, or what is left of the room from a time when it had
 * another number of shards.
 */
export class Shards implements Distribution {
  readonly #host: DistributionHost;
  readonly #room: string;
  readonly #shards: number;
  readonly #isTotal: boolean;
  /** Undefined for an actor to which no user belongs, or belongs any more. */
  readonly #index: number | undefined;
  readonly shard: Shard | undefined;
  readonly #relays: Relays | undefined;

  /** @param shards of the room, 1 to 256 */
  constructor(host: DistributionHost, shards: number) {
    const { room, index } = placeOf(host.actorName);
    this.#host = host;
    this.#room = room;
    this.#shards = shards;
    this.#isTotal = index === null;
    const own = shards > 1 ? (index ?? shards) : index === undefined ? 0 : shards;
    this.#index = own < shards ? own : undefined;
    this.shard =
      shards === 1
        ? undefined
        : {
            index: this.#index ?? null,
            shards,
            ofUser: (userId) => shardOf(userId, shards),
            stub: (to) => host.stub(to === null ? totalName(room) : shardName(room, to)),
            relay: (data, to) => {
              if (to === this.#index) return;
              host.append(JSON.stringify({ data }), {
                room: true,
                ...(to !== undefined && { to }),
              });
            },
          };
    if (shards > 1 && this.#index !== undefined) {
      this.#relays = new Relays(host, this.#index, shards, (to) => host.stub(shardName(room, to)));
    }
  }

  // ── The number of shards ────────────────────────────────────────────────────────────────────

  /**
   * Where the number of shards has changed, users have other actors now: their connections here are
   * closed. Actors that are asleep do not know it. The first shard starts all that were there before.
   */
  start(): void {
    this.#relays?.start();
    const { kv } = this.#host.storage;
    const stored = kv.get<number>(SHARDS_KEY);
    // A room that never had shards stores nothing, nor does the actor that adds up.
    if (this.#isTotal || this.#shards === (stored ?? 1)) return;
    kv.put(SHARDS_KEY, this.#shards);
    this.#host.keepName();
    const isFirst = stored === undefined && this.#index !== undefined && this.#shards > 1;
    if (!isFirst) this.#restart("The number of shards has changed");
    const first = this.#shards > 1 ? shardName(this.#room, 0) : this.#room;
    if (this.#host.actorName !== first) this.#startAll([first]);
    else {
      const count = Math.max(this.#shards, Math.min(stored ?? 1, MAX_SHARDS));
      const names = Array.from({ length: count }, (_, i) => shardName(this.#room, i));
      this.#startAll([this.#room, ...names].filter((name) => name !== first));
    }
  }

  #restart(reason: string): void {
    if (this.#relays) this.#relays.restart(reason);
    else this.#host.restart(reason);
  }

  #startAll(names: readonly string[]): void {
    this.#host.storage.kv.put(PENDING_KEY, names);
    this.#host.wakeAt(LAYOUT, Date.now() + LAYOUT_RETRY_MS);
    this.#host.keep(this.#callAll(names));
  }

  async #callAll(names: readonly string[]): Promise<void> {
    const call = async (name: string): Promise<string[]> => {
      try {
        await callWithin(LAYOUT_MS, this.#host.stub(name), LAYOUT, { shards: this.#shards });
        return [];
      } catch (error) {
        log("shard_not_started", { error });
        return [name];
      }
    };
    const failed = (await Promise.all(names.map(call))).flat();
    const { kv } = this.#host.storage;
    if (failed.length === 0) {
      kv.delete(PENDING_KEY);
      this.#host.wakeAt(LAYOUT, Number.POSITIVE_INFINITY);
    } else {
      kv.put(PENDING_KEY, failed);
      this.#host.wakeAt(LAYOUT, Date.now() + LAYOUT_RETRY_MS);
    }
  }

  admit(userId: string): void {
    if ((this.shard?.ofUser(userId) ?? 0) === this.#index) return;
    throw new RollcallError("unavailable", "Another actor has this user now");
  }

  // ── Events ──────────────────────────────────────────────────────────────────────────────────

  relayOf(scope: Scope): Relay | undefined {
    if (!this.#relays) return undefined;
    if (scope.userId === undefined) return scope;
    const to = shardOf(scope.userId, this.#shards);
    return to === this.#index ? undefined : { ...scope, to };
  }

  flush(): void {
    this.#relays?.flush();
  }

  // ── Calls and deadlines ─────────────────────────────────────────────────────────────────────

  rings(name: string): boolean {
    return name === RELAY || name === LAYOUT;
  }

  ring(): void {
    this.#relays?.flush();
    const pending = this.#host.storage.kv.get<string[]>(PENDING_KEY);
    if (pending) this.#startAll(pending);
  }

  call(name: string, data: unknown): CallResult | undefined {
    if (name !== RELAY && name !== LAYOUT) return undefined;
    try {
      if (name === RELAY) this.#receive(data);
      return { ok: true, value: null };
    } catch (error) {
      return { ok: false, error: toErrorPayload(error) };
    }
  }

  #receive(data: unknown): void {
    const batch = readBatch(data);
    // One of the two runs on code, or variables, of another release.
    if (!this.#relays || batch.shards !== this.#shards) {
      throw new RollcallError("unavailable", "The number of shards is another here");
    }
    this.#relays.receive(batch);
  }
}
