/** Users in presence rooms who come back after each loss, for as long as they are to be there. */
import WebSocket from "ws";
import type { PresenceEvents, VeraniClient } from "../../client/client.ts";
import { PING } from "../../src/wire/frames.ts";
import { joinRoom } from "../kit/presence.ts";
import { IMPATIENT, PlainWebSocket } from "../kit/sockets.ts";
import { type Stage, signUser } from "../kit/stage.ts";

const PING_MS = 4_000;
const RECONNECT_MS = 400;

export interface Guest {
  readonly user: string;
  readonly room: string;
  /** Whether it is to be there. */
  readonly isHere: boolean;
  readonly isConnected: boolean;
  join(): void;
  /** @param isClean whether it closes, instead of breaking off */
  leave(isClean: boolean): void;
}

/** By the real client, which always leaves cleanly. */
export class ClientGuest implements Guest {
  readonly user: string;
  readonly room: string;
  isHere = true;
  readonly #client: VeraniClient<PresenceEvents>;

  private constructor(user: string, room: string, client: VeraniClient<PresenceEvents>) {
    this.user = user;
    this.room = room;
    this.#client = client;
  }

  static async create(stage: Stage, room: string, user: string): Promise<ClientGuest> {
    return new ClientGuest(user, room, await joinRoom(stage, room, user, IMPATIENT));
  }

  get isConnected(): boolean {
    return this.#client.isConnected();
  }

  join(): void {
    this.isHere = true;
    this.#client.reconnect();
  }

  leave(): void {
    this.isHere = false;
    this.#client.disconnect();
  }
}

/** By a socket of protocol 3 without a client library: it comes back as a new session. */
export class RawGuest implements Guest {
  readonly user: string;
  readonly room: string;
  isHere = false;
  readonly #url: string;
  #socket: WebSocket | undefined;
  #pings: NodeJS.Timeout | undefined;

  private constructor(user: string, room: string, url: string) {
    this.user = user;
    this.room = room;
    this.#url = url;
    this.join();
  }

  /** @param more of the query: `&listed=0` */
  static async create(stage: Stage, room: string, user: string, more = ""): Promise<RawGuest> {
    const token = await signUser(stage.jwtSecret, user);
    const query = `room=${room}&v=3${more}&token=${token}`;
    return new RawGuest(user, room, `${stage.wsUrl}/ws/presence?${query}`);
  }

  get isConnected(): boolean {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  join(): void {
    this.isHere = true;
    this.#open();
  }

  #open(): void {
    const socket = new PlainWebSocket(this.#url);
    this.#socket = socket;
    socket.on("error", () => {});
    socket.on("open", () => {
      if (this.#socket !== socket) return;
      socket.send(PING);
      this.#pings = setInterval(() => socket.send(PING), PING_MS);
    });
    socket.on("close", () => {
      if (this.#socket !== socket) return;
      clearInterval(this.#pings);
      setTimeout(() => {
        if (this.isHere && this.#socket === socket) this.#open();
      }, RECONNECT_MS);
    });
  }

  leave(isClean: boolean): void {
    this.isHere = false;
    clearInterval(this.#pings);
    const socket = this.#socket;
    this.#socket = undefined;
    if (isClean) socket?.close(1000);
    else socket?.terminate();
  }
}
