import { Answers } from "../../src/actor/answers.ts";
import type { RoomPublication, RoomPublishOutcome } from "./contract.ts";
import { CHANNEL, type PresenceActor, type PresenceSession } from "./meta.ts";

/** Old keys stay so long when nobody publishes any more, in ms: an alarm costs a row and a wake-up. */
const LEFT_BEHIND_MS = 24 * 3_600_000;
/** Name of the timer that deletes old keys. */
export const ANSWERS = "answers";

/** Publishes to a room over HTTP. */
export class Publishing {
  readonly #actor: PresenceActor<string>;
  readonly #answers: Answers;
  /** Connections in other shards of the room. */
  readonly #elsewhere: () => number;

  constructor(actor: PresenceActor<string>, elsewhere: () => number) {
    this.#actor = actor;
    this.#elsewhere = elsewhere;
    this.#answers = new Answers(actor.getStorage(), 0);
  }

  publish(message: RoomPublication): RoomPublishOutcome {
    const { counters } = this.#actor;
    const { idempotency } = message;
    if (!idempotency) return { status: 200, answer: this.#send(message) };
    const name = this.#answers.nameOf(idempotency.key, idempotency.publisher);
    const earlier = this.#answers.recall(name);
    if (earlier) {
      const isSame = earlier.digest === idempotency.digest;
      counters.add("publishes", isSame ? "repeated" : "conflict");
      return isSame ? { status: 200, answer: earlier.answer } : { status: 422 };
    }
    const now = Date.now();
    const expiresAtMs = this.#answers.expiryOf(now);
    const answer = this.#send(message);
    // In the same turn: the event leaves once this is stored.
    this.#answers.keep(name, { ...idempotency, expiresAtMs, envelope: undefined }, answer);
    this.#actor.timers.soonest(ANSWERS, now + LEFT_BEHIND_MS);
    return { status: 200, answer };
  }

  #send({ event, data, channel, except, from }: RoomPublication): string {
    const { counters, emit, log } = this.#actor;
    counters.add("publishes", "delivered");
    const isRelayed = this.#actor.shard !== undefined && channel === CHANNEL;
    if (isRelayed && except !== undefined) {
      const message = { ...data, publisher: from, type: event };
      const here = this.#actor.broadcast(channel, message, { exceptSession: except });
      return JSON.stringify({ recipients: here + this.#elsewhere(), cursor: log.cursor });
    }
    const isIn = ({ id, meta }: PresenceSession) =>
      id !== except && meta.channels.includes(channel);
    const builder = except === undefined ? emit.to(channel) : emit.where(isIn);
    // The types know the room's own events only.
    const here = (builder.emit as (event: string, data: object) => number)(event, {
      ...data,
      publisher: from,
    });
    const recipients = isRelayed ? here + this.#elsewhere() : here;
    return JSON.stringify({ recipients, cursor: log.cursor });
  }

  /** Deletes answers that no publish has cleaned up. */
  cleanUp(): void {
    const now = Date.now();
    if (this.#answers.forgetOld(now)) this.#actor.timers.set(ANSWERS, now + LEFT_BEHIND_MS);
  }
}
