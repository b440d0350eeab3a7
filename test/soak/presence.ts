import { SignJWT } from "jose";
import { VeraniClient } from "../../client/client.ts";
import {
  type RosterEntry,
  type RosterSync,
  STATUSES,
  type Status,
} from "../../rooms/presence/roster.ts";
import {
  type Cast,
  type Census,
  Delivery,
  Faults,
  getJson,
  Life,
  PlainWebSocket,
  SETTLE_MS,
  type Stage,
  sumUp,
} from "./cast.ts";
import { Latencies } from "./latency.ts";

/** Members that a room has about. */
const PER_ROOM = 70;
/** Names to choose from, for each member: some users have two devices, or three. */
const USERS_PER_MEMBER = 1.3;
const STAY_MS = 8 * 60_000;
const AWAY_MS = 8_000;
/** How often somebody somewhere changes status, per member. */
const STATUSES_PER_SECOND = 1 / 240;
/** Between two things that a user does, in ms: each is told before the next begins. */
const QUIET_MS = 3_000;

type Kind = "presence.online" | "presence.offline" | "presence.status";

interface User {
  id: string;
  devices: number;
  status: Status;
  /** When the last change was done, by `performance.now()`; Infinity while it is under way. */
  stirredAtMs: number;
  /** What the room is being told of this user. */
  telling?: { kind: Kind; delivery: Delivery<Member> };
}

interface Member {
  room: Room;
  user: User;
  client: VeraniClient;
  /** Since when it must hear all; Infinity before. */
  settledAtMs: number;
}

interface Room {
  name: string;
  users: Map<string, User>;
  members: Set<Member>;
  telling: Set<User>;
}

/** People in presence rooms, each with a real client that keeps a roster. */
export class PresenceCast implements Cast {
  readonly name = "presence";
  readonly faults = new Faults();
  readonly latencies = { status: new Latencies(), join: new Latencies(), leave: new Latencies() };
  readonly #stage: Stage;
  readonly #life: Life;
  readonly #rooms: Room[];
  readonly #slots: number;
  readonly #key: Uint8Array;
  #comings = 0;
  #received = 0;

  constructor(stage: Stage, clients: number) {
    this.#stage = stage;
    this.#life = new Life(stage.seed, 1);
    this.#slots = clients;
    this.#key = new TextEncoder().encode(stage.jwtSecret);
    const users = Math.ceil(PER_ROOM * USERS_PER_MEMBER);
    this.#rooms = Array.from({ length: Math.ceil(clients / PER_ROOM) }, (_, r) => ({
      name: `soak-${r}`,
      users: new Map(
        Array.from({ length: users }, (_, u): [string, User] => {
          const id = `r${r}-u${u}`;
          const stirredAtMs = Number.NEGATIVE_INFINITY;
          return [id, { id, devices: 0, status: "online", stirredAtMs }];
        }),
      ),
      members: new Set(),
      telling: new Set(),
    }));
  }

  async start(): Promise<void> {
    for (let slot = 0; slot < this.#slots; slot++) {
      const room = this.#rooms[slot % this.#rooms.length] as Room;
      let member: Member | undefined;
      void this.#life.comeAndGo(
        this.#stage.rampMs,
        STAY_MS,
        AWAY_MS,
        async () => {
          member = await this.#come(room);
        },
        () => member && this.#go(member),
      );
    }
    void this.#life.keepDoing(this.#slots * STATUSES_PER_SECOND, () => this.#changeStatus());
  }

  #token(userId: string): Promise<string> {
    return new SignJWT({ userId })
      .setProtectedHeader({ alg: "HS256" })
      .setExpirationTime("2h")
      .sign(this.#key);
  }

  /** Whether all that this user did has been told. */
  #isQuiet({ stirredAtMs, telling }: User): boolean {
    return performance.now() - stirredAtMs > QUIET_MS && !telling?.delivery.missing;
  }

  async #quietUser(room: Room): Promise<User | undefined> {
    const users = [...room.users.values()];
    do {
      const user = this.#life.random.pick(users);
      if (this.#isQuiet(user)) return user;
    } while (await this.#life.wait(10));
    return undefined;
  }

  async #come(room: Room): Promise<Member | undefined> {
    const user = await this.#quietUser(room);
    if (!user) return undefined;
    user.stirredAtMs = Number.POSITIVE_INFINITY;
    this.#comings += 1;
    const token = await this.#token(user.id);
    const client = new VeraniClient(`${this.#stage.wsUrl}/ws/presence?room=${room.name}`, {
      token,
      WebSocket: PlainWebSocket,
    });
    const member: Member = { room, user, client, settledAtMs: Number.POSITIVE_INFINITY };
    if (user.devices === 0) this.#tell(room, user, "presence.online");
    else delete user.telling;
    user.devices += 1;
    client.onClose(({ code, reason }) => {
      this.faults.add(`a client lost its connection: ${code} ${reason}`);
      member.settledAtMs = Number.POSITIVE_INFINITY;
      this.#excuse(member);
    });
    client.on("presence.sync", () => {
      member.settledAtMs = performance.now();
      room.members.add(member);
      if (user.stirredAtMs === Number.POSITIVE_INFINITY) user.stirredAtMs = member.settledAtMs;
    });
    for (const kind of ["presence.online", "presence.offline", "presence.status"] as const) {
      client.on(kind, (data) => this.#heard(member, kind, data));
    }
    await client.waitForConnection().catch((error) => this.faults.add(`cannot connect: ${error}`));
    return member;
  }

  #go(member: Member): void {
    const { room, user, client } = member;
    this.#excuse(member);
    room.members.delete(member);
    user.devices -= 1;
    if (user.devices === 0) {
      user.status = "online";
      // Whoever came and goes at once may have told both, or neither.
      const isKnown = this.#isQuiet(user);
      if (isKnown) this.#tell(room, user, "presence.offline");
      else delete user.telling;
    }
    if (user.stirredAtMs !== Number.POSITIVE_INFINITY) user.stirredAtMs = performance.now();
    client.onClose(() => {});
    client.close();
  }

  #changeStatus(): void {
    const room = this.#life.random.pick(this.#rooms);
    const members = [...room.members].filter(({ user }) => this.#isQuiet(user));
    if (members.length === 0) return;
    const { user, client } = this.#life.random.pick(members);
    const status = this.#life.random.pick(STATUSES.filter((status) => status !== user.status));
    user.status = status;
    user.stirredAtMs = performance.now();
    this.#tell(room, user, "presence.status");
    client.emit("presence.status", { status });
  }

  #tell(room: Room, user: User, kind: Kind): void {
    const members = [...room.members].filter(({ settledAtMs }) => settledAtMs < performance.now());
    user.telling = { kind, delivery: new Delivery(members) };
    room.telling.add(user);
  }

  #excuse(member: Member): void {
    for (const { telling } of member.room.telling) telling?.delivery.excuse(member);
  }

  #heard(member: Member, kind: Kind, data: { userId: string; status?: Status }): void {
    this.#received += 1;
    const user = member.room.users.get(data.userId);
    if (!user) {
      this.faults.add(`${kind} of somebody who does not exist`);
      return;
    }
    const { telling } = user;
    if (telling?.kind !== kind) return;
    if (kind === "presence.status" && data.status !== user.status) return;
    const isNews = telling.delivery.reached(member);
    if (isNews === false) this.faults.add(`${kind} of ${user.id} came twice`);
    if (!isNews) return;
    const latencies = { "presence.online": "join", "presence.offline": "leave" } as const;
    this.latencies[kind === "presence.status" ? "status" : latencies[kind]].add(
      performance.now() - telling.delivery.sentAtMs,
    );
  }

  sweep(): void {
    for (const room of this.#rooms) {
      for (const user of room.telling) {
        const { telling } = user;
        if (telling?.delivery.isLate) {
          const { missing } = telling.delivery;
          this.faults.add(`${missing} members of ${room.name} never heard ${telling.kind}`);
          delete user.telling;
        }
        if (!user.telling?.delivery.missing) room.telling.delete(user);
      }
    }
  }

  async look(): Promise<void> {
    const token = await this.#token("looker");
    for (const room of this.#rooms) {
      const url = `${this.#stage.url}/api/v1/presence?room=${room.name}`;
      const { users } = await getJson<RosterSync>(url, { Authorization: `Bearer ${token}` });
      const told = new Map(users.map((entry) => [entry.userId, entry]));
      this.#compare("the server", room, told, SETTLE_MS);
      for (const { client, settledAtMs } of room.members) {
        const ageMs = performance.now() - settledAtMs;
        if (ageMs > SETTLE_MS) this.#compare("a client", room, client.roster, SETTLE_MS);
      }
    }
  }

  /** What is shown of everybody who did nothing for `settleMs`. */
  #compare(
    who: string,
    { name, users }: Room,
    shown: ReadonlyMap<string, Readonly<RosterEntry>>,
    settleMs: number,
  ): void {
    const now = performance.now();
    for (const { id, devices, status, stirredAtMs } of users.values()) {
      if (now - stirredAtMs < settleMs) continue;
      const entry = shown.get(id);
      const is = devices === 0 ? "away" : `${devices} ${status}`;
      const says = entry ? `${entry.devices} ${entry.status}` : "away";
      if (is !== says) this.faults.add(`${name}: ${id} is ${is}, ${who} says ${says}`);
    }
  }

  hold(): void {
    this.#life.stop();
  }

  async census(): Promise<Census> {
    const live = this.#rooms.reduce((sum, { members }) => sum + members.size, 0);
    const told = await sumUp(this.#rooms, async ({ name }) => {
      const url = `${this.#stage.url}/debug/actors/presence/${name}`;
      return (await getJson<{ sessions: number }>(url)).sessions;
    });
    return { live, told };
  }

  leave(): void {
    for (const { members } of this.#rooms) for (const member of [...members]) this.#go(member);
  }

  figures(): Record<string, number> {
    const live = this.#rooms.reduce((sum, { members }) => sum + members.size, 0);
    return { live, rooms: this.#rooms.length, comings: this.#comings, received: this.#received };
  }
}
