import { env } from "cloudflare:workers";
import { testRoom } from "rollcall/testing";
import { expect, it } from "vitest";

/** A room that no other test uses. */
const newRoom = () =>
  testRoom(env.CHAT, { path: "/ws/chat", login: (name) => ({ query: { name } }) });
const channel = "general";

it("sends a message to all in the channel, and to nobody else", async () => {
  const room = newRoom();
  const [ann, ben, cleo] = [
    await room.connect("ann"),
    await room.connect("ben"),
    await room.connect("cleo"),
  ];
  await ann.ask("join", { channel });
  await ben.ask("join", { channel });
  await cleo.ask("join", { channel: "elsewhere" });

  await ann.ask("say", { channel, text: "Hello" });
  await expect(ben).toReceive("said", { channel, from: "ann", text: "Hello" });
  await cleo.caughtUp();
  await expect(cleo).not.toReceive("said");
});

it("keeps the history when the actor crashes", async () => {
  const room = newRoom();
  const ann = await room.connect("ann");
  await ann.ask("join", { channel });
  await ann.ask("say", { channel, text: "Remember this" });
  await room.crash();

  const ben = await room.connect("ben");
  const { data } = await ben.ask("join", { channel });
  expect(data).toMatchObject({ history: [{ from: "ann", text: "Remember this" }] });
});

it("refuses empty messages, and channels that one has not joined", async () => {
  const ann = await newRoom().connect("ann");
  expect((await ann.ask("say", { channel, text: " " })).error?.code).toBe("invalid_data");
  expect((await ann.ask("say", { channel, text: "Hello" })).error?.code).toBe("forbidden");
});
