import { VeraniClient } from "../../client/client.ts";
import type { RosterSync, Status } from "../../rooms/presence/roster.ts";
import { type Cast, getJson, looked, type Stage } from "./cast.ts";
import type { Random } from "./random.ts";

/** How requests for the room's socket begin. */
export const PRESENCE_PATH = "GET /ws/presence";
const ROOM = "chaos";
const USERS = ["ada", "bob", "cyn", "dan", "eve", "fay"];
const DEVICES = 3;
const STATUSES: readonly Status[] = ["online", "away", "busy"];
/** A peer in a black hole is dropped within a minute of its last sign; machines stall. */
const GHOST_MS = 65_000;

interface Device {
  user: string;
  client: VeraniClient;
  wanted: boolean;
}

/** Users with several devices in one presence room. */
export class PresenceCast implements Cast {
  readonly name = "presence";
  readonly actors = [`presence/${ROOM}`];
  readonly faults: string[] = [];
  readonly #devices: Device[] = [];
  readonly #stage: Stage;
  /** Until then a connection that fell into a hole may be counted, by user. */
  readonly #ghostsUntil: number[] = [];
  #losses = 0;
  #comings = 0;

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  async start(): Promise<void> {
    for (const user of USERS) {
      const token = await this.#stage.sign(user);
      for (let i = 0; i < DEVICES; i++) {
        const client = new VeraniClient(`${this.#stage.wsUrl}/ws/presence?room=${ROOM}`, {
          token,
          pingInterval: 2_000,
          pongTimeout: 2_000,
          connectionTimeout: 3_000,
          reconnection: { initialDelay: 200, maxDelay: 1_500 },
        });
        client.onClose(() => {
          this.#losses += 1;
        });
        this.#devices.push({ user, client, wanted: true });
      }
    }
  }

  stir(random: Random): string {
    const device = random.pick(this.#devices);
    const { user, client } = device;
    if (device.wanted && random.chance(0.4)) {
      const status = random.pick(STATUSES);
      client.emit("presence.status", { status });
      return `${user} is ${status}`;
    }
    this.#comings += 1;
    device.wanted = !device.wanted;
    if (device.wanted) client.reconnect();
    else client.disconnect();
    return `a device of ${user} ${device.wanted ? "comes" : "goes"}`;
  }

  crashed(): void {
    this.#ghostsUntil.length = 0;
  }

  rest(): void {}

  /** Who is here is who has a socket: the first look shows it. */
  async recall(): Promise<string[]> {
    return [];
  }

  back(): void {}

  /** A connection fell into a black hole: for a minute the room cannot know. */
  holed(): void {
    this.#ghostsUntil.push(Date.now() + GHOST_MS);
  }

  get ghostsUntilMs(): number {
    return Math.max(0, ...this.#ghostsUntil);
  }

  check(): Promise<string[]> {
    return looked(async () => {
      const bearer = { Authorization: `Bearer ${await this.#stage.sign("looker")}` };
      const url = `${this.#stage.direct}/api/v1/presence?room=${ROOM}`;
      const sync = await getJson<RosterSync>(url, bearer);
      const wrong: string[] = [];
      const live = new Map<string, number>();
      for (const { user, client, wanted } of this.#devices) {
        if (wanted) live.set(user, (live.get(user) ?? 0) + 1);
        if (wanted !== client.isConnected())
          wrong.push(`a client of ${user} is ${client.getState()}`);
      }
      const told = new Map(sync.users.map((entry) => [entry.userId, entry]));
      const ghosts = this.#ghostsUntil.filter((until) => until > Date.now()).length;
      let extra = 0;
      for (const user of new Set([...live.keys(), ...told.keys()])) {
        const [is, has] = [live.get(user) ?? 0, told.get(user)?.devices ?? 0];
        extra += Math.max(0, has - is);
        if (has < is || (has > is && ghosts === 0)) {
          wrong.push(`${user} has ${is} live clients, the room says ${has}`);
        }
      }
      if (extra > ghosts) wrong.push(`${extra} connections too many in the room`);
      // What every client shows its user is what the room says.
      for (const { user, client, wanted } of this.#devices) {
        if (!wanted || !client.isConnected()) continue;
        const shown = [...client.roster.values()].map(entryText).sort().join(" ");
        const said = sync.users.map(entryText).sort().join(" ");
        if (shown !== said) wrong.push(`a client of ${user} shows ${shown}; the room says ${said}`);
      }
      return wrong;
    });
  }

  figures(): Record<string, number> {
    const live = this.#devices.filter(({ wanted }) => wanted).length;
    return { clients: this.#devices.length, live, losses: this.#losses, comings: this.#comings };
  }

  stop(): void {
    for (const { client } of this.#devices) client.close();
  }
}

function entryText({ userId, devices, status }: RosterSync["users"][number]): string {
  return `${userId}:${devices}:${status}`;
}
