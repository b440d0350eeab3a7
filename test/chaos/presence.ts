import type { PresenceEvents, VeraniClient } from "../../client/client.ts";
import { STATUSES } from "../../rooms/presence/roster.ts";
import { entryText, joinRoom, readRoster } from "../kit/presence.ts";
import type { Random } from "../kit/random.ts";
import { IMPATIENT } from "../kit/sockets.ts";
import type { Stage } from "../kit/stage.ts";
import { attempt, type Cast } from "./cast.ts";

/** The start of a request for the room's socket. */
export const PRESENCE_PATH = "GET /ws/presence";
const ROOM = "chaos";
const USERS = ["ada", "bob", "cyn", "dan", "eve", "fay"];
const DEVICES = 3;
/** A peer in a black hole is dropped within a minute of its last sign; machines stall. */
const GHOST_MS = 65_000;

interface Device {
  user: string;
  client: VeraniClient<PresenceEvents>;
  isHere: boolean;
}

/** Users with several devices in one presence room. */
export class PresenceCast implements Cast {
  readonly name = "presence";
  readonly actors = [`presence/${ROOM}`];
  readonly faults: string[] = [];
  readonly #devices: Device[] = [];
  readonly #stage: Stage;
  /** Until these times the room may count connections that fell into a hole. */
  readonly #ghostsUntil: number[] = [];
  #losses = 0;
  #joins = 0;

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  async start(): Promise<void> {
    for (const user of USERS) {
      for (let i = 0; i < DEVICES; i++) {
        const client = await joinRoom(this.#stage, ROOM, user, IMPATIENT);
        client.onClose(() => {
          this.#losses += 1;
        });
        this.#devices.push({ user, client, isHere: true });
      }
    }
  }

  act(random: Random): string {
    const device = random.pick(this.#devices);
    const { user, client } = device;
    if (device.isHere && random.chance(0.4)) {
      const status = random.pick(STATUSES);
      client.emit("presence.status", { status });
      return `${user} is ${status}`;
    }
    this.#joins += 1;
    device.isHere = !device.isHere;
    if (device.isHere) client.reconnect();
    else client.disconnect();
    return `a device of ${user} ${device.isHere ? "joins" : "leaves"}`;
  }

  crashed(): void {
    this.#ghostsUntil.length = 0;
  }

  pause(): void {}

  /** A user is here by a socket, and nothing else is kept: the first check shows it. */
  async checkKept(): Promise<string[]> {
    return [];
  }

  resume(): void {}

  /** A connection fell into a black hole: for a minute the room cannot know. */
  holed(): void {
    this.#ghostsUntil.push(Date.now() + GHOST_MS);
  }

  get ghostsUntilMs(): number {
    return Math.max(0, ...this.#ghostsUntil);
  }

  check(): Promise<string[]> {
    return attempt(async () => {
      const { users } = await readRoster(this.#stage, ROOM);
      const wrong: string[] = [];
      const live = new Map<string, number>();
      for (const { user, client, isHere } of this.#devices) {
        if (isHere) live.set(user, (live.get(user) ?? 0) + 1);
        if (isHere !== client.isConnected())
          wrong.push(`a client of ${user} is ${client.getState()}`);
      }
      const listed = new Map(users.map((entry) => [entry.userId, entry.devices]));
      const ghosts = this.#ghostsUntil.filter((until) => until > Date.now()).length;
      let extra = 0;
      for (const user of new Set([...live.keys(), ...listed.keys()])) {
        const [is, has] = [live.get(user) ?? 0, listed.get(user) ?? 0];
        extra += Math.max(0, has - is);
        if (has < is || (has > is && ghosts === 0)) {
          wrong.push(`${user} has ${is} live clients, the room lists ${has}`);
        }
      }
      if (extra > ghosts) wrong.push(`${extra} connections too many in the room`);
      // Every client shows its user the room's own roster.
      const listing = users.map(entryText).sort().join(" ");
      for (const { user, client, isHere } of this.#devices) {
        if (!isHere || !client.isConnected()) continue;
        const shown = [...client.roster.values()].map(entryText).sort().join(" ");
        if (shown !== listing) wrong.push(`${user}'s client shows ${shown}; the room: ${listing}`);
      }
      return wrong;
    });
  }

  figures(): Record<string, number> {
    const live = this.#devices.filter(({ isHere }) => isHere).length;
    return { clients: this.#devices.length, live, losses: this.#losses, joins: this.#joins };
  }

  stop(): void {
    for (const { client } of this.#devices) client.close();
  }
}
