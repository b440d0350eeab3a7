import {
  isDirectoryOn,
  isRevoked,
  publishRevocation,
  type RevocationEnv,
} from "../../src/access/claims.ts";
import { longestLifetimeS, type TokenEnv } from "../../src/access/jwt.ts";
import { isDevelopment } from "../../src/access/secrets.ts";
import { call } from "../../src/actor/call.ts";
import { namespaceOf } from "../../src/http/binding.ts";
import { log } from "../../src/log.ts";
import type {
  DeviceCalls,
  Report,
  ReportAnswer,
  RoomAddress,
  RoomCalls,
} from "../../src/people/directory.ts";
import { shardName } from "../../src/shards/layout.ts";
import { CLOSE } from "../../src/wire/close.ts";
import { type Person, personRecord } from "./contract.ts";
import type { FanoutActor } from "./meta.ts";

const PERSON_KEY = "person";
/** Rooms that a user may be in at once. */
const ROOMS = 100;
/** Name of the timer of revocations that have not reached all rooms. */
export const REVOCATION = "revocation";
/** The wait before a revocation that failed is tried again, in ms: a timer that fails waits ever longer. */
const RETRY_MS = 1_000;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** The actor of a user's devices; undefined where the user's id is none of theirs, or there are no devices. */
export function devicesOf(env: object, binding: string, userId: string) {
  if (!UUID.test(userId) || !(binding in env)) return undefined;
  return call<{ "~calls"?: DeviceCalls }>(namespaceOf(env, binding).getByName(userId));
}

/** Where a user is, as the directory answers. */
export interface Whereabouts {
  online: boolean;
  /** Server time in ms: now, while the user is online; null where it is not known. */
  lastSeenMs: number | null;
  rooms: { room: string; devices: number; status: string }[];
}

type PeopleEnv = TokenEnv & RevocationEnv;

/** The names of other actors' bindings. */
export interface PeopleOptions {
  /** That of the devices. */
  devices: string;
}

function keyOf({ binding, room }: RoomAddress): string {
  return `${binding}/${room}`;
}

/** Where the user of this actor is, by what rooms report, and which tokens of the user were revoked. */
export class People {
  readonly #actor: FanoutActor;
  readonly #options: PeopleOptions;
  readonly #env: PeopleEnv;
  #person: Person;
  /** Runs when the user comes online or goes offline. */
  readonly #onChange: () => void;

  constructor(actor: FanoutActor, options: PeopleOptions, onChange: () => void) {
    this.#actor = actor;
    this.#options = options;
    this.#env = actor.env as PeopleEnv;
    this.#onChange = onChange;
    const stored = isDirectoryOn(this.#env) && actor.getStorage().kv.get(PERSON_KEY);
    this.#person = personRecord.read(stored) ?? { rooms: [], seq: 0, isShown: false };
  }

  #save(changes: Partial<Person>): void {
    // An alarm after a crash must know the user.
    this.#actor.keepName();
    this.#person = { ...this.#person, ...changes };
    this.#actor.getStorage().kv.put(PERSON_KEY, personRecord.write(this.#person));
  }

  get isOnline(): boolean {
    return this.#person.rooms.some(({ isListed }) => isListed);
  }

  /** Whether the watchers know another state than the one of now. */
  get isNews(): boolean {
    return this.isOnline !== this.#person.isShown;
  }

  /** Grows whenever the user comes online or goes offline. */
  get seq(): number {
    return this.#person.seq;
  }

  /** The watchers have been sent the state of now. */
  shown(isOnline: boolean): void {
    if (isOnline !== this.#person.isShown) this.#save({ isShown: isOnline });
  }

  /** Whether a token that was issued at this second was revoked. */
  isRevoked(issuedAtS: number | undefined): boolean {
    return isRevoked(issuedAtS, this.#person.floorS);
  }

  // ── Rooms ───────────────────────────────────────────────────────────────────────────────────

  report({ binding, room, shard, atMs, isPresent, isListed }: Report): ReportAnswer {
    const { rooms, floorS } = this.#person;
    const floor = floorS === undefined ? {} : { floorS };
    const known = rooms.find((other) => keyOf(other) === keyOf({ binding, room }));
    if (known && known.atMs >= atMs) return { atMs: known.atMs, ...floor };
    if (isPresent && !known && rooms.length >= ROOMS) return { atMs, isFull: true, ...floor };
    const others = rooms.filter((other) => other !== known);
    const entry = { binding, room, atMs, isListed, ...(shard !== undefined && { shard }) };
    this.#setRooms(isPresent ? [...others, entry] : others);
    return { atMs, ...floor };
  }

  #setRooms(rooms: Person["rooms"]): void {
    const wasOnline = this.isOnline;
    const isOnline = rooms.some(({ isListed }) => isListed);
    const isChanged = wasOnline !== isOnline;
    this.#save({
      rooms,
      ...(isChanged && { seq: this.#person.seq + 1 }),
      ...(isChanged && !isOnline && { lastSeenMs: Date.now() }),
    });
    if (isChanged) this.#onChange();
  }

  /** Asks the rooms: one that has lost its sockets in a crash, and has not reported that yet, counts no more. */
  async whereabouts(): Promise<Whereabouts> {
    const userId = this.#actor.name;
    const listed = this.#person.rooms.filter(({ isListed }) => isListed);
    const answers = await Promise.all(
      listed.map(async (entry) => {
        try {
          return { entry, here: await this.#callRoom(entry).whereIs(userId) };
        } catch (error) {
          log("room_unreachable", { error });
          return { entry, here: undefined };
        }
      }),
    );
    const gone = new Set(answers.flatMap(({ entry, here }) => (here === null ? [entry] : [])));
    if (gone.size > 0) this.#setRooms(this.#person.rooms.filter((entry) => !gone.has(entry)));
    const rooms = answers.flatMap(({ entry, here }) =>
      here ? [{ room: entry.room, ...here }] : [],
    );
    const online = rooms.length > 0;
    return { online, lastSeenMs: online ? Date.now() : (this.#person.lastSeenMs ?? null), rooms };
  }

  #callRoom({ binding, room, shard }: RoomAddress) {
    const name = shard === undefined ? room : shardName(room, shard);
    return call<{ "~calls"?: RoomCalls }>(namespaceOf(this.#env, binding).getByName(name));
  }

  // ── Revocation ──────────────────────────────────────────────────────────────────────────────

  /**
   * Closes the user's connections with 4401, everywhere.
   *
   * @param floorS only those whose tokens were issued up to this second, and such tokens do not hold any
   *   more; undefined: all, and nothing is revoked
   * @returns how many
   */
  async close(floorS: number | undefined): Promise<number> {
    // An earlier time than that of a revocation before gives no token back.
    const raised = floorS === undefined ? undefined : Math.max(floorS, this.#person.floorS ?? 0);
    if (raised !== undefined) {
      this.#save({ floorS: raised, isRevoking: true });
      // If this instance ends before all rooms know.
      this.#actor.timers.soonest(REVOCATION, Date.now() + RETRY_MS);
    }
    const { closed, failures } = await this.#closeEverywhere(raised);
    if (raised !== undefined && failures.length === 0) this.#revoked();
    for (const error of failures) log("revocation_delayed", { error });
    return closed;
  }

  #revoked(): void {
    this.#save({ isRevoking: false });
    this.#actor.timers.clear(REVOCATION);
  }

  /** Tries again where a revocation has not come. @throws Error so that the timer tries once more */
  async retryRevocation(): Promise<void> {
    const { floorS, isRevoking } = this.#person;
    if (floorS === undefined || !isRevoking) return;
    const { failures } = await this.#closeEverywhere(floorS);
    if (failures.length > 0) throw new Error("Some rooms do not know of a revocation");
    this.#revoked();
  }

  async #closeEverywhere(floorS: number | undefined) {
    const { name: userId } = this.#actor;
    const to = { userId, ...(floorS !== undefined && { floorS }) };
    const reason = floorS === undefined ? "Disconnected" : "The token was revoked";
    const here = this.#actor.closeUser(
      userId,
      CLOSE.unauthorized,
      reason,
      ({ meta }) => floorS === undefined || isRevoked(meta.issuedAtS, floorS),
    );
    const tasks: Promise<number>[] = this.#person.rooms.map((entry) =>
      this.#callRoom(entry).closeUser(to),
    );
    const devices = devicesOf(this.#env, this.#options.devices, userId);
    if (devices) tasks.push(devices.closeUser(to));
    if (floorS !== undefined) {
      const lifetimeS = isDevelopment(this.#env) ? undefined : longestLifetimeS(this.#env);
      tasks.push(publishRevocation(userId, floorS, lifetimeS, this.#env).then(() => 0));
    }
    let closed = here;
    const failures: unknown[] = [];
    for (const outcome of await Promise.allSettled(tasks)) {
      if (outcome.status === "fulfilled") closed += outcome.value;
      else failures.push(outcome.reason);
    }
    return { closed, failures };
  }

  /** Forgets when the user was last seen. Which tokens were revoked stays. */
  forget(): void {
    if (this.#person.lastSeenMs === undefined) return;
    const { lastSeenMs: _, ...person } = this.#person;
    this.#person = person;
    this.#save({});
  }
}
