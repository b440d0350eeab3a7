import type { Tally } from "./tally.ts";

/** A session that is counted. */
export class Guest {
  readonly id: string;
  /** Index into the list of moods. */
  mood = 0;
  /** Time of the last heartbeat in ms, or 0: only a socket keeps it here. */
  beatAtMs = 0;
  /** Whether it has a socket. */
  attached = false;
  /** Neighbours in the order of heartbeats; without a heartbeat, the guest itself. */
  older: Guest = this;
  newer: Guest = this;

  constructor(id: string) {
    this.id = id;
  }

  /** Takes it out of the order of heartbeats, and puts it between these two; between itself: nowhere. */
  move(older: Guest, newer: Guest): void {
    this.older.newer = this.newer;
    this.newer.older = this.older;
    this.older = older;
    this.newer = newer;
    older.newer = this;
    newer.older = this;
  }
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
  /** Stands between the newest heartbeat and the oldest: the list is a circle. */
  readonly #end = new Guest("");

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
    const { beatAtMs } = this.#end.newer;
    return beatAtMs > 0 ? beatAtMs + this.#ttlMs : undefined;
  }

  /** A heartbeat at `atMs`. The list stays in order even if the clock was set back. */
  beat(id: string, mood: number, atMs: number): Guest {
    const guest = this.#register(id, mood);
    guest.move(guest, guest);
    guest.beatAtMs = Math.max(atMs, this.#end.older.beatAtMs);
    guest.move(this.#end.older, this.#end);
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
    guest.move(guest, guest);
    this.#guests.delete(id);
    this.#count(guest.mood, -1);
  }

  /** Removes sessions whose last heartbeat is too long ago. @returns whether there was any */
  expire(nowMs: number): boolean {
    const before = this.size;
    while ((this.expiresAtMs ?? Number.POSITIVE_INFINITY) <= nowMs) {
      const guest = this.#end.newer;
      guest.move(guest, guest);
      guest.beatAtMs = 0;
      if (!guest.attached) this.leave(guest.id);
    }
    return this.size < before;
  }

  #register(id: string, mood: number): Guest {
    const guest = this.#guests.get(id) ?? new Guest(id);
    if (this.#guests.has(id)) this.#count(guest.mood, -1);
    else this.#guests.set(id, guest);
    guest.mood = mood;
    this.#count(mood, 1);
    return guest;
  }

  #count(mood: number, by: number): void {
    this.tally[mood] = (this.tally[mood] ?? 0) + by;
  }
}
