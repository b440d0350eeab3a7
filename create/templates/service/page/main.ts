import { type PresenceEvents, VeraniClient } from "rollcall/client";
import { FanoutClient, publish } from "rollcall/fanout";
import { joinMoods } from "rollcall/moods";
import { logIn } from "./login.ts";

const { origin, search } = location;
const name =
  new URLSearchParams(search).get("name") ?? `guest-${Math.floor(Math.random() * 10_000)}`;
const token = () => logIn(name);

find("#me").textContent = `You are ${name}`;

// Presence: who is in the room, live.
const users = new Map<string, string>();
const room = new VeraniClient<PresenceEvents>("/ws/presence", { token });
room.on("presence.sync", (sync) => {
  users.clear();
  for (const { userId, username } of sync.users) users.set(userId, username);
  draw();
});
room.on("presence.online", ({ userId, username }) => {
  users.set(userId, username);
  draw();
});
room.on("presence.offline", ({ userId }) => {
  users.delete(userId);
  draw();
});

// Fan-out: what is published to this user, on each of the user's devices. What a handler returns is the ack.
const inbox = new FanoutClient<{ wave: { from: string } }>(origin, { token });
inbox.subscribe({ type: "wave" }, ({ payload }) => {
  find("#wave").textContent = `${payload?.from ?? "Somebody"} waves`;
  return { seen: true };
});

async function wave(userId: string): Promise<void> {
  await publish({ url: origin, token }, { userId, type: "wave", payload: { from: name } });
}

// Moods: how many pages are open.
joinMoods({
  url: origin,
  onState: ({ count }) => {
    find("#count").textContent = `${count}`;
  },
});

function draw(): void {
  const items = [...users].map(([userId, username]) => {
    const item = document.createElement("li");
    item.append(username, " ");
    if (userId !== name) {
      const button = document.createElement("button");
      button.textContent = `Wave to ${username}`;
      button.addEventListener("click", () => wave(userId));
      item.append(button);
    }
    return item;
  });
  find("#users").replaceChildren(...items);
}

function find(selector: string): HTMLElement {
  const element = document.querySelector<HTMLElement>(selector);
  if (!element) throw new Error(`The page has no ${selector}`);
  return element;
}
