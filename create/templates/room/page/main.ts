import { VeraniClient } from "rollcall/client";
import type { ChatEvents, Message } from "../worker/events.ts";

const channel = "general";
const query = new URLSearchParams(location.search);
const name = query.get("name") ?? `guest-${Math.floor(Math.random() * 10_000)}`;
const team = query.get("team") ?? "everyone";

const state = find<HTMLElement>("#state");
const messages = find<HTMLUListElement>("#messages");
const form = find<HTMLFormElement>("#say");

const client = new VeraniClient<ChatEvents>(
  `/ws/chat?${new URLSearchParams({ team, name }).toString()}`,
);
client.onStateChange((now) => {
  state.textContent = now === "connected" ? `You are ${name}` : now;
});
client.on("said", show);

// After each break too: a new connection is in no channel, and the history has what was missed.
client.onOpen(async () => {
  const { history } = await client.emitWithAck("join", { channel });
  messages.replaceChildren();
  history.forEach(show);
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = String(new FormData(form).get("text"));
  try {
    await client.emitWithAck("say", { channel, text });
    form.reset();
  } catch (error) {
    state.textContent = String(error);
  }
});

function show({ from, text }: Message): void {
  const item = document.createElement("li");
  item.textContent = `${from}: ${text}`;
  messages.append(item);
}

function find<T extends Element>(selector: string): T {
  const element = document.querySelector<T>(selector);
  if (!element) throw new Error(`The page has no ${selector}`);
  return element;
}
