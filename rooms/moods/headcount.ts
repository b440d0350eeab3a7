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
  /** Neighbours in the order of heartbeats, for guests that have one. */
  older: Guest | null;
  newer: Guest | null;
}

/**
 * The sessions that are here, counted by mood. All live equally long after a heartbeat, so a list in
 * the order of heartbeats is also the order in which they expire: a heartbeat moves its session to the
 * end, and expiry takes from the front. No operation visits all sessions.
 */
export class Headcount {
  readonly tally: Tally;
  readonly #ttlMs: number;
  readonly #guests = new Map<string, Guest>();
  #oldest: Guest | null = null;
  #newest: Guest | null = null;

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
    return this.#oldest ? this.#oldest.beatAtMs + this.#ttlMs : undefined;
  }

  /** A heartbeat at `atMs`. The list stays in order even if the clock was set back. */
  beat(id: string, mood: number, atMs: number): Guest {
    const guest = this.#register(id, mood);
    this.#forgetBeat(guest);
    guest.beatAtMs = Math.max(atMs, this.#newest?.beatAtMs ?? 0);
    guest.older = this.#newest;
    if (this.#newest) this.#newest.newer = guest;
    else this.#oldest = guest;
    this.#newest = guest;
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
    if (guest.beatAtMs === 0) this.#remove(guest);
  }

  leave(id: string): void {
    const guest = this.#guests.get(id);
    if (guest) this.#remove(guest);
  }

  /** Removes sessions whose last heartbeat is too long ago. @returns whether there was any */
  expire(nowMs: number): boolean {
    const before = this.#guests.size;
    while (this.#oldest && this.#oldest.beatAtMs + this.#ttlMs <= nowMs) {
      const guest = this.#oldest;
      this.#forgetBeat(guest);
      if (!guest.attached) this.#remove(guest);
    }
    return this.#guests.size < before;
  }

  #register(id: string, mood: number): Guest {
    let guest = this.#guests.get(id);
    if (!guest) {
      guest = { id, mood, beatAtMs: 0, attached: false, older: null, newer: null };
      this.#guests.set(id, guest);
      this.#count(mood, 1);
    } else if (guest.mood !== mood) {
      this.#count(guest.mood, -1);
      this.#count(mood, 1);
      guest.mood = mood;
    }
    return guest;
  }

  #remove(guest: Guest): void {
    this.#forgetBeat(guest);
    this.#guests.delete(guest.id);
    this.#count(guest.mood, -1);
  }

  #forgetBeat(guest: Guest): void {
    if (guest.beatAtMs === 0) return;
    if (guest.older) guest.older.newer = guest.newer;
    else this.#oldest = guest.newer;
    if (guest.newer) guest.newer.older = guest.older;
    else this.#newest = guest.older;
    guest.older = null;
    guest.newer = null;
    guest.beatAtMs = 0;
  }

  #count(mood: number, by: number): void {
    this.tally[mood] = (this.tally[mood] ?? 0) + by;
  }
}
