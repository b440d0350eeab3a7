/** Rooms whose hooks fail, and what they did. */
import * as z from "zod/mini";
import { createActorHandler } from "../../src/actor/actor.ts";
import { type ConnectionMeta, defineRoom } from "../../src/actor/room.ts";

/** What rooms did, by the actor's name: it outlives evictions. */
export const deeds = new Map<string, string[]>();

function note(name: string, deed: string): void {
  deeds.set(name, [...(deeds.get(name) ?? []), deed]);
}

/** How often actors restored themselves, by name. */
export function count(name: string, deed: string): number {
  return (deeds.get(name) ?? []).filter((one) => one === deed).length;
}

interface FaultyMeta extends ConnectionMeta {
  big: string;
}

const faulty = defineRoom<FaultyMeta, Env>({
  name: "faulty",
  limits: { framesPerSecond: 1_000, framesBurst: 1_000 },
  extractMeta(request) {
    const { searchParams } = new URL(request.url);
    return {
      userId: searchParams.get("user") ?? "ann",
      clientId: crypto.randomUUID(),
      channels: (searchParams.get("channels") ?? "default").split(","),
      big: "x".repeat(Number(searchParams.get("big") ?? 0)),
    };
  },
  onDisconnect({ actor, meta }) {
    note(actor.name, `left ${meta.userId} ${meta.big.length}`);
    actor.emit.to("default").emit("left", { user: meta.userId });
  },
  onHibernationRestore(actor) {
    note(actor.name, "restored");
  },
  dueAt(actor) {
    if (actor.name.includes("due-at")) throw new Error("dueAt failed");
    return actor.name.includes("due") ? 1 : undefined;
  },
  onDue(actor) {
    note(actor.name, "due");
    throw new Error("onDue failed");
  },
});
faulty.on("say", ({ actor }, data) => {
  actor.emit.to("default").emit("said", data);
});
faulty.on("timer.set", ({ actor }, { name, atMs }) => {
  actor.timers.set(name, atMs);
});
faulty.on("ask.inside", async ({ actor, emit }) => {
  await actor.getStorage().transaction(async () => {
    await emit.emitWithAck("question", {});
  });
});
faulty.on("slow", () => new Promise(() => {}));
faulty.on("private", ({ toUser }, { to }) => toUser(to).emit("secret", {}));
faulty.on("public", ({ toChannel }, { to }) => toChannel(to).emit("public", {}));
faulty.timer("throws", (actor) => {
  note(actor.name, "threw");
  throw new Error("always");
});
faulty.timer("hangs", (actor) => {
  note(actor.name, "hung");
  return new Promise(() => {});
});
faulty.timer("works", (actor) => {
  note(actor.name, "worked");
});
export class Faulty extends createActorHandler(
  faulty.call("names", z.undefined(), (actor) => actor.getConnectedUserIds()),
) {}
