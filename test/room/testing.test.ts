import { runInDurableObject } from "cloudflare:test";
import { env, exports } from "cloudflare:workers";
import { describe, expect, it, vi } from "vitest";
import { type TestClient, testRoom } from "../../testing/index.ts";

const user = (name: string) => ({ query: { user: name } });
const newBoard = (timeoutMs = 8_000) =>
  testRoom(env.BOARD, { path: "/board", login: user, timeoutMs });
const newLine = () => testRoom(env.LINE, { login: user, timeoutMs: 8_000 });

/** The message of an expectation that must fail. */
async function failure(expectation: Promise<void>): Promise<string> {
  const error = await expectation.then(
    () => undefined,
    (error: Error) => error,
  );
  if (!error) throw new Error("It passed");
  return error.message;
}

type Line = ReturnType<typeof newLine>;

function inside<R>(
  room: Line,
  task: (storage: DurableObjectStorage, instance: object) => R | Promise<R>,
): Promise<R> {
  return runInDurableObject(room.stub as DurableObjectStub<never>, (instance, { storage }) =>
    task(storage, instance),
  );
}

/** What the room stored of who connected, resumed and left. */
function journal(room: Line): Promise<string[] | undefined> {
  return inside(room, ({ kv }) => kv.get<string[]>("journal"));
}

const instances = new WeakSet<object>();
/** Whether this instance of the actor, which is its memory, was seen before. */
function isSeen(room: Line): Promise<boolean> {
  return inside(room, (_, instance) => {
    const seen = instances.has(instance);
    instances.add(instance);
    return seen;
  });
}

describe("a room for a test", () => {
  it("connects users by its login, to the actor or through the Worker's routes", async () => {
    const line = newLine();
    await line.connect("ben");
    expect(await journal(line)).toEqual(["came ben"]);

    const lobby = testRoom(env.PRESENCE, {
      path: (name) => `/ws/presence?room=${name}`,
      worker: exports.default,
      login: (name) => ({ token: `user:${name}` }),
    });
    const anna = await lobby.connect("anna");
    await lobby.connect("ben");
    await expect(anna).toHaveRoster(["anna", "ben"]);
  });

  it("reports a refused upgrade by its status and body, and a room that closes by its code", async () => {
    const lobby = testRoom(env.PRESENCE, { path: "/ws/presence", worker: exports.default });
    const elsewhere = testRoom(env.PRESENCE, { path: "/ws/else", worker: exports.default });
    await expect(elsewhere.connect("eve")).rejects.toThrow(/^Upgrade refused: 404 .*not_found/);
    await expect(lobby.connect("eve", { protocol: 1 })).rejects.toThrow("Upgrade refused: 401");
    await expect(lobby.connect("eve")).rejects.toThrow("hello did not come before the close (4401");
  });

  it("keeps sockets and loses memory when it is evicted", async () => {
    const line = newLine();
    const anna = await line.connect("anna");
    expect([await isSeen(line), await isSeen(line)]).toEqual([false, true]);
    await line.evict();
    expect(await isSeen(line)).toBe(false);
    anna.emit("self", { n: 1 });
    await expect(anna).toReceive("n", { n: 1 });
  });

  it("loses sockets and memory when it crashes; clients then resume what it stored", async () => {
    const line = newLine();
    const anna = await line.connect("anna");
    expect([await isSeen(line), await isSeen(line)]).toEqual([false, true]);
    await line.crash();
    expect(anna.isOpen).toBe(false);
    expect(await isSeen(line)).toBe(false);
    await anna.resume();
    anna.emit("self", { n: 1 });
    await expect(anna).toReceive("n", { n: 1 });
  });

  it("counts the rows that are written, by each of the ways to write them", async () => {
    const line = newLine();
    const rows = (task: (storage: DurableObjectStorage) => unknown) =>
      line.rows(() => inside(line, async (storage) => void (await task(storage))));
    expect(await rows(() => {})).toBe(0);
    expect(await rows(({ kv }) => kv.put("a", 1))).toBe(1);
    expect(await rows(({ kv }) => kv.delete("a"))).toBe(1);
    expect(await rows((storage) => storage.put("a", "text"))).toBe(1);
    expect(await rows((storage) => storage.put({ a: 1, b: 2 }))).toBe(2);
    expect(await rows((storage) => storage.delete(["a", "b"]))).toBe(2);
    expect(await rows((storage) => storage.setAlarm(Date.now() + 1_000_000))).toBe(1);
    await inside(line, ({ sql }) => void sql.exec("CREATE TABLE t (a INTEGER)"));
    const insert = "INSERT INTO t VALUES (1), (2), (3)";
    expect(await rows(({ sql }) => void sql.exec(insert))).toBe(3);
    expect(await rows(({ sql }) => void sql.exec("SELECT * FROM t").toArray())).toBe(0);
  });

  it("refuses an eviction while rows are counted, since a new instance would not count", async () => {
    const line = newLine();
    await line.rows(() => expect(line.evict()).rejects.toThrow("one instance"));
    await line.evict();
  });
});

describe("a client of a test", () => {
  it("resumes after a cut and receives what it missed, once and in order", async () => {
    const line = newLine();
    const [anna, ben] = [await line.connect("anna"), await line.connect("ben")];
    ben.emit("channel", { channel: "default", n: 1 });
    await expect(anna).toReceive("n", { n: 1 });
    await line.cut(anna);
    for (const n of [2, 3]) ben.emit("channel", { channel: "default", n });
    await ben.caughtUp();
    expect(await anna.resume()).toMatchObject({ resumed: true, replayed: 2 });
    await anna.caughtUp();
    const numbers = anna.received.filter(({ event }) => event === "n").map(({ data }) => data.n);
    expect(numbers).toEqual([1, 2, 3]);
    expect(await journal(line)).toEqual(["came anna", "came ben", "resumed anna 2"]);
  });

  it("resumes only after a break, and only with protocol 3", async () => {
    const line = newLine();
    const anna = await line.connect("anna");
    await expect(anna.resume()).rejects.toThrow("Still connected");
    const old = await line.connect("ben", { protocol: 2 });
    await old.cut();
    await expect(old.resume()).rejects.toThrow("protocol 3");
  });

  it("that leaves is gone at once; one whose line is cut is gone after the grace", async () => {
    const board = newBoard();
    const [anna, ben, carla] = await Promise.all(["anna", "ben", "carla"].map(enter(board)));
    await expect(anna).toHaveRoster(["anna", "ben", "carla"]);
    await ben?.close();
    await expect(anna).toHaveRoster(["anna", "carla"]);
    await carla?.cut();
    await expect(anna).toHaveRoster(["anna"]);
  });
});

function enter(room: ReturnType<typeof newBoard>) {
  return (name: string): Promise<TestClient> => room.connect(name);
}

describe("the clock of a test", () => {
  it("runs alarms at their times, while connected clients stay and one that vanished is lost", async () => {
    const board = newBoard();
    const [anna, ben] = [await board.connect("anna"), await board.connect("ben")];
    await expect(anna).toHaveRoster(["anna", "ben"]);
    ben.vanish();
    await board.advance(1_000);
    await expect(anna).not.toHaveRoster(["anna"]);
    const start = Date.now();
    await board.advance(600_000);
    expect(Date.now() - start).toBeGreaterThanOrEqual(600_000);
    await expect(anna).toReceive("presence.diff", { leaves: [{ userId: "ben", reason: "lost" }] });
    await expect(anna).toHaveRoster(["anna"]);
    expect(anna.isOpen).toBe(true);
  });

  it("is back at the present in the next test", () => {
    expect(vi.isFakeTimers()).toBe(false);
  });

  it("ends a session at the time its token expires", async () => {
    const board = newBoard();
    const query = { user: "anna", expires: String(Date.now() + 60_000) };
    const anna = await board.connect("anna", { query });
    await board.advance(50_000);
    await expect(anna).not.toBeClosedWith(4_401);
    await board.advance(20_000);
    await expect(anna).toBeClosedWith(4_401);
  });
});

describe("a matcher", () => {
  const QUICK_MS = 300;

  it("toHaveRoster fails for a user too many, a user too few, another status, and what is no client", async () => {
    const board = newBoard(QUICK_MS);
    const [anna] = [await board.connect("anna"), await board.connect("ben")];
    await expect(anna).toHaveRoster(["ben", { userId: "anna", status: "online", devices: 1 }]);
    const is = /Expected the roster to be .*; it is .*"anna"/s;
    expect(await failure(expect(anna).toHaveRoster(["anna"]))).toMatch(is);
    expect(await failure(expect(anna).toHaveRoster(["anna", "ben", "carla"]))).toMatch(is);
    expect(await failure(expect(anna).toHaveRoster(["anna", "carla"]))).toMatch(is);
    const busy = { userId: "ben", status: "busy" };
    expect(await failure(expect(anna).toHaveRoster(["anna", busy]))).toMatch(is);
    expect(await failure(expect(anna).not.toHaveRoster(["anna", "ben"]))).toMatch(/not to be/);
    expect(await failure(expect({}).toHaveRoster([]))).toMatch(/a client of testRoom/);
  });

  it("toReceive fails for an event that does not come, comes with other data, or was taken", async () => {
    const line = testRoom(env.LINE, { login: user, timeoutMs: QUICK_MS });
    const anna = await line.connect("anna");
    anna.emit("self", { n: 1 });
    expect(await failure(expect(anna).toReceive("m"))).toMatch(/Expected m .*came: .*"n"/s);
    expect(await failure(expect(anna).toReceive("n", { n: 2 }))).toMatch(/Expected n/);
    expect(await failure(expect(anna).not.toReceive("n", { n: 1 }))).toMatch(/Expected no n/);
    anna.emit("self", { n: 1 });
    await expect(anna).toReceive("n", { n: expect.any(Number) });
    expect(await failure(expect(anna).toReceive("n"))).toMatch(/Expected n/);
    await expect(anna).not.toReceive("n");
  });

  it("toBeClosedWith fails for an open socket and for another code", async () => {
    const line = testRoom(env.LINE, { login: user, timeoutMs: QUICK_MS });
    const anna = await line.connect("anna");
    await expect(anna).not.toBeClosedWith(1_000);
    expect(await failure(expect(anna).toBeClosedWith(1_000))).toMatch(/it is open/);
    await anna.close();
    await expect(anna).toBeClosedWith(1_000);
    expect(await failure(expect(anna).toBeClosedWith(4_403))).toMatch(/it was 1000/);
    expect(await failure(expect(anna).not.toBeClosedWith(1_000))).toMatch(/not to be closed/);
  });
});
