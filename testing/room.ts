import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { expect, onTestFinished, vi } from "vitest";
import { type Fetching, freshName, openSocket, TestClient } from "./client.ts";
import { matchers } from "./matchers.ts";

/** Alarms that one `advance` may run; more are a room that sets its alarm to the present again and again. */
const ALARMS = 10_000;

/** How a client connects. */
export interface ConnectOptions {
  /** Added to the query of the room's `path`. */
  query?: Record<string, string>;
  headers?: Record<string, string>;
  /** Sent as `Authorization: Bearer <token>`. */
  token?: string;
  /** Default 3, whose clients can `resume`. */
  protocol?: 1 | 2 | 3;
}

/** Options of {@link testRoom}. */
export interface TestRoomOptions {
  /** The actor's name. Default: one that no other test uses. */
  name?: string;
  /** Path of the upgrade with the name of the room, where the path has it. Default `/ws`. */
  path?: string | ((name: string) => string);
  /**
   * The Worker that clients connect to, with its routes: `exports.default` of `cloudflare:workers`.
   * Default: they connect to the actor itself.
   */
  worker?: unknown;
  /** How a user of this name connects. Default: the query `userId`, which rooms without a login read. */
  login?: (user: string) => ConnectOptions | Promise<ConnectOptions>;
  /** How long clients and matchers wait for what a test expects, in ms. Default 4000. */
  timeoutMs?: number;
}

/**
 * A room for a test. It also adds the matchers `toHaveRoster`, `toReceive` and `toBeClosedWith` to `expect`.
 *
 * @param namespace the binding of the room's class: `env.CHAT` of `cloudflare:workers`
 * @example
 * const room = testRoom(env.CHAT, { path: "/ws/chat" });
 * const anna = await room.connect("anna");
 * anna.emit("say", { text: "hello" });
 * await expect(anna).toReceive("said", { from: "anna" });
 */
export function testRoom<T extends Rpc.DurableObjectBranded | undefined>(
  namespace: DurableObjectNamespace<T>,
  options: TestRoomOptions = {},
): TestRoom<T> {
  expect.extend(matchers);
  return new TestRoom(namespace, options);
}

/** An actor with its clients, its storage and a clock. */
export class TestRoom<T extends Rpc.DurableObjectBranded | undefined = undefined> {
  readonly name: string;
  readonly #namespace: DurableObjectNamespace<T>;
  readonly #options: TestRoomOptions;
  readonly #clients: TestClient[] = [];
  #isCounting = false;

  constructor(namespace: DurableObjectNamespace<T>, options: TestRoomOptions) {
    this.#namespace = namespace;
    this.#options = options;
    this.name = options.name ?? freshName();
  }

  /** The actor's stub, for calls. A new one each time: a crash breaks those that exist. */
  get stub(): DurableObjectStub<T> {
    return this.#namespace.getByName(this.name);
  }

  /**
   * A client of this user; with protocol 2 or 3 it has received its hello.
   *
   * @throws Error with status and body when the upgrade is refused, and with the code when the room
   *   closes the socket
   */
  async connect(user: string, options: ConnectOptions = {}): Promise<TestClient> {
    const { login = (userId: string) => ({ query: { userId } }), timeoutMs } = this.#options;
    const known: ConnectOptions = await login(user);
    const { token, protocol = 3 } = { ...known, ...options };
    const headers = {
      ...known.headers,
      ...options.headers,
      ...(token !== undefined && { Authorization: `Bearer ${token}` }),
    };
    const query = { ...known.query, ...options.query, v: String(protocol) };
    const open = (more: Record<string, string> = {}) => {
      const { path = "/ws", worker } = this.#options;
      const url = new URL(
        typeof path === "string" ? path : path(this.name),
        "https://rollcall.test",
      );
      for (const [key, value] of Object.entries({ ...query, ...more })) {
        url.searchParams.set(key, value);
      }
      return openSocket((worker ?? this.stub) as Fetching, url.pathname + url.search, headers);
    };
    const client = new TestClient(await open(), {
      reopen: (resume) => open({ resume }),
      ...(timeoutMs !== undefined && { timeoutMs }),
    });
    if (protocol > 1) await client.next(({ frame }) => frame.type === "hello", "hello");
    this.#clients.push(client);
    return client;
  }

  /** The actor hibernates: its memory is gone, sockets and storage stay. Running requests end first. */
  async evict(): Promise<void> {
    this.#refuseWhileCounting();
    // An actor that does not run cannot be evicted.
    await this.#inside(() => {});
    await evictDurableObject(this.stub as DurableObjectStub);
  }

  /** The actor ends at once: its memory and its sockets are gone, and with them what it has not stored. */
  async crash(): Promise<void> {
    this.#refuseWhileCounting();
    const open = this.#clients.filter(({ isOpen }) => isOpen);
    await this.#inside((state) => state.abort("crash")).catch(() => {});
    await Promise.all(open.map((client) => client.ended()));
  }

  #refuseWhileCounting(): void {
    if (this.#isCounting) throw new Error("rows() counts in one instance of the actor");
  }

  /** {@link TestClient.cut}. */
  cut(client: TestClient): Promise<void> {
    return client.cut();
  }

  /**
   * Moves the clock by `ms`, and runs this room's alarms at their times. Clients that are connected ping
   * meanwhile, as real ones do; those that have vanished do not.
   *
   * The clock is `Date`, for all code of the test file and until the test ends. `setTimeout` goes on in
   * real time.
   *
   * @throws Error outside a test
   */
  async advance(ms: number): Promise<void> {
    if (!vi.isFakeTimers()) {
      vi.useFakeTimers({ toFake: ["Date"], now: Date.now() });
      onTestFinished(() => {
        vi.useRealTimers();
      });
    }
    const untilMs = Date.now() + ms;
    for (let alarms = 0; ; alarms++) {
      await this.#ping();
      const alarmMs = await this.#inside(({ storage }) => storage.getAlarm());
      if (alarmMs === null || alarmMs > untilMs) break;
      if (alarms === ALARMS) throw new Error(`More than ${ALARMS} alarms in ${ms} ms`);
      vi.setSystemTime(Math.max(Date.now(), alarmMs));
      await this.#ping();
      await runDurableObjectAlarm(this.stub as DurableObjectStub);
    }
    vi.setSystemTime(untilMs);
    await this.#ping();
  }

  async #ping(): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.caughtUp()));
  }

  /**
   * The number of rows that the actor writes or deletes while `during` runs: what Cloudflare bills, with
   * one for each alarm that is set. Await in it whatever causes them.
   */
  async rows(during: () => Promise<unknown>): Promise<number> {
    this.#refuseWhileCounting();
    this.#isCounting = true;
    try {
      return await rowsOf(this.stub as DurableObjectStub, during);
    } finally {
      this.#isCounting = false;
    }
  }

  #inside<R>(task: (state: DurableObjectState) => R | Promise<R>): Promise<R> {
    return runInDurableObject(this.stub as DurableObjectStub<never>, (_, state) => task(state));
  }
}

/** As {@link TestRoom.rows}, of any actor. It may not be evicted meanwhile. */
export async function rowsOf(
  stub: DurableObjectStub,
  during: () => Promise<unknown>,
): Promise<number> {
  let rows = 0;
  const cursors: SqlStorageCursor<Record<string, SqlStorageValue>>[] = [];
  let restore = () => {};
  await runInDurableObject(stub as DurableObjectStub<never>, (_, { storage }) => {
    const { kv, sql } = storage;
    const [put, remove, setAlarm] = [kv.put, kv.delete, storage.setAlarm];
    const [putLater, removeLater, exec] = [storage.put, storage.delete, sql.exec];
    // biome-ignore lint/suspicious/noExplicitAny: methods of any signature
    const counted = (target: object, run: (...args: any[]) => unknown, count = sizeOf) => ({
      // biome-ignore lint/suspicious/noExplicitAny: see above
      run: (...args: any[]) => {
        rows += count(args[0]);
        return run.apply(target, args);
      },
    });
    Object.assign(kv, { put: counted(kv, put).run, delete: counted(kv, remove).run });
    Object.assign(storage, {
      put: counted(storage, putLater).run,
      delete: counted(storage, removeLater).run,
      setAlarm: counted(storage, setAlarm, () => 1).run,
    });
    Object.assign(sql, {
      exec(...args: Parameters<typeof exec>) {
        const cursor = exec.apply(sql, args);
        cursors.push(cursor);
        return cursor;
      },
    });
    restore = () => {
      Object.assign(kv, { put, delete: remove });
      Object.assign(storage, { put: putLater, delete: removeLater, setAlarm });
      Object.assign(sql, { exec });
    };
  });
  try {
    await during();
    return cursors.reduce((sum, cursor) => sum + cursor.rowsWritten, rows);
  } finally {
    restore();
  }
}

/** Rows of `put` or `delete`: of one key, of a list of keys, or of an object by key. */
function sizeOf(keys: string | string[] | object): number {
  return typeof keys === "string" ? 1 : Object.keys(keys).length;
}
