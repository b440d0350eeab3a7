import { z } from "zod";
import { createActorHandler } from "../../src/actor/actor.ts";
import { type ConnectionMeta, defineRoom, type VeraniActor } from "../../src/actor/room.ts";
import { AppError, RollcallError } from "../../src/wire/errors.ts";

/** Rooms for tests only: each event exercises one promise of the framework. */
export interface LabMeta extends ConnectionMeta {
  notes: string[];
  big?: string;
}

type LabActor = VeraniActor<LabMeta, Env>;

/** Notes an event of the room in storage, where it survives evictions. */
function write(actor: LabActor, entry: string): void {
  const { kv } = actor.getStorage();
  kv.put("journal", [...(kv.get<string[]>("journal") ?? []), entry]);
}

/** Lets a test delay a handler: `gates.get(key)` resolves it. */
export const gates = new Map<string, () => void>();
function gate(key: string): Promise<void> {
  return new Promise((resolve) => gates.set(key, resolve));
}

const lab = defineRoom<LabMeta, Env>({
  name: "lab",
  websocketPath: "/ws",
  extractMeta(request) {
    const { searchParams } = new URL(request.url);
    const refuse = searchParams.get("refuse");
    if (refuse === "plain") throw new Error("secret of the house");
    if (refuse === "coded") throw new RollcallError("forbidden", "Not you");
    if (refuse === "own") throw new AppError("unpaid", "Pay first", { status: 402 });
    const expires = searchParams.get("expiresAtMs");
    return {
      userId: searchParams.get("user") ?? "anna",
      clientId: searchParams.get("client") ?? crypto.randomUUID(),
      channels: (searchParams.get("channels") ?? "default").split(","),
      notes: [],
      ...(expires === null ? {} : { expiresAtMs: Number(expires) }),
    };
  },
  async onConnect({ actor, meta, emit }) {
    if (meta.clientId === "unwelcome") throw new RollcallError("forbidden", "ü".repeat(90));
    if (meta.clientId === "unpaid") throw new AppError("unpaid", "Pay first", { status: 403 });
    if (meta.clientId === "slow") await gate("connect");
    write(actor, `came ${meta.clientId}`);
    emit.emit("welcome", { clientId: meta.clientId });
  },
  async onDisconnect({ actor, meta }) {
    write(actor, `left ${meta.clientId}`);
    actor.emit.to("default").emit("left", { clientId: meta.clientId });
    if (meta.clientId === "clumsy") throw new Error("onDisconnect failed");
  },
  onError(error, { actor }) {
    write(actor, `error ${error.message}`);
  },
  onHibernationRestore(actor) {
    write(actor, `start ${actor.sessions.size}`);
  },
});

lab.on("say", ({ actor, meta }, { text }) => {
  actor.emit.to("default").emit("said", { text, from: meta.userId });
});
lab.on("say.to", ({ emit, meta }, { to, text }) => {
  return emit.to(to).emit("said", { text, from: meta.userId });
});
lab.on("raw", ({ actor }, { event, data }) => {
  actor.emit.to("default").emit(event, data);
});
lab.on("note", ({ meta }, { text }) => {
  meta.notes.push(text);
});
lab.on("notes", ({ meta }) => ({ notes: meta.notes, bigLength: meta.big?.length ?? 0 }));
lab.on("grow", ({ meta }, { characters }) => {
  if (characters === 0) delete meta.big;
  else meta.big = "x".repeat(characters);
});
lab.on("become", ({ meta }, changes) => {
  Object.assign(meta, changes);
});
lab.on("move", ({ actor, emit, meta }, { channels, to }) => {
  meta.channels.splice(0, meta.channels.length, ...channels);
  return [actor.emit.to(to).emit("moved", {}), emit.to(to).emit("moved.others", {})];
});
lab.on("unstorable", ({ meta }) => {
  Object.assign(meta, { secret: () => 1 });
});
lab.on("throw", () => {
  throw new Error("secret of the house");
});
lab.on("refuse", () => {
  throw new RollcallError("conflict", "Taken", "seat");
});
lab.on("refuse.own", (_, { code, options }) => {
  throw new AppError(code, "Sold out", options);
});
lab.on("leave", ({ session }) => {
  session.close(1000, "Bye");
});
lab.on(
  "checked",
  z.object({ users: z.array(z.object({ name: z.string().max(5) })) }),
  ({ actor }, { users }) => {
    write(actor, `checked ${users.length}`);
    return users.length;
  },
);
lab.on("ask", async ({ emit }, { event, data, timeoutMs }) => {
  return { answer: await emit.emitWithAck(event, data, { timeoutMs }) };
});
lab.on("burst", ({ actor }, { count }) => {
  for (let n = 0; n < count; n++) actor.emit.to("default").emit("tick", { n });
});
lab.on("wait", async ({ actor }, { key }) => {
  await gate(key);
  write(actor, `waited ${key}`);
});
lab.on("open", (_, { key }) => {
  gates.get(key)?.();
});

lab.on("transact", async ({ actor, emit }, { end }) => {
  const storage = actor.getStorage();
  const send = (event: string) => actor.emit.to("default").emit(event, {});
  if (end === "sync") {
    storage.transactionSync(() => {
      storage.kv.put("n", 1);
      send("inside");
    });
  } else if (end === "sync-throw") {
    storage.transactionSync(() => {
      storage.kv.put("n", 2);
      send("inside");
      throw new RollcallError("conflict", "Rolled back");
    });
  } else if (end === "nested") {
    await storage.transaction(async (txn) => {
      await txn.put("n", 3);
      send("outer");
      await storage
        .transaction(async () => {
          send("inner lost");
          throw new Error("inner");
        })
        .catch(() => {});
      await storage.transaction(async () => {
        send("inner kept");
      });
      send("outer end");
    });
  } else if (end === "nested-lost") {
    await storage
      .transaction(async () => {
        await storage.transaction(async () => {
          send("inner kept");
        });
        throw new Error("outer");
      })
      .catch(() => {});
  } else {
    await storage.transaction(async (txn) => {
      await txn.put("n", 4);
      send("inside");
      emit.emit("inside.own", {});
      emit.to("default").emit("inside.others", {});
      actor.timers.set("ring", Date.now() + 3_600_000);
      if (end === "throw") throw new RollcallError("conflict", "Rolled back");
      if (end === "rollback") txn.rollback();
    });
  }
  send("after");
  return storage.kv.get("n") ?? null;
});

lab.on("transact.aside", async ({ actor }) => {
  const send = (event: string) => actor.emit.to("default").emit(event, {});
  const inside = Promise.withResolvers<void>();
  const commit = Promise.withResolvers<void>();
  const done = actor.getStorage().transaction(async () => {
    send("inside");
    inside.resolve();
    await commit.promise;
  });
  await inside.promise;
  send("meanwhile");
  commit.resolve();
  await done;
});

lab.on("timer.set", ({ actor }, { name, atMs }) => {
  actor.timers.set(name, atMs);
});
lab.on("timer.clear", ({ actor }, { name }) => {
  actor.timers.clear(name);
});
for (const name of ["ring", "chime", "bell"]) {
  lab.timer(name, (actor) => {
    write(actor, `rang ${name}`);
    actor.emit.to("default").emit("rang", { name });
  });
}
lab.timer("flaky", (actor) => {
  const { kv } = actor.getStorage();
  const tries = (kv.get<number>("tries") ?? 0) + 1;
  kv.put("tries", tries);
  if (tries < 3) throw new Error(`try ${tries}`);
  write(actor, `rang flaky after ${tries}`);
});

lab.ingest("journal", z.undefined(), (actor) => actor.getStorage().kv.get("journal") ?? []);
lab.ingest("storedSessions", z.undefined(), (actor) =>
  [...actor.getStorage().kv.list({ prefix: "rollcall:session:" })].map(([key]) => key),
);
lab.ingest("deadline", z.string(), (actor, name) => actor.timers.get(name) ?? null);
lab.ingest("publish", z.object({ text: z.string().max(10) }), (actor, { text }) =>
  actor.emit.to("default").emit("said", { text, from: "server" }),
);
lab.ingest("broken", z.undefined(), () => {
  throw new Error("secret of the house");
});
lab.ingest("refused", z.undefined(), () => {
  throw new RollcallError("unprocessable", "Not now", "when");
});
const shop = lab.call("buy", z.object({ sku: z.string() }), (_actor, { sku }): { sku: string } => {
  if (sku === "rare") throw new AppError("out_of_stock", "Sold out", { status: 409, path: "sku" });
  return { sku };
});
/** The lab with the calls that tests make by their types. */
export type Shop = typeof shop;
lab.ingest("broadcast", z.any(), (actor, { data, userIds, exceptUser }) => {
  const except = exceptUser ? actor.getUserSessions(exceptUser)[0] : undefined;
  return actor.broadcast("default", data, { userIds, ...(except ? { except } : {}) });
});

export class Lab extends createActorHandler(lab) {}

/** Few of everything, so that a test meets the limits with a handful of frames. */
const tight = defineRoom<ConnectionMeta, Env>({
  name: "tight",
  limits: { framesPerSecond: 0.001, framesBurst: 5, socketsPerUser: 2, sockets: 3 },
});
tight.on("say", ({ actor }, data) => {
  actor.emit.to("default").emit("said", data);
});
export class Tight extends createActorHandler(tight) {}

/** Has only the handler for frames without a handler. */
const fallback = defineRoom<ConnectionMeta, Env>({
  name: "fallback-room",
  onMessage: (_ctx, frame) => ({ fallback: frame.type }),
});
/** Exported without a class of its own: found by the room's name in PascalCase. */
export const FallbackRoom = createActorHandler(fallback);

const catching = defineRoom<ConnectionMeta, Env>({ name: "catching" });
catching.on("known", () => "known");
catching.on("*", ({ actor, frame }) => {
  actor.emit.to("default").emit("caught", { name: frame.type });
  return "caught";
});
export class Catching extends createActorHandler(catching) {}
