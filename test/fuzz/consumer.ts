/** A consumer of webhooks that must know who is in the rooms, whatever hostile members do there. */
import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { Webhook } from "standardwebhooks";
import type { Change } from "../../src/server/backend.ts";
import { Faults } from "../kit/ledger.ts";

interface Roster {
  epoch: string;
  offset: number;
  users: Set<string>;
}

export class Consumer {
  readonly faults = new Faults();
  /** Signs the requests. */
  readonly secret = `whsec_${randomBytes(32).toString("base64")}`;
  /** Part of the url, which no log may hold. */
  readonly path = `hook${randomBytes(12).toString("hex")}`;
  requests = 0;
  readonly #rosters = new Map<string, Roster>();
  readonly #server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request.setEncoding("utf8")) body += chunk;
    this.requests += 1;
    try {
      new Webhook(this.secret).verify(body, request.headers as Record<string, string>);
      for (const change of JSON.parse(body) as Change[]) this.#apply(change);
    } catch (error) {
      this.faults.add(`the consumer cannot take a request: ${error}`);
    }
    response.writeHead(204).end();
  });

  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    const { port } = this.#server.address() as AddressInfo;
    return `http://127.0.0.1:${port}/${this.path}`;
  }

  /** Takes each offset once. One that comes again is passed over. */
  #apply(change: Change): void {
    const { room, epoch, offset, type } = change;
    const userId = "userId" in change ? (change.userId ?? "") : "";
    const roster = this.#rosters.get(room) ?? { epoch, offset: 0, users: new Set() };
    this.#rosters.set(room, roster);
    if (roster.epoch !== epoch) this.faults.add(`a new epoch in ${room}`);
    if (offset <= roster.offset) return;
    if (offset !== roster.offset + 1) {
      this.faults.add(`offset ${offset} of ${room} came after ${roster.offset}`);
    }
    roster.offset = offset;
    if (type === "user.joined") roster.users.add(userId);
    if (type === "user.left" && !roster.users.delete(userId)) {
      this.faults.add(`${JSON.stringify(userId)} left ${room} without having joined`);
    }
    const isEmpty = roster.users.size === 0;
    if (type === "room.vacated" && !isEmpty) this.faults.add(`${room} was vacated, with users`);
  }

  get rooms(): string[] {
    return [...this.#rosters.keys()];
  }

  /** The users of a room, as the changes have them. */
  rosterOf(room: string): string {
    return [...(this.#rosters.get(room)?.users ?? [])].sort().join();
  }

  stop(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }
}
