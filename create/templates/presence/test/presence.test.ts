import { env, exports } from "cloudflare:workers";
import { testRoom } from "rollcall/testing";
import { expect, it } from "vitest";
import { login } from "./login.ts";

/** A room that no other test uses. Its visitors log in, and connect through the Worker's routes. */
const newRoom = () =>
  testRoom(env.PRESENCE, {
    path: (name) => `/ws/presence?room=${name}`,
    worker: exports.default,
    login,
  });

it("shows a visitor the cursors of the others", async () => {
  const room = newRoom();
  const ann = await room.connect("ann");
  const ben = await room.connect("ben");
  await expect(ann).toHaveRoster(["ann", "ben"]);

  ben.emit("presence.state", { state: { cursor: [0.25, 0.75] } });
  const states = [{ userId: "ben", state: { cursor: [0.25, 0.75] } }];
  await expect(ann).toReceive("presence.diff", { states });
});

it("keeps a visitor whose line breaks for the grace, and no longer", async () => {
  const room = newRoom();
  const ann = await room.connect("ann");
  const ben = await room.connect("ben");
  await room.cut(ben);
  await expect(ann).toHaveRoster(["ann", "ben"]);
  await room.advance(60_000);
  await expect(ann).toHaveRoster(["ann"]);
});

it("lets nobody in without a token, and gives none without a name", async () => {
  await expect(newRoom().connect("eve", { token: "made-up" })).rejects.toThrow("4401");
  await expect(login("")).rejects.toThrow("401");
});
