import {
  type OpenInfo,
  type PresenceEvents,
  type RosterEntry,
  type Status,
  VeraniClient,
} from "../../client/client.ts";
import { type Access, accessOfDevelopment } from "./access.ts";
import { type Line, PING_INTERVAL_MS, RECONNECTION } from "./line.ts";
import { Store } from "./store.ts";

/** One line of what happened. */
export interface RoomNews {
  id: number;
  atMs: number;
  kind: "arrived" | "left" | "devices" | "status" | "self";
  name: string;
  text: string;
}

/** What a tab says of itself: the state of its connection. */
interface TabState {
  note: string;
}
type Client = VeraniClient<PresenceEvents<Status, TabState>>;

const NEWS_LENGTH = 7;
/** How somebody left, in words. */
export const LEFT = {
  left: "left",
  lost: "was lost",
  kicked: "was kicked",
  expired: "left: the token expired",
} as const;
/** A guest that this tab has brought in. */
const GUESTS = [
  "Grace",
  "Alan",
  "Radia",
  "Edsger",
  "Barbara",
  "Leslie",
  "Hedy",
  "Dennis",
  "Frances",
];

interface Guest {
  name: string;
  client: VeraniClient;
}

function deviceWords(devices: number): string {
  return devices === 1 ? "is down to 1 device" : `is here with ${devices} devices`;
}

/** The presence room as this tab sees it, and the guests it brings in. */
export class Room {
  readonly people = new Store<readonly RosterEntry[]>([]);
  readonly news = new Store<readonly RoomNews[]>([]);
  /** What this tab chose; sent to the server as soon as possible. */
  readonly status = new Store<Status>("online");
  readonly guests = new Store<readonly string[]>([]);
  /** What somebody's tabs say of themselves, by user. */
  readonly notes = new Store<ReadonlyMap<string, string>>(new Map());
  readonly #access: Access;
  readonly #name: string;
  readonly #client: Client;
  readonly #guests: Guest[] = [];
  #known: ReadonlyMap<string, RosterEntry> | null = null;
  #newsId = 0;
  /** The status was chosen while there was no connection. */
  #isQueued = false;

  constructor(access: Access, name: string, line: Line) {
    this.#access = access;
    this.#name = name;
    this.#client = new VeraniClient(this.#url, {
      token: access.jwt,
      WebSocket: line.TimedWebSocket,
      pingInterval: PING_INTERVAL_MS,
      reconnection: RECONNECTION,
    });
    this.#client.onOpen((info) => this.#opened(info));
    this.#client.onStateChange((state) => line.report("room", state));
    line.report("room", this.#client.getState());

    this.#client.on("presence.sync", () => this.#synced());
    this.#client.on("presence.online", ({ username }) => {
      this.#changed("arrived", username, "arrived");
    });
    this.#client.on("presence.offline", ({ username, reason = "left" }) => {
      this.#changed("left", username, LEFT[reason]);
    });
    this.#client.on("others", () => this.#noted());
    this.#client.on("presence.update", ({ username, devices }) => {
      this.#changed("devices", username, deviceWords(devices));
    });
    this.#client.on("presence.status", ({ userId, username, status }) => {
      if (userId === access.name) this.status.value = status;
      this.#changed("status", username, `is ${status}`);
    });
  }

  get #url(): string {
    return `/ws/presence?room=${encodeURIComponent(this.#name)}`;
  }

  setStatus(status: Status): void {
    this.status.value = status;
    // While the line is cut it waits in the client's queue.
    this.#isQueued = !this.#client.isConnected();
    this.#client.emit("presence.status", { status });
  }

  /** What this tab says of itself, letter by letter; the others see it at most 20 times a second. */
  setNote(note: string): void {
    this.#client.setState(note === "" ? null : { note });
    this.#noted();
  }

  #noted(): void {
    const notes = new Map<string, string>();
    const { me, others } = this.#client;
    for (const { userId, state } of [...others.values(), ...(me ? [me] : [])]) {
      if (state?.note) notes.set(userId, state.note);
    }
    this.notes.value = notes;
  }

  /** Another name joins over a connection of its own, as if from another tab. */
  async bringGuest(): Promise<void> {
    const names = new Set([
      ...this.people.value.map(({ username }) => username),
      ...this.guests.value,
    ]);
    const name = GUESTS.find((guest) => !names.has(guest)) ?? `Guest ${names.size + 1}`;
    this.guests.value = [...this.guests.value, name];
    const { jwt } = await accessOfDevelopment(name);
    if (!this.guests.value.includes(name)) return;
    this.#guests.push({ name, client: new VeraniClient(this.#url, { token: jwt }) });
  }

  /** The last guest goes. */
  sendGuestHome(): void {
    const name = this.guests.value.at(-1);
    this.guests.value = this.guests.value.slice(0, -1);
    const at = this.#guests.findIndex((guest) => guest.name === name);
    for (const { client } of at === -1 ? [] : this.#guests.splice(at, 1)) client.close();
  }

  close(): void {
    this.#client.close();
    for (const { client } of this.#guests.splice(0)) client.close();
  }

  /** Everyone who is here. What changed during a break comes as single events. */
  #synced(): void {
    const isFirst = this.#known === null;
    this.#refresh();
    const now = this.#known ?? new Map<string, RosterEntry>();
    if (isFirst) {
      const others = now.size - 1;
      const company = others === 0 ? "nobody else is here" : `${others} here already`;
      this.#report("self", this.#access.name, `joined ${this.#name}: ${company}`);
    }
    const self = now.get(this.#access.name);
    if (this.#isQueued) this.#isQueued = false;
    else if (self && self.devices > 1) this.status.value = self.status;
  }

  /** The connection is there again: how many messages were missed, and are here now. */
  #opened({ resumed, reason, replayed }: OpenInfo): void {
    if (resumed) this.#report("self", this.#access.name, `is back: ${replayed} messages replayed`);
    else if (reason)
      this.#report("self", this.#access.name, `is back with a new session: ${reason}`);
  }

  #changed(kind: RoomNews["kind"], name: string, text: string): void {
    this.#refresh();
    this.#report(kind, name, text);
  }

  #refresh(): void {
    this.#known = new Map([...this.#client.roster].map(([id, entry]) => [id, { ...entry }]));
    const self = this.#access.name;
    this.people.value = [...this.#known.values()].sort(
      (a, b) =>
        Number(b.userId === self) - Number(a.userId === self) ||
        a.username.localeCompare(b.username),
    );
  }

  #report(kind: RoomNews["kind"], name: string, text: string): void {
    const item = { id: ++this.#newsId, atMs: Date.now(), kind, name, text };
    this.news.value = [item, ...this.news.value].slice(0, NEWS_LENGTH);
  }
}
