/** Stock LiveStore clients for tests and benchmarks, and a cable to the server that can be cut. */
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { makeAdapter } from "@livestore/adapter-node";
import {
  createStorePromise,
  Events,
  makeSchema,
  Schema,
  State,
  type Store,
} from "@livestore/livestore";
import { makeHttpSync, makeWsSync } from "@livestore/sync-cf/client";
import { LogLevel } from "@livestore/utils/effect";
import { SignJWT } from "jose";

const POLL_MS = 10;

const notes = State.SQLite.table({
  name: "notes",
  columns: { text: State.SQLite.text({ primaryKey: true }) },
});
const noteAdded = Events.synced({
  name: "v1.NoteAdded",
  schema: Schema.Struct({ text: Schema.String }),
});
const schema = makeSchema({
  events: { noteAdded },
  state: State.SQLite.makeState({
    tables: { notes },
    materializers: State.SQLite.materializers(
      { noteAdded },
      {
        "v1.NoteAdded": ({ text }) => notes.insert({ text }),
      },
    ),
  }),
});
// SQLite numbers rows in the order of their events.
const IN_ORDER = { query: "SELECT text FROM notes ORDER BY rowid", bindValues: {} };

export interface ClientOptions {
  /** `http://127.0.0.1:<port>`; the client adds `/sync`. */
  url: string;
  storeId: string;
  /** LiveStore's syncPayload. */
  payload?: { instanceId: string; authToken?: string; serverBypass?: string };
  transport?: "ws" | "http";
}

/** One stock client with its state in memory. */
export class NoteClient {
  readonly #store: Store<typeof schema>;

  private constructor(store: Store<typeof schema>) {
    this.#store = store;
  }

  static async open({ url, storeId, payload, transport }: ClientOptions): Promise<NoteClient> {
    const backend =
      transport === "http"
        ? makeHttpSync({ url: `${url}/sync`, livePull: { pollInterval: 200 } })
        : makeWsSync({ url: `${url.replace(/^http/, "ws")}/sync` });
    const store = await createStorePromise({
      schema,
      storeId,
      adapter: makeAdapter({
        storage: { type: "in-memory" },
        clientId: crypto.randomUUID(),
        sync: { backend, onSyncError: "ignore" },
      }),
      ...(payload && { syncPayload: { ...payload } }),
      disableDevtools: true,
      batchUpdates: (run) => run(),
      logLevel: LogLevel.None,
    });
    return new NoteClient(store);
  }

  commit(...texts: string[]): void {
    this.#store.commit(...texts.map((text) => noteAdded({ text })));
  }

  /** All notes, in the order of their events. */
  get notes(): readonly string[] {
    return this.#store.query<{ text: string }[]>(IN_ORDER).map(({ text }) => text);
  }

  async close(): Promise<void> {
    await this.#store.shutdownPromise();
  }
}

/** Waits until every client has `count` notes, all in the same order. Returns false after `timeoutMs`. */
export async function converge(
  clients: NoteClient[],
  count: number,
  timeoutMs: number,
): Promise<boolean> {
  for (const giveUpAt = Date.now() + timeoutMs; Date.now() < giveUpAt; await sleep(POLL_MS)) {
    const [first, ...others] = clients.map((client) => client.notes);
    if (first?.length !== count || others.some(({ length }) => length !== count)) continue;
    const order = first.join();
    if (others.every((list) => list.join() === order)) return true;
  }
  return false;
}

/** The TCP connections between a client and a server. */
export class Cable {
  readonly url: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #isCut = false;

  private constructor(server: Server) {
    this.#server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  static async lay(port: number): Promise<Cable> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const cable = new Cable(server);
    server.on("connection", (near) => cable.#plug(near, port));
    return cable;
  }

  /** Resets all connections, and every new one until `mend`. */
  cut(): void {
    this.#isCut = true;
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  mend(): void {
    this.#isCut = false;
  }

  async close(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #plug(near: Socket, port: number): void {
    if (this.#isCut) {
      near.resetAndDestroy();
      return;
    }
    const far = connect(port, "127.0.0.1");
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      this.#sockets.add(socket);
      socket.pipe(other);
      socket.on("error", () => other.destroy());
      socket.on("close", () => {
        this.#sockets.delete(socket);
        other.destroy();
      });
    }
  }
}

/** A token of a member, as the app's own backend signs it. */
export function signMember(
  userId: string,
  workspaceId: string,
  secret: string,
  claimsVersion = 1,
): Promise<string> {
  return new SignJWT({
    userId,
    workspaces: [{ id: workspaceId, role: "member" }],
    workspaceClaimsVersion: claimsVersion,
  })
    .setProtectedHeader({ alg: "HS256" })
    .setExpirationTime("1h")
    .sign(new TextEncoder().encode(secret));
}
