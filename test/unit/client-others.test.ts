import { describe, expect, it } from "vitest";
import type { OpenInfo } from "../../client/client.ts";
import type { PresentSession, RosterEntry } from "../../rooms/presence/roster.ts";
import type { Hello } from "../../src/wire/frames.ts";
import { type FakeWebSocket, installFakes, latest, newClient, pass } from "./client-fake.ts";

installFakes();

const hello = (more: Partial<Hello> = {}) => ({
  type: "hello",
  data: {
    ...{ protocol: 3, session: "mine", epoch: "e1", seq: 0, resumed: false },
    ...{ pingMs: 5_000, nowMs: Date.now(), graceMs: 5_000, ...more },
  },
});
const session = (id: string, state?: object, untilMs?: number): PresentSession => ({
  ...{ session: id, device: "desktop", since: 1 },
  ...(state && { state }),
  ...(untilMs !== undefined && { untilMs }),
});
const entry = (userId: string, ...sessions: PresentSession[]): RosterEntry => ({
  ...{ userId, username: userId.toUpperCase(), devices: sessions.length, status: "online" },
  sessions,
});
let seq = 0;
const frame = (event: string, data: object) => ({
  type: "event",
  channel: "default",
  data: { type: event, ...data },
  seq: ++seq,
});
const sync = (...users: RosterEntry[]) =>
  frame("presence.sync", { users, totalUsers: users.length, totalConnections: users.length });
const diff = (more: object) =>
  frame("presence.diff", { joins: [], leaves: [], updates: [], timestamp: 1, ...more });

/** A client in a room, with what the app heard of the others. */
async function enter(...users: RosterEntry[]) {
  const client = newClient();
  const heard: string[][] = [];
  client.on("others", (others) => heard.push([...others.keys()]));
  await pass();
  latest().accept();
  latest().say([hello(), sync(entry("me", session("mine")), ...users)]);
  return { client, heard };
}

function statesSent(socket: FakeWebSocket): unknown[] {
  return socket.frames.filter(({ type }) => type === "presence.state").map(({ data }) => data);
}

describe("the others of a client", () => {
  it("have what a newer server adds to a user and to a connection", async () => {
    const newer = { ...session("a1", { x: 1 }, Date.now() + 60_000), app: "2.0" };
    const { client } = await enter({ ...entry("ann", newer), team: "red" } as RosterEntry);
    expect(client.others.get("a1")).toEqual({
      ...{ session: "a1", userId: "ann", username: "ANN", status: "online", team: "red" },
      ...{ device: "desktop", since: 1, app: "2.0", state: { x: 1 } },
    });
  });

  it("are all connections but its own, by their ids, with user, status and state", async () => {
    const { client } = await enter(
      { ...entry("ann", session("a1", { x: 1 }), session("a2")), user: { colour: "red" } },
      entry("me", session("mine", { x: 9 }), session("other-tab")),
    );
    const ann = { userId: "ann", username: "ANN", user: { colour: "red" }, status: "online" };
    const of = { device: "desktop", since: 1 };
    const others = [...client.others.values()].sort((a, b) => (a.session < b.session ? -1 : 1));
    expect(others).toEqual([
      { session: "a1", ...ann, ...of, state: { x: 1 } },
      { session: "a2", ...ann, ...of },
      { session: "other-tab", userId: "me", username: "ME", status: "online", ...of },
    ]);
    expect(client.me).toMatchObject({ session: "mine", userId: "me", state: { x: 9 } });
  });

  it("fire once per message that changed them, and stay the same objects where they did not", async () => {
    const { client, heard } = await enter(entry("ann", session("a")), entry("ben", session("b")));
    expect(heard).toEqual([["a", "b"]]);
    const before = client.others;
    const change = { userId: "ann", session: "a", state: { x: 2 } };
    latest().say([
      diff({ states: [change] }),
      diff({ joins: [entry("cid", session("c"))] }),
      frame("presence.status", { userId: "ann", username: "ANN", status: "busy", timestamp: 1 }),
    ]);
    expect(heard).toHaveLength(2);
    expect(client.others.get("a")).toMatchObject({ state: { x: 2 }, status: "busy" });
    expect(client.others.get("b")).toBe(before.get("b"));
    expect(before.get("a")?.state).toBeUndefined();
    latest().say(frame("said", { text: "hi" }));
    expect(heard).toHaveLength(2);
    latest().say(diff({ leaves: [{ userId: "ann", username: "ANN", reason: "left" }] }));
    expect(heard.at(-1)).toEqual(["b", "c"]);
  });

  it("lose a state when its time is over on the server's clock, without a message", async () => {
    const client = newClient();
    const heard: unknown[] = [];
    client.on("others", (others) => heard.push(others.get("a")?.state));
    await pass();
    latest().accept();
    const aheadMs = 3_600_000;
    const untilMs = Date.now() + aheadMs + 2_000;
    const users = [
      entry("me", session("mine")),
      entry("ann", session("a", { typing: true }, untilMs)),
    ];
    latest().say([hello({ nowMs: Date.now() + aheadMs }), sync(...users)]);
    expect(heard).toEqual([{ typing: true }]);
    await pass(1_900);
    expect(heard).toHaveLength(1);
    await pass(200);
    expect(heard).toEqual([{ typing: true }, undefined]);
    latest().say(diff({ states: [{ userId: "ann", session: "a", state: { x: 1 } }] }));
    await pass(60_000);
    expect(client.others.get("a")?.state).toEqual({ x: 1 });
  });

  it("are counted by the roster, or in a large room by what the server says", async () => {
    const { client } = await enter(entry("ann", session("a"), session("b")));
    expect(client.count).toEqual({ totalUsers: 2, totalConnections: 3 });
    const part = { users: [entry("ann", session("a"))], partial: true, next: "ann" };
    latest().say(frame("presence.sync", { ...part, totalUsers: 70, totalConnections: 80 }));
    expect(client.count).toEqual({ totalUsers: 70, totalConnections: 80 });
    expect(client.me).toBeNull();
    latest().say(frame("presence.count", { totalUsers: 71, totalConnections: 81 }));
    expect(client.count).toEqual({ totalUsers: 71, totalConnections: 81 });
  });
});

describe("the state that a client sets", () => {
  it("is sent at most once in 50 ms, always with its last value, and is seen in me at once", async () => {
    const { client } = await enter();
    const socket = latest();
    for (let x = 0; x < 100; x++) {
      client.setState({ x });
      expect(client.me?.state).toEqual({ x });
      await pass(5);
    }
    await pass(100);
    const sent = statesSent(socket);
    expect(sent.length).toBeGreaterThan(8);
    expect(sent.length).toBeLessThan(13);
    expect(sent[0]).toEqual({ state: { x: 0 } });
    expect(sent.at(-1)).toEqual({ state: { x: 99 } });
    client.setState(null);
    expect(client.me?.state).toBeUndefined();
    await pass(100);
    expect(statesSent(socket).at(-1)).toEqual({ state: null });
  });

  it("waits for a connection, is sent again with what is left of its ttl, and ends with it", async () => {
    const client = newClient();
    client.setState({ typing: true }, { ttlMs: 60_000 });
    await pass();
    latest().accept();
    expect(statesSent(latest())).toEqual([]);
    latest().say([hello(), sync(entry("me", session("mine")))]);
    expect(statesSent(latest())).toEqual([{ state: { typing: true }, ttlMs: 60_000 }]);
    const infos: OpenInfo[] = [];
    client.onOpen((info) => infos.push(info));
    latest().end(1_006);
    await pass(5_000);
    latest().accept();
    latest().say([hello({ session: "new", reason: "expired" }), sync(entry("me", session("new")))]);
    expect(infos).toMatchObject([{ resumed: false, reason: "expired" }]);
    const [again] = statesSent(latest()) as { ttlMs: number }[];
    expect(again?.ttlMs).toBeLessThanOrEqual(55_000);
    expect(again?.ttlMs).toBeGreaterThan(50_000);
    expect(client.me).toMatchObject({ session: "new", state: { typing: true } });
    await pass(60_000);
    expect(client.me?.state).toBeUndefined();
  });

  it("is never sent to a server of an earlier protocol", async () => {
    const client = newClient();
    client.setState({ x: 1 });
    await pass();
    latest().accept();
    latest().say({
      type: "hello",
      data: { protocol: 2, session: "s", epoch: "e", seq: 0, pingMs: 0 },
    });
    client.setState({ x: 2 });
    await pass(1_000);
    expect(statesSent(latest())).toEqual([]);
    expect(client.others.size).toBe(0);
  });

  it("must be what JSON can hold", async () => {
    const { client } = await enter();
    expect(() => client.setState({ x: Number.NaN })).toThrow(TypeError);
    expect(() => client.setState({ x: new Map() })).toThrow(TypeError);
  });
});
