import { log } from "../../src/log.ts";
import type { ChangeLog } from "./changes.ts";
import { type Change, type Delivery, deliveryRecord } from "./contract.ts";
import type { PresenceActor } from "./meta.ts";
import type { Webhook } from "./webhooks.ts";

/** Storage key of how far a webhook is. */
const PREFIX = "webhook:";
/** Changes of a batch, and their length as JSON, in UTF-16 units. */
const BATCH = 100;
const BATCH_UNITS = 65_536;
/** How long a consumer has to answer, in ms. */
const TIMEOUT_MS = 10_000;
/** The wait after a first attempt that failed, in ms; each further attempt doubles it. */
const RETRY_MS = 1_000;
const LONGEST_RETRY_MS = 3_600_000;
/** After so long a batch is given up, in ms. */
const GIVE_UP_MS = 24 * 3_600_000;
/** If an instance ends in the middle of an attempt, the next one tries again after so long, in ms. */
const INTERRUPTED_MS = 30_000;
/** Name of the timer of attempts. */
export const ATTEMPTS = "webhooks";

const encoder = new TextEncoder();

/**
 * A signature by Standard Webhooks, version 1.
 *
 * @see https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
 */
async function sign(secret: string, text: string): Promise<string> {
  const bytes = Uint8Array.from(atob(secret.slice("whsec_".length)), (char) => char.charCodeAt(0));
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", bytes, algorithm, false, ["sign"]);
  const signature = new Uint8Array(await crypto.subtle.sign("HMAC", key, encoder.encode(text)));
  return `v1,${btoa(String.fromCharCode(...signature))}`;
}

/**
 * Sends the changes of a room to its webhooks, in order, each at least once: one request at a time for
 * each webhook. Between attempts the actor may sleep.
 */
export class Deliveries {
  readonly #actor: PresenceActor<string>;
  readonly #storage: DurableObjectStorage;
  readonly #changes: ChangeLog;
  readonly #hooks: readonly Webhook[];
  readonly #running = new Set<string>();
  readonly #states = new Map<string, Delivery>();

  constructor(actor: PresenceActor<string>, changes: ChangeLog, hooks: readonly Webhook[]) {
    this.#actor = actor;
    this.#storage = actor.getStorage();
    this.#changes = changes;
    this.#hooks = hooks;
  }

  /** Sends what is due. */
  send(): void {
    for (const hook of this.#hooks) {
      if (this.#running.has(hook.url)) continue;
      this.#running.add(hook.url);
      this.#actor.keep(this.#run(hook).finally(() => this.#running.delete(hook.url)));
    }
  }

  /** The alarm of attempts rang. If this instance ends in the middle of one, no other alarm may stand. */
  ring(): void {
    this.#schedule();
    this.send();
  }

  /** Nobody is in the room any more, so that no other alarm would wake it after a crash. */
  vacated(): void {
    if (this.#hooks.length > 0) {
      this.#actor.timers.soonest(ATTEMPTS, Date.now() + INTERRUPTED_MS);
    }
  }

  /** Nothing is left to send to a webhook: its alarm is not needed. */
  #rest(): void {
    if (this.#actor.timers.get(ATTEMPTS) !== undefined) this.#schedule();
  }

  /** Sets the alarm for all batches: to the next attempt, or to a time when one that is due now was interrupted. */
  #schedule(): void {
    const now = Date.now();
    const times = this.#hooks.flatMap((hook) => {
      const { batch } = this.#stateOf(hook);
      if (!batch) return [];
      return [batch.nextAtMs > now ? batch.nextAtMs : now + INTERRUPTED_MS];
    });
    if (times.length === 0) this.#actor.timers.clear(ATTEMPTS);
    else this.#actor.timers.set(ATTEMPTS, Math.min(...times));
  }

  #stateOf({ url }: Webhook): Delivery {
    let state = this.#states.get(url);
    state ??= deliveryRecord.read(this.#storage.kv.get(PREFIX + url));
    const { epoch, firstOffset } = this.#changes;
    // A webhook that is new begins with what is stored, and so does one that lags too far behind.
    if (state?.epoch !== epoch) state = { epoch, offset: firstOffset - 1 };
    this.#states.set(url, state);
    return state;
  }

  #store({ url }: Webhook, state: Delivery): void {
    this.#states.set(url, state);
    this.#storage.kv.put(PREFIX + url, deliveryRecord.write(state));
  }

  async #run(hook: Webhook): Promise<void> {
    for (;;) {
      const state = this.#stateOf(hook);
      const batch = state.batch ?? this.#fix(hook, state);
      if (!batch) return this.#rest();
      const now = Date.now();
      if (state.batch && batch.nextAtMs > now && batch.attempts > 0) {
        this.#actor.timers.soonest(ATTEMPTS, batch.nextAtMs);
        return;
      }
      const isDelivered = await this.#attempt(hook, batch);
      if (!isDelivered && Date.now() - batch.firstAtMs < GIVE_UP_MS) {
        const attempts = batch.attempts + 1;
        const waitMs = Math.min(RETRY_MS * 2 ** batch.attempts, LONGEST_RETRY_MS);
        const nextAtMs = Date.now() + Math.round(waitMs * (0.75 + Math.random() / 2));
        this.#store(hook, { ...state, batch: { ...batch, attempts, nextAtMs } });
        return this.#schedule();
      }
      if (!isDelivered) log("webhook_given_up", { attempts: batch.attempts + 1 });
      const { batch: _, ...rest } = state;
      this.#store(hook, { ...rest, offset: batch.to });
    }
  }

  /** The next batch, which stays the same from now on; undefined where nothing is left. */
  #fix(hook: Webhook, state: Delivery): Delivery["batch"] {
    const { offset } = state;
    const { firstOffset } = this.#changes;
    const after = Math.max(offset, firstOffset - 1);
    const changes: Change[] = [];
    let units = 0;
    let to = after;
    for (const change of this.#changes.after(after, BATCH) ?? []) {
      if (hook.events === undefined || hook.events.has(change.type)) {
        const size = JSON.stringify(change).length;
        if (changes.length > 0 && units + size > BATCH_UNITS) break;
        units += size;
        changes.push(change);
      }
      to = change.offset;
    }
    if (to === after) return undefined;
    if (changes.length === 0) {
      this.#store(hook, { ...state, offset: to });
      return this.#fix(hook, { ...state, offset: to });
    }
    const now = Date.now();
    const batch = {
      id: `msg_${crypto.randomUUID()}`,
      to,
      body: JSON.stringify(changes),
      attempts: 0,
      firstAtMs: now,
      nextAtMs: now + INTERRUPTED_MS,
    };
    this.#store(hook, { ...state, batch });
    return batch;
  }

  async #attempt(hook: Webhook, { id, body }: NonNullable<Delivery["batch"]>): Promise<boolean> {
    const timestamp = Math.floor(Date.now() / 1000);
    let isDelivered = false;
    // Not AbortSignal.timeout, which keeps the actor awake for all that time.
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), TIMEOUT_MS);
    try {
      const answer = await fetch(hook.url, {
        method: "POST",
        headers: {
          "Content-Type": "application/json",
          "User-Agent": "Rollcall-Webhooks",
          "webhook-id": id,
          "webhook-timestamp": `${timestamp}`,
          "webhook-signature": await sign(hook.secret, `${id}.${timestamp}.${body}`),
        },
        body,
        redirect: "manual",
        signal: late.signal,
      });
      isDelivered = answer.ok;
      // Only the status counts: a body may have no end.
      await answer.body?.cancel();
      if (!isDelivered) log("webhook_failed", { status: answer.status });
    } catch (error) {
      // No message: it may name the url.
      log("webhook_failed", { reason: error instanceof Error ? error.name : "unknown" });
    } finally {
      clearTimeout(timer);
    }
    const [first] = JSON.parse(body) as Change[];
    const lagMs = Date.now() - (first?.at ?? Date.now());
    this.#actor.counters.add("webhooks", isDelivered ? "delivered" : "failed", 1, lagMs);
    return isDelivered;
  }
}
