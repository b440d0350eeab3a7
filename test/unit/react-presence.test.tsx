// @vitest-environment happy-dom
import { act, memo, type ReactNode, StrictMode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { PresenceEvents } from "../../client/client.ts";
import {
  type RoomHandle,
  useCount,
  useMyState,
  useOthers,
  useRoom,
  useTyping,
} from "../../client/react.ts";
import type { RosterEntry, Status } from "../../rooms/presence/roster.ts";
import { FakeWebSocket, installFakes, latest, pass } from "./client-fake.ts";

Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: true });
installFakes();

interface State {
  x?: number;
  typing?: boolean;
}
type Events = PresenceEvents<Status, State>;
type Room = RoomHandle<Events>;

const OPTIONS = { WebSocket: FakeWebSocket };

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

async function render(node: ReactNode): Promise<void> {
  await act(async () => {
    root.render(<StrictMode>{node}</StrictMode>);
    await pass();
  });
}

async function server(doing: () => void, ms = 0): Promise<void> {
  await act(async () => {
    doing();
    await pass(ms);
  });
}

let seq = 0;
const event = (type: string, data: object) => ({
  type: "event",
  channel: "default",
  data: { type, ...data },
  seq: ++seq,
});
const entry = (userId: string): RosterEntry => ({
  ...{ userId, username: userId, devices: 1, status: "online" },
  sessions: [{ session: `s-${userId}`, device: "desktop", since: 1 }],
});
const hello = () => ({
  type: "hello",
  data: {
    ...{ protocol: 3, session: "s-me", epoch: "e", seq, resumed: false },
    ...{ pingMs: 0, nowMs: Date.now(), graceMs: 0 },
  },
});
const sync = (...userIds: string[]) => {
  const users = ["me", ...userIds].map(entry);
  const totals = { totalUsers: users.length, totalConnections: users.length };
  return event("presence.sync", { users, ...totals });
};
const states = (...changes: [userId: string, state: State | null][]) =>
  event("presence.diff", {
    ...{ joins: [], leaves: [], updates: [], timestamp: 1 },
    states: changes.map(([userId, state]) => ({ userId, session: `s-${userId}`, state })),
  });

/** Lets the server take the client, with these others in the room. */
async function welcome(...userIds: string[]): Promise<void> {
  await server(() => {
    latest().accept();
    latest().say([hello(), sync(...userIds)]);
  });
}

const sent = (): unknown[] =>
  latest()
    .frames.filter(({ type }) => type === "presence.state")
    .map(({ data }) => data);

const crowd = Array.from({ length: 500 }, (_, n) => `user-${n}`);
const renders = new Map<string, number>();
const Cursor = memo(function Cursor({ room, userId }: { room: Room; userId: string }) {
  const x = useOthers(room, (others) => others.get(`s-${userId}`)?.state?.x);
  renders.set(userId, (renders.get(userId) ?? 0) + 1);
  return <i>{x}</i>;
});
function Cursors() {
  const room = useRoom<Events>("ws://test/a", OPTIONS);
  return crowd.map((userId) => <Cursor key={userId} room={room} userId={userId} />);
}

test("of 500 users of whom one moves 60 times a second, only the component of that one renders again", async () => {
  await render(<Cursors />);
  await welcome(...crowd);
  renders.clear();
  for (let n = 0; n < 60; n++) await server(() => latest().say(states(["user-7", { x: n }])), 16);
  expect([...renders.keys()]).toEqual(["user-7"]);
  // StrictMode renders twice.
  expect(renders.get("user-7")).toBe(120);
  expect(page.textContent).toBe("59");
});

let listed = 0;
function Names() {
  const room = useRoom<Events>("ws://test/a", OPTIONS);
  const names = useOthers(room, (others) => [...others.values()].map(({ username }) => username));
  listed += 1;
  return names.join();
}

test("a selected list, map or object is the same while it holds the same", async () => {
  await render(<Names />);
  await welcome("ann", "ben");
  expect(page.textContent).toBe("ann,ben");
  const before = listed;
  await server(() => latest().say(states(["ann", { x: 1 }])));
  expect(listed).toBe(before);
  await server(() =>
    latest().say(
      event("presence.diff", {
        ...{ joins: [entry("cid")], leaves: [], updates: [], timestamp: 1 },
      }),
    ),
  );
  expect(page.textContent).toBe("ann,ben,cid");
});

function Count() {
  const { totalUsers, totalConnections } = useCount(useRoom<Events>("ws://test/a", OPTIONS));
  return `${totalUsers} of ${totalConnections}`;
}

test("the count is that of the room, which a large room tells", async () => {
  await render(<Count />);
  expect(page.textContent).toBe("0 of 0");
  await welcome("ann");
  expect(page.textContent).toBe("2 of 2");
  const totals = { totalUsers: 2_000, totalConnections: 2_100 };
  await server(() => latest().say(event("presence.count", totals)));
  expect(page.textContent).toBe("2000 of 2100");
});

let mine: ((state: State | null) => void) | undefined;
let type: ((isTyping?: boolean) => void) | undefined;
function Editor() {
  const room = useRoom<Events>("ws://test/a", OPTIONS);
  const [state, setState] = useMyState(room, { x: 0 });
  const [typing, typeKey] = useTyping(room);
  mine = setState;
  type = typeKey;
  return `${state?.x} ${typing.map(({ username }) => username)}`;
}

test("one's state is sent once connected, then at most every 50 ms, and shown at once", async () => {
  await render(<Editor />);
  expect(page.textContent).toBe("0 ");
  await welcome();
  expect(sent()).toEqual([{ state: { x: 0 } }]);
  await server(() => {
    for (let x = 1; x <= 10; x++) mine?.({ x });
  }, 100);
  expect(page.textContent).toBe("10 ");
  expect(sent().at(-1)).toEqual({ state: { x: 10 } });
  expect(sent().length).toBeLessThanOrEqual(3);
});

test("typing is a part of the state that ends 3 s after the last key, or when the text is sent", async () => {
  await render(<Editor />);
  await welcome("ann");
  await server(() => type?.(), 100);
  expect(sent().at(-1)).toMatchObject({ state: { x: 0, typing: true }, ttlMs: expect.any(Number) });
  await server(() => mine?.({ x: 5 }), 100);
  expect(sent().at(-1)).toMatchObject({ state: { x: 5, typing: true } });
  await server(() => {}, 3_000);
  expect(sent().at(-1)).toEqual({ state: { x: 5 } });
  await server(() => type?.(), 100);
  await server(() => type?.(false), 100);
  expect(sent().at(-1)).toEqual({ state: { x: 5 } });
  const before = sent().length;
  for (let n = 0; n < 20; n++) await server(() => type?.(), 100);
  expect(sent().length - before).toBe(1);

  await server(() => latest().say(states(["ann", { typing: true }])));
  expect(page.textContent).toBe("5 ann");
  await server(() => latest().say(states(["ann", null])));
  expect(page.textContent).toBe("5 ");
});

test("a server renders nobody", () => {
  expect(renderToString(<Editor />)).toBe("0 ");
});
