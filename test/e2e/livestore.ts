/** Stock LiveStore clients for tests and benchmarks. */
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
