import { describe, expect, it } from "vitest";
import { PeopleClient, type PeopleClientOptions, PeopleError } from "../../client/people.ts";
import { FakeWebSocket, installFakes, latest, pass } from "./client-fake.ts";

installFakes();

async function connected(options: Partial<PeopleClientOptions> = {}) {
  const errors: unknown[] = [];
  const client = new PeopleClient("https://test/base/", {
    token: "t",
    WebSocket: FakeWebSocket,
    onError: (error) => errors.push(error),
    ...options,
  });
  await pass();
  latest().accept();
  await pass();
  return { client, errors };
}

const sent = () =>
  latest()
    .sent.filter((text) => text !== "ping")
    .map((text) => JSON.parse(text));
const say = (message: object) => latest().say(JSON.stringify(message));
const sync = (...users: [string, boolean][]) =>
  say({ type: "people.sync", users: users.map(([userId, online]) => ({ userId, online })) });

describe("a client that watches people", () => {
  it("connects with its token outside the URL, and pings with the bytes that wake no actor", async () => {
    await connected();
    expect(latest().url.href).toBe("wss://test/base/ws/people?v=3");
    expect(latest().token).toBe("t");
    latest().say("pong");
    await pass(26_000);
    expect(latest().sent).toEqual(["ping", "ping"]);
  });

  it("asks for all users of one turn in one message, and for each once", async () => {
    const { client } = await connected();
    client.watch(["ann", "ben"], () => {});
    client.watch(["ben", "eve"], () => {});
    await pass();
    expect(sent()).toEqual([{ type: "watch", ids: ["ann", "ben", "eve"] }]);
  });

  it("calls each listener with the first state, and then with each change only", async () => {
    const { client } = await connected();
    const seen: [string, boolean][] = [];
    client.watch(["ann", "ben"], (userId, online) => seen.push([userId, online]));
    await pass();
    sync(["ann", true], ["ben", false]);
    say({ type: "people.update", userId: "ben", online: true });
    say({ type: "people.update", userId: "ben", online: true });
    say({ type: "people.update", userId: "stranger", online: true });
    expect(seen).toEqual([
      ["ann", true],
      ["ben", false],
      ["ben", true],
    ]);
    expect([...client.online]).toEqual([
      ["ann", true],
      ["ben", true],
    ]);
    const late: [string, boolean][] = [];
    client.watch(["ann"], (userId, online) => late.push([userId, online]));
    expect(late).toEqual([["ann", true]]);
  });

  it("watches all again after a loss, and reports what changed meanwhile", async () => {
    const { client } = await connected();
    const seen: [string, boolean][] = [];
    client.watch(["ann", "ben"], (userId, online) => seen.push([userId, online]));
    await pass();
    sync(["ann", true], ["ben", true]);
    latest().end(1006);
    await pass(1_500);
    latest().accept();
    await pass();
    expect(sent()).toEqual([{ type: "watch", ids: ["ann", "ben"] }]);
    sync(["ann", true], ["ben", false]);
    expect(seen.slice(2)).toEqual([["ben", false]]);
  });

  it("stops watching a user once no listener is left", async () => {
    const { client } = await connected();
    const stops = [client.watch(["ann"], () => {}), client.watch(["ann", "ben"], () => {})];
    await pass();
    sync(["ann", true], ["ben", true]);
    stops[0]?.();
    expect(sent()).toHaveLength(1);
    stops[1]?.();
    stops[1]?.();
    expect(sent().slice(1)).toEqual([{ type: "unwatch", ids: ["ann", "ben"] }]);
    expect(client.online.size).toBe(0);
  });

  it("refuses more than 500 users, and reports what the server refuses, and a listener that throws", async () => {
    const { client, errors } = await connected();
    const ids = Array.from({ length: 500 }, (_, i) => `u${i}`);
    client.watch(ids, () => {
      throw new Error("listener");
    });
    expect(() => client.watch(["one more"], () => {})).toThrow(RangeError);
    await pass();
    say({ type: "error", code: "rate_limited", message: "Too many" });
    sync(["u1", true]);
    latest().say("rubbish");
    expect(errors[0]).toBeInstanceOf(PeopleError);
    expect((errors[0] as PeopleError).code).toBe("rate_limited");
    expect(errors[1]).toMatchObject({ message: "listener" });
    expect(client.state).toBe("connected");
  });

  it("shows the server a fresh token before its own expires, and stays away after disconnect", async () => {
    let minted = 0;
    const token = () => {
      const exp = Math.floor(Date.now() / 1_000) + 100;
      return `head.${btoa(JSON.stringify({ exp }))}.${++minted}`;
    };
    const { client } = await connected({ token });
    for (let second = 0; second < 61; second++) {
      latest().say("pong");
      await pass(1_000);
    }
    expect(sent().filter(({ type }) => type === "auth")).toHaveLength(1);
    client.disconnect();
    await pass(200_000);
    expect(minted).toBe(2);
    expect(client.state).toBe("disconnected");
  });
});
