import type { Tally } from "./tally.ts";

/** A session that is counted. */
export interface Guest {
  readonly id: string;
  /** Index into the list of moods. */
  mood: number;
  /** Time of the last heartbeat in ms, or 0: only a socket keeps it here. */
  beatAtMs: number;
  /** Whether it has a socket. */
  attached: boolean;
}

/**
 * The sessions that are here, counted by mood. All live equally long after a heartbeat, so a map in the
 * order of heartbeats is also the order in which they expire: a heartbeat moves its session to the end,
 * and expiry takes from the front. No operation visits all sessions.
 */
export class Headcount {
  readonly tally: Tally;
  readonly #ttlMs: number;
  readonly #guests = new Map<string, Guest>();
  /** Those with a heartbeat, the oldest first. */
  readonly #beating = new Map<string, Guest>();
  #newestMs = 0;

  /** @param ttlMs time from a session's last heartbeat to its end */
  constructor(moodCount: number, ttlMs: number) {
    this.tally = new Array(moodCount).fill(0);
    this.#ttlMs = ttlMs;
  }

  get size(): number {
    return this.#guests.size;
  }

  get(id: string): Guest | undefined {
    return this.#guests.get(id);
  }

  /** When the first session expires that has no heartbeat until then, in ms. */
  get expiresAtMs(): number | undefined {
    for (const { beatAtMs } of this.#beating.values()) return beatAtMs + this.#ttlMs;
    return undefined;
  }

  /** A heartbeat at `atMs`. The order holds even if the clock was set back. */
  beat(id: string, mood: number, atMs: number): Guest {
    const guest = this.#register(id, mood);
    this.#beating.delete(id);
    this.#newestMs = this.#beating.size === 0 ? atMs : Math.max(atMs, this.#newestMs);
    guest.beatAtMs = this.#newestMs;
    this.#beating.set(id, guest);
    return guest;
  }

  /** The session has a socket. */
  attach(id: string, mood: number): Guest {
    const guest = this.#register(id, mood);
    guest.attached = true;
    return guest;
  }

  /** The session has no socket any more: a heartbeat may still keep it here. */
  detach(id: string): void {
    const guest = this.#guests.get(id);
    if (!guest) return;
    guest.attached = false;
    if (guest.beatAtMs === 0) this.leave(id);
  }

  leave(id: string): void {
    const guest = this.#guests.get(id);
    if (!guest) return;
    this.#beating.delete(id);
    this.#guests.delete(id);
    this.#count(guest.mood, -1);
  }

  /** Removes sessions whose last heartbeat is too long ago. @returns whether there was any */
  expire(nowMs: number): boolean {
    const before = this.#guests.size;
    for (const [id, guest] of this.#beating) {
      if (guest.beatAtMs + this.#ttlMs > nowMs) break;
      this.#beating.delete(id);
      guest.beatAtMs = 0;
      if (!guest.attached) this.leave(id);
    }
    return this.#guests.size < before;
  }

  #register(id: string, mood: number): Guest {
    const known = this.#guests.get(id);
    const guest = known ?? { id, mood, beatAtMs: 0, attached: false };
    if (known) this.#count(known.mood, -1);
    else this.#guests.set(id, guest);
    this.#count(mood, 1);
    guest.mood = mood;
    return guest;
  }

  #count(mood: number, by: number): void {
    this.tally[mood] = (this.tally[mood] ?? 0) + by;
  }
}
