// @vitest-environment happy-dom
import { act, type ReactNode, StrictMode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { afterEach, beforeEach, expect, expectTypeOf, test, vi } from "vitest";
import type { PresenceEvents } from "../../client/client.ts";
import {
  type Device,
  type Mood,
  type RoomHandle,
  type RoomOptions,
  useDevices,
  useEvent,
  useMoods,
  usePresence,
  useRoom,
  useStatus,
} from "../../client/react.ts";
import type { Heartbeat } from "../../rooms/devices/contract.ts";
import type { RosterEntry } from "../../rooms/presence/roster.ts";
import { attempts, FakeWebSocket, installFakes, latest, pass } from "./client-fake.ts";

Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: true });
installFakes();

const URL_A = "ws://test/a";
const URL_B = "ws://test/b";
const OPTIONS: RoomOptions = { WebSocket: FakeWebSocket };

let root: Root;
let page: HTMLElement;
beforeEach(() => {
  page = document.body.appendChild(document.createElement("div"));
  root = createRoot(page);
});
afterEach(async () => {
  await act(() => root.unmount());
  page.remove();
});

/** Renders under StrictMode, and lets effects and promises run. */
async function render(node: ReactNode): Promise<void> {
  await act(async () => {
    root.render(<StrictMode>{node}</StrictMode>);
    await pass();
  });
}

/** Lets the server do something, and React hear of it. */
async function server(doing: () => void, ms = 0): Promise<void> {
  await act(async () => {
    doing();
    await pass(ms);
  });
}

const entry = (userId: string, devices = 1, status: RosterEntry["status"] = "online") => ({
  userId,
  username: userId.toUpperCase(),
  devices,
  status,
});
const sync = (...users: RosterEntry[]) => ({
  type: "presence.sync",
  data: { users, totalUsers: users.length, totalConnections: users.length },
});
const joins = (...users: RosterEntry[]) => ({
  type: "presence.diff",
  data: { joins: users, leaves: [], updates: [], timestamp: 1 },
});

let renders = 0;
function People({ room }: { room: RoomHandle<PresenceEvents> }) {
  const { users } = usePresence(room);
  renders += 1;
  return <ul>{users.map(({ userId }) => `${userId} `)}</ul>;
}

function Lobby({ url = URL_A, options = OPTIONS }: { url?: string | null; options?: RoomOptions }) {
  const room = useRoom<PresenceEvents>(url, options);
  return (
    <>
      <p>{room.state}</p>
      <People room={room} />
    </>
  );
}

function textOf(tag: string): string {
  return page.querySelector(tag)?.textContent?.trim() ?? "";
}

test("a component connects once under StrictMode, and shows who is there", async () => {
  await render(<Lobby />);
  expect(attempts()).toBe(1);
  expect(textOf("p")).toBe("connecting");

  await server(() => latest().accept());
  await server(() => latest().say(sync(entry("ann"))));
  await server(() => latest().say(joins(entry("bob"))));

  expect(textOf("p")).toBe("connected");
  expect(textOf("ul")).toBe("ann bob");
  expect(attempts()).toBe(1);
});

function Colours() {
  const { users } = usePresence(useRoom<PresenceEvents>(URL_A, OPTIONS));
  renders += 1;
  return <ul>{users.map(({ user }) => `${user?.colour} `)}</ul>;
}

test("a component renders again when the server knows something new of a user, and not for a state", async () => {
  await render(<Colours />);
  await server(() => latest().accept());
  await server(() => latest().say(sync({ ...entry("ann"), user: { colour: "red" } })));
  expect(textOf("ul")).toBe("red");

  const diff = (changes: object) => ({
    type: "presence.diff",
    data: { joins: [], leaves: [], updates: [], timestamp: 1, ...changes },
  });
  const updates = [{ userId: "ann", user: { colour: "blue" } }];
  await server(() => latest().say(diff({ updates })));
  expect(textOf("ul")).toBe("blue");

  renders = 0;
  await server(() => latest().say(diff({ states: [{ userId: "ann", session: "s", state: {} }] })));
  expect(renders).toBe(0);
});

test("unmounting leaves with 1000, and for good", async () => {
  await render(<Lobby />);
  await server(() => latest().accept());
  await render(null);

  expect(latest().closedWith).toBe(1000);
  await server(() => latest().end(1006), 60_000);
  expect(attempts()).toBe(1);
});

test("a component that is unmounted at once connects never", async () => {
  await act(async () => {
    root.render(<Lobby />);
    root.render(null);
    await pass();
  });
  expect(attempts()).toBe(0);
});

test("another url is another room: the old one is left, and its people are not shown", async () => {
  await render(<Lobby />);
  const old = latest();
  await server(() => old.accept());
  await server(() => old.say(sync(entry("ann"))));

  await render(<Lobby url={URL_B} />);
  expect(old.closedWith).toBe(1000);
  expect(textOf("ul")).toBe("");
  expect(latest().url.pathname).toBe("/b");
  await server(() => latest().accept());
  await server(() => latest().say(sync(entry("cleo"))));
  expect(textOf("ul")).toBe("cleo");

  await render(<Lobby url={null} />);
  expect(latest().closedWith).toBe(1000);
  expect([textOf("p"), textOf("ul")]).toEqual(["disconnected", ""]);
});

test("people stay visible while the connection is lost, and it comes back by itself", async () => {
  await render(<Lobby />);
  await server(() => latest().accept());
  await server(() => latest().say(sync(entry("ann"))));
  await server(() => latest().end(1006));
  expect([textOf("p"), textOf("ul")]).toEqual(["reconnecting", "ann"]);
  await server(() => {}, 1_500);
  expect(attempts()).toBe(2);
});

test("a diff of five hundred joins renders once", async () => {
  await render(<Lobby />);
  await server(() => latest().accept());
  await server(() => latest().say(sync(entry("ann"))));

  renders = 0;
  const crowd = Array.from({ length: 500 }, (_, i) => entry(`user${i}`));
  await server(() => latest().say(joins(...crowd)));
  // StrictMode renders everything twice.
  expect(renders).toBe(2);
  expect(textOf("ul").split(" ")).toHaveLength(501);
});

function Late({ isOpen }: { isOpen: boolean }) {
  const room = useRoom<PresenceEvents>(URL_A, OPTIONS);
  return isOpen ? <People room={room} /> : null;
}

test("who mounts later sees at once who has long been there", async () => {
  await render(<Late isOpen={false} />);
  await server(() => latest().accept());
  await server(() => latest().say(sync(entry("ann"))));
  act(() =>
    root.render(
      <StrictMode>
        <Late isOpen={true} />
      </StrictMode>,
    ),
  );
  expect(textOf("ul")).toBe("ann");
});

let heard: string[];
function Ear({ name }: { name: string }) {
  const room = useRoom(URL_A, OPTIONS);
  useEvent(room, "said", ({ text }) => {
    heard.push(`${name}: ${text}`);
  });
  return <p>{room.state}</p>;
}

test("an event that comes before the next render is heard, once, by the handler of the last one", async () => {
  heard = [];
  await act(async () => {
    root.render(
      <StrictMode>
        <Ear name="first" />
      </StrictMode>,
    );
  });
  // Within one act React renders nothing until its end.
  await act(async () => {
    await pass();
    latest().accept();
    latest().say({ type: "said", data: { text: "one" } });
    expect(textOf("p")).not.toBe("connected");
  });
  await render(<Ear name="second" />);
  await server(() => latest().say({ type: "said", data: { text: "two" } }));
  expect(heard).toEqual(["first: one", "second: two"]);
});

test("a token that turns up connects anew; a fresh one is used at the next attempt", async () => {
  await render(<Lobby />);
  expect(latest().token).toBeNull();

  await render(<Lobby options={{ ...OPTIONS, token: "one" }} />);
  expect(attempts()).toBe(2);
  expect(latest().token).toBe("one");

  await render(<Lobby options={{ ...OPTIONS, token: () => "two" }} />);
  expect(attempts()).toBe(2);
  await server(() => latest().accept());
  await server(() => latest().end(4401), 1_500);
  expect(attempts()).toBe(3);
  expect(latest().token).toBe("two");
});

let choose: (status: RosterEntry["status"]) => void;
function Me({ userId = "ann" }: { userId?: string }) {
  const room = useRoom<PresenceEvents>(URL_A, OPTIONS);
  const [status, setStatus] = useStatus(room, userId);
  choose = setStatus;
  return <p>{status}</p>;
}
const statuses = () => latest().frames.map(({ data }) => (data as { status: string }).status);
const told = (userId: string, status: string) => ({
  type: "presence.status",
  data: { userId, username: userId, status, timestamp: 1 },
});

async function backWith(me: RosterEntry): Promise<void> {
  await server(() => latest().end(1006), 1_500);
  await server(() => latest().accept());
  await server(() => latest().say(sync(me)));
}

test("a status is told to the room, and again after a loss that made it forget", async () => {
  await render(<Me />);
  await server(() => latest().accept());
  await server(() => latest().say(sync(entry("ann"))));
  await server(() => choose("busy"));
  expect(statuses()).toEqual(["busy"]);
  expect(textOf("p")).toBe("online");
  await server(() => latest().say(told("ann", "busy")));
  expect(textOf("p")).toBe("busy");

  await backWith(entry("ann"));
  expect(statuses()).toEqual(["busy"]);
});

test("a status chosen while away is told once, after the connection", async () => {
  await render(<Me />);
  await server(() => choose("away"));
  await server(() => latest().accept());
  await server(() => latest().say(sync(entry("ann", 2, "busy"))));
  expect(statuses()).toEqual(["away"]);
});

test("what another device of the user chose later is not overruled by a reconnect", async () => {
  await render(<Me />);
  await server(() => latest().accept());
  await server(() => latest().say(sync(entry("ann", 2))));
  await server(() => choose("busy"));
  await server(() => latest().say(told("ann", "busy")));
  // Seen here …
  await server(() => latest().say(told("ann", "away")));
  await backWith(entry("ann"));
  expect(statuses()).toEqual(["away"]);
  // … and not seen here, since it happened while we were away.
  await backWith(entry("ann", 2, "busy"));
  expect(statuses()).toEqual([]);
  expect(textOf("p")).toBe("busy");
});

let seen: readonly Device[];
function Devices({ url }: { url: string }) {
  seen = useDevices(url, OPTIONS);
  return <p>{seen.map(({ device_id, status }) => `${device_id}=${status} `)}</p>;
}

test("devices stand where they stood, and belong to the user that was asked for", async () => {
  const device = (device_id: string, status: Device["status"], seq: number): Device => ({
    ...{ schema_version: 1, device_id, user_id: "u", status, seq },
    ...{ source: "test", sent_at_ms: seq, ttl_ms: 1_000 },
  });
  await render(<Devices url={URL_A} />);
  await server(() => {
    latest().accept();
    const devices = [device("d1", "online", 1), device("d2", "online", 1)];
    latest().say({ type: "event", data: { type: "device.sync", devices } });
  });
  const update = (next: Device) => ({ type: "event", data: { type: "device.update", ...next } });
  await server(() => latest().say(update(device("d1", "offline", 2))));
  await server(() => latest().say(update(device("d3", "online", 1))));
  expect(textOf("p")).toBe("d1=offline d2=online d3=online");
  expect(seen[0]).toEqual(device("d1", "offline", 2));

  await render(<Devices url={URL_B} />);
  expect(textOf("p")).toBe("");
  await server(() => {
    latest().accept();
    latest().say(update(device("d9", "online", 1)));
  });
  expect(textOf("p")).toBe("d9=online");
  expectTypeOf<Device>().toEqualTypeOf<Heartbeat>();
});

function Crowd({ mood }: { mood: Mood }) {
  const state = useMoods("http://test", mood, { WebSocket: FakeWebSocket });
  return <p>{state ? `${state.count} here, ${state.moods.release} let go` : "…"}</p>;
}

test("a visitor counts while mounted, tells a new mood, and leaves", async () => {
  const left = vi.fn(() => true);
  vi.stubGlobal("navigator", { sendBeacon: left });
  vi.stubGlobal("fetch", async () => Response.json({ sessionId: "issued" }));
  await render(<Crowd mood="gratitude" />);
  expect(attempts()).toBe(1);
  expect(textOf("p")).toBe("…");
  expect(latest().url.searchParams.get("mood")).toBe("gratitude");
  const moods = { gratitude: 1, presence: 0, release: 2, connection: 0 };
  await server(() => {
    latest().accept();
    latest().say({ type: "event", data: { type: "mood.state", count: 3, moods, timestamp: 1 } });
  });
  expect(textOf("p")).toBe("3 here, 2 let go");

  await render(<Crowd mood="release" />);
  expect(latest().frames).toEqual([{ type: "mood.set", data: { mood: "release" } }]);
  expect(left).not.toHaveBeenCalled();

  await render(null);
  expect(left).toHaveBeenCalledOnce();
  expect(latest().closedWith).toBe(1000);
  expect(attempts()).toBe(1);
});

function All() {
  const room = useRoom<PresenceEvents>(URL_A, OPTIONS);
  const [status] = useStatus(room, "ann");
  const devices = useDevices(URL_B, OPTIONS);
  const state = useMoods("http://test", "presence", { WebSocket: FakeWebSocket });
  const { totalUsers } = usePresence(room);
  return <p>{[room.state, status, totalUsers, devices.length, String(state)].join(" ")}</p>;
}

test("a server renders nobody, and connects to nothing", () => {
  expect(renderToString(<All />)).toBe("<p>disconnected online 0 0 null</p>");
  expect(attempts()).toBe(0);
});
