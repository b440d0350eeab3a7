/** Rooms for the tests of continuity, and a client of protocol 3 that keeps its cursor. */
import * as z from "zod/mini";
import { createActorHandler } from "../../src/actor/actor.ts";
import { type ConnectionMeta, defineRoom, type RoomDefinition } from "../../src/actor/room.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import type { Hello, MessageFrame, Untyped } from "../../src/wire/frames.ts";
import { connect, type TestSocket } from "./socket.ts";

interface LineMeta extends ConnectionMeta {
  username: string;
  notes: string[];
}

/** How often each emit with an id ran, by its text: never more than once. */
export const runs = new Map<string, number>();

const LIMITS = { framesPerSecond: 100_000, framesBurst: 100_000 };

/** A room for tests; its events are numbers. */
export function line(definition: Partial<RoomDefinition<LineMeta, Env>> & { name: string }) {
  const room = defineRoom<LineMeta, Env>({
    websocketPath: "/ws",
    limits: LIMITS,
    extractMeta(request) {
      const { searchParams } = new URL(request.url);
      return {
        userId: searchParams.get("user") ?? "anna",
        username: searchParams.get("username") ?? "Anna",
        clientId: crypto.randomUUID(),
        channels: (searchParams.get("channels") ?? "default").split(","),
        notes: [],
      };
    },
    async onConnect({ actor, meta, emit }) {
      if (meta.username === "slow") {
        emit.emit("wait");
        await scheduler.wait(100);
      }
      if (meta.username === "refused") {
        await scheduler.wait(100);
        throw new RollcallError("forbidden", "Not you");
      }
      write(actor, `came ${meta.userId}`);
    },
    onResume({ actor, meta }, { replayed }) {
      write(actor, `resumed ${meta.userId} ${replayed}`);
    },
    onDisconnect({ actor, meta }) {
      write(actor, `left ${meta.userId}`);
    },
    ...definition,
  });
  room.on("channel", ({ actor }, { channel, n }) => {
    actor.emit.to(channel).emit("n", { n });
  });
  room.on("others", ({ emit }, { channel, n }) => {
    emit.to(channel).emit("n", { n });
  });
  room.on("user", ({ actor }, { user, n }) => {
    actor.emit.toUser(user).emit("n", { n });
  });
  room.on("self", ({ emit }, { n }) => {
    emit.emit("n", { n });
  });
  room.on("some", ({ actor }, { users, n }) => {
    actor.emit.where(({ meta }) => users.includes(meta.userId)).emit("n", { n });
  });
  room.on("transact", async ({ actor }, { channel, n, commits }) => {
    await actor
      .getStorage()
      .transaction(async (txn) => {
        actor.emit.to(channel).emit("n", { n });
        if (!commits) txn.rollback();
      })
      .catch(() => {});
  });
  room.on("run", (_, { text }) => {
    runs.set(text, (runs.get(text) ?? 0) + 1);
    return { ran: text };
  });
  room.on("read", ({ actor }, options) => actor.log.read(options));
  room.on("ask", async ({ actor, emit }, { question }) => {
    write(actor, `answer ${JSON.stringify(await emit.emitWithAck("question", question))}`);
  });
  room.on("move", ({ meta }, { channels }) => {
    meta.channels = channels;
  });
  room.on("note", ({ meta }, { text }) => {
    meta.notes.push(text);
  });
  room.on("meta", ({ session }) => session.meta);
  return room
    .call("journal", z.undefined(), (actor) => actor.getStorage().kv.get<string[]>("journal") ?? [])
    .call("emit", z.any(), (actor, { channel, n }) => actor.emit.to(channel).emit("n", { n }))
    .call("rows", z.undefined(), (actor) =>
      [...actor.getStorage().kv.list({ prefix: "rollcall:log:" })].map(([key]) => key),
    );
}

function write(actor: { getStorage(): DurableObjectStorage }, entry: string): void {
  const { kv } = actor.getStorage();
  kv.put("journal", [...(kv.get<string[]>("journal") ?? []), entry]);
}

export class Line extends createActorHandler(
  line({ name: "line", log: { events: 200 }, limits: { ...LIMITS, unreadUnits: 400_000 } }),
) {}
/** Its sessions cannot be resumed for long, and its log holds few events. */
export class ShortLine extends createActorHandler(
  line({ name: "short-line", graceMs: 50, resumeMs: 100, log: { events: 5 } }),
) {}
export class LastingLine extends createActorHandler(
  line({ name: "lasting-line", log: { events: 200, durable: true } }),
) {}
/** Durable, and nothing of it looks at who connects. */
export class IncuriousLine extends createActorHandler(
  line({ name: "incurious-line", log: { events: 200, durable: true }, onConnect: () => {} }),
) {}

interface Target {
  fetch(url: string, init: RequestInit): Promise<Response>;
}

/** A client of protocol 3: what it has received, over all its sockets. */
export class Client {
  readonly target: Target;
  readonly query: string;
  hello: Hello | undefined;
  socket: TestSocket | undefined;
  cursor = -1;
  /** The `n` of all events since the last hello that was not resumed. */
  numbers: number[] = [];
  /** Frames with an `id`: answers and questions. */
  frames: MessageFrame[] = [];

  constructor(target: Target, query = "") {
    this.target = target;
    this.query = query;
  }

  get resume(): string {
    return `${this.hello?.session}:${this.hello?.epoch}:${this.cursor}`;
  }

  /** Connects; with `resume` (default: its own cursor, if it has one). */
  async connect(resume = this.hello ? this.resume : undefined, more = ""): Promise<Hello> {
    const query = resume === undefined ? more : `${more}&resume=${resume}`;
    const socket = await connect(this.target, `/ws?v=3${this.query}${query}`);
    this.socket = socket;
    const { frame } = await socket.next((one) => one.frame.type === "hello", "hello");
    const hello = frame.data as Hello;
    if (!hello.resumed) {
      this.numbers = [];
      this.frames = [];
    }
    this.hello = hello;
    this.cursor = hello.seq;
    return hello;
  }

  /** Takes what has come since, in order. @throws for a number that does not grow */
  async settle(): Promise<void> {
    await this.socket?.caughtUp();
    this.take();
  }

  take(): void {
    const socket = this.socket;
    if (!socket) return;
    for (const { event, data, frame } of socket.received.splice(0)) {
      const { seq } = frame;
      if (["pong", "hello", "confirm"].includes(frame.type)) continue;
      if (seq === undefined) throw new Error(`no number: ${JSON.stringify(frame)}`);
      if (seq <= this.cursor) throw new Error(`${seq} after ${this.cursor}`);
      this.cursor = seq;
      if (frame.id !== undefined) this.frames.push(frame);
      else if (event === "n") this.numbers.push((data as Untyped).n);
    }
  }

  emit(type: string, data: Untyped, id?: string): void {
    this.socket?.send(id === undefined ? { type, data } : { type, data, id });
  }

  /** The line breaks: the server sees a close without 1000. */
  async cut(code = 3_001): Promise<void> {
    await this.socket?.close(code);
    this.socket = undefined;
  }

  async leave(): Promise<void> {
    await this.socket?.close(1_000);
    this.socket = undefined;
    this.hello = undefined;
  }
}
