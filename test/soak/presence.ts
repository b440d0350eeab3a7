import type { PresenceEvents, VeraniClient } from "../../client/client.ts";
import { type RosterEntry, STATUSES, type Status } from "../../rooms/presence/roster.ts";
import { Latencies } from "../kit/latency.ts";
import { Delivery, Faults, SETTLE_MS } from "../kit/ledger.ts";
import { Life } from "../kit/life.ts";
import { joinRoom, readRoster } from "../kit/presence.ts";
import { PlainWebSocket } from "../kit/sockets.ts";
import { inspectActor } from "../kit/stage.ts";
import { AWAY_MS, type Cast, type Census, type SoakStage, STAY_MS, sumOf } from "./cast.ts";

/** Members of a room, about. */
const PER_ROOM = 70;
/** Names to choose from, for each member: some users have two devices, or three. */
const USERS_PER_MEMBER = 1.3;
/** How often somebody somewhere changes status, per member. */
const STATUSES_PER_SECOND = 1 / 240;
/** Time between two acts of a user, in ms: all receive one before the next begins. */
const QUIET_MS = 3_000;

type Kind = "presence.online" | "presence.offline" | "presence.status";

interface User {
  id: string;
  devices: number;
  status: Status;
  /** When the last change was done, by `performance.now()`; Infinity while it is under way. */
  changedAtMs: number;
  /** The event that the room is receiving about this user. */
  news?: { kind: Kind; delivery: Delivery<Member> };
}

interface Member {
  room: Room;
  user: User;
  client: VeraniClient<PresenceEvents>;
  /** Since this time it must receive all events; Infinity before. */
  settledAtMs: number;
}

interface Room {
  name: string;
  users: Map<string, User>;
  members: Set<Member>;
  /** Users with news on its way. */
  changing: Set<User>;
}

/** People in presence rooms, each with a real client that keeps a roster. */
export class PresenceCast implements Cast {
  readonly name = "presence";
  readonly faults = new Faults();
  readonly latencies = { status: new Latencies(), join: new Latencies(), leave: new Latencies() };
  readonly #stage: SoakStage;
  readonly #life: Life;
  readonly #rooms: Room[];
  readonly #slots: number;
  #joins = 0;
  #received = 0;

  constructor(stage: SoakStage, clients: number) {
    this.#stage = stage;
    this.#life = new Life(stage.seed, 1);
    this.#slots = clients;
    const users = Math.ceil(PER_ROOM * USERS_PER_MEMBER);
    this.#rooms = Array.from({ length: Math.ceil(clients / PER_ROOM) }, (_, r) => ({
      name: `soak-${r}`,
      users: new Map(
        Array.from({ length: users }, (_, u): [string, User] => {
          const id = `r${r}-u${u}`;
          const changedAtMs = Number.NEGATIVE_INFINITY;
          return [id, { id, devices: 0, status: "online", changedAtMs }];
        }),
      ),
      members: new Set(),
      changing: new Set(),
    }));
  }

  async start(): Promise<void> {
    for (let slot = 0; slot < this.#slots; slot++) {
      const room = this.#rooms[slot % this.#rooms.length] as Room;
      let member: Member | undefined;
      void this.#life.joinAndLeave(
        [this.#stage.rampMs, STAY_MS, AWAY_MS],
        async () => {
          member = await this.#join(room);
        },
        () => member && this.#leave(member),
      );
    }
    void this.#life.repeat(this.#slots * STATUSES_PER_SECOND, () => this.#changeStatus());
  }

  /** Whether everybody received what this user did. */
  #isQuiet({ changedAtMs, news }: User): boolean {
    return performance.now() - changedAtMs > QUIET_MS && !news?.delivery.missing;
  }

  async #quietUser(room: Room): Promise<User | undefined> {
    const users = [...room.users.values()];
    do {
      const user = this.#life.random.pick(users);
      if (this.#isQuiet(user)) return user;
    } while (await this.#life.wait(10));
    return undefined;
  }

  async #join(room: Room): Promise<Member | undefined> {
    const user = await this.#quietUser(room);
    if (!user) return undefined;
    user.changedAtMs = Number.POSITIVE_INFINITY;
    this.#joins += 1;
    const options = { WebSocket: PlainWebSocket };
    const client = await joinRoom(this.#stage, room.name, user.id, options);
    const member: Member = { room, user, client, settledAtMs: Number.POSITIVE_INFINITY };
    if (user.devices === 0) this.#announce(room, user, "presence.online");
    else delete user.news;
    user.devices += 1;
    client.onClose(({ code, reason }) => {
      this.faults.add(`a client lost its connection: ${code} ${reason}`);
      member.settledAtMs = Number.POSITIVE_INFINITY;
      this.#excuse(member);
    });
    client.on("presence.sync", () => {
      member.settledAtMs = performance.now();
      room.members.add(member);
      if (user.changedAtMs === Number.POSITIVE_INFINITY) user.changedAtMs = member.settledAtMs;
    });
    for (const kind of ["presence.online", "presence.offline", "presence.status"] as const) {
      client.on(kind, (data) => this.#receive(member, kind, data));
    }
    await client.waitForConnection().catch((error) => this.faults.add(`cannot connect: ${error}`));
    return member;
  }

  #leave(member: Member): void {
    const { room, user, client } = member;
    this.#excuse(member);
    room.members.delete(member);
    user.devices -= 1;
    if (user.devices === 0) {
      user.status = "online";
      // Of a user who joins and leaves at once, the others receive both events, or neither.
      const isKnown = this.#isQuiet(user);
      if (isKnown) this.#announce(room, user, "presence.offline");
      else delete user.news;
    }
    if (user.changedAtMs !== Number.POSITIVE_INFINITY) user.changedAtMs = performance.now();
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
    user.changedAtMs = performance.now();
    this.#announce(room, user, "presence.status");
    client.emit("presence.status", { status });
  }

  #announce(room: Room, user: User, kind: Kind): void {
    const members = [...room.members].filter(({ settledAtMs }) => settledAtMs < performance.now());
    user.news = { kind, delivery: new Delivery(members) };
    room.changing.add(user);
  }

  #excuse(member: Member): void {
    for (const { news } of member.room.changing) news?.delivery.excuse(member);
  }

  #receive(member: Member, kind: Kind, data: { userId: string; status?: Status }): void {
    this.#received += 1;
    const user = member.room.users.get(data.userId);
    if (!user) {
      this.faults.add(`${kind} of a user who does not exist`);
      return;
    }
    const { news } = user;
    if (news?.kind !== kind) return;
    if (kind === "presence.status" && data.status !== user.status) return;
    const isNews = news.delivery.reached(member);
    if (isNews === false) this.faults.add(`${kind} of ${user.id} came twice`);
    if (!isNews) return;
    const latencies = { "presence.online": "join", "presence.offline": "leave" } as const;
    this.latencies[kind === "presence.status" ? "status" : latencies[kind]].add(
      performance.now() - news.delivery.sentAtMs,
    );
  }

  sweep(): void {
    for (const room of this.#rooms) {
      for (const user of room.changing) {
        const { news } = user;
        if (news?.delivery.isLate) {
          const { missing } = news.delivery;
          this.faults.add(`${missing} members of ${room.name} never received ${news.kind}`);
          delete user.news;
        }
        if (!user.news?.delivery.missing) room.changing.delete(user);
      }
    }
  }

  async check(): Promise<void> {
    for (const room of this.#rooms) {
      const { users } = await readRoster(this.#stage, room.name);
      this.#compare("the server", room, new Map(users.map((entry) => [entry.userId, entry])));
      for (const { client, settledAtMs } of room.members) {
        if (performance.now() - settledAtMs > SETTLE_MS) {
          this.#compare("a client", room, client.roster);
        }
      }
    }
  }

  /** What is shown of all users who did nothing lately. */
  #compare(
    who: string,
    { name, users }: Room,
    shown: ReadonlyMap<string, Readonly<RosterEntry>>,
  ): void {
    const now = performance.now();
    for (const { id, devices, status, changedAtMs } of users.values()) {
      if (now - changedAtMs < SETTLE_MS) continue;
      const entry = shown.get(id);
      const is = devices === 0 ? "away" : `${devices} ${status}`;
      const says = entry ? `${entry.devices} ${entry.status}` : "away";
      if (is !== says) this.faults.add(`${name}: ${id} is ${is}, ${who} shows ${says}`);
    }
  }

  hold(): void {
    this.#life.stop();
  }

  async census(): Promise<Census> {
    const counted = await sumOf(this.#rooms, async ({ name }) => {
      return (await inspectActor(this.#stage, `presence/${name}`)).sessions;
    });
    return { live: this.#live, counted };
  }

  get #live(): number {
    return this.#rooms.reduce((sum, { members }) => sum + members.size, 0);
  }

  leave(): void {
    for (const { members } of this.#rooms) for (const member of [...members]) this.#leave(member);
  }

  figures(): Record<string, number> {
    const { length: rooms } = this.#rooms;
    return { live: this.#live, rooms, joins: this.#joins, received: this.#received };
  }
}
