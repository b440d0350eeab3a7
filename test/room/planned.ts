/** A room whose hooks do what a test plans: it runs in the test's isolate, and so sees its functions. */
import { env } from "cloudflare:workers";
import * as z from "zod/mini";
import { createActorHandler } from "../../src/actor/actor.ts";
import {
  type ConnectionMeta,
  defineRoom,
  type MessageContext,
  type RoomContext,
  type VeraniActor,
} from "../../src/actor/room.ts";
import type { ActorStub } from "../../src/actor/stub.ts";
import { veraniCodec } from "../../src/wire/codec.ts";
import { freshName } from "./socket.ts";

export interface PlannedMeta extends ConnectionMeta {
  more?: unknown;
}
export type PlannedActor = VeraniActor<PlannedMeta, Env>;
type Context = RoomContext<PlannedMeta, Env>;

/** What an actor does. Any of it may throw, or never end. */
export interface Plan {
  /** A further field of the meta of each client. */
  more?: unknown;
  onConnect?(ctx: Context): unknown;
  onDisconnect?(ctx: Context): unknown;
  onError?(error: Error, ctx: Context): unknown;
  onHibernationRestore?(actor: PlannedActor): unknown;
  dueAt?(actor: PlannedActor): number | undefined;
  onDue?(actor: PlannedActor): unknown;
  timer?(actor: PlannedActor): unknown;
  other?(actor: PlannedActor): unknown;
  /** The handler of the event `do`. */
  do?(ctx: MessageContext<PlannedMeta, Env>): unknown;
  /** The schema of the event `checked`. */
  validate?(data: unknown): unknown;
  encodeError?(): string | null;
}

const plans = new Map<string, Plan>();
const planOf = (actor: { name: string }): Plan => plans.get(actor.name) ?? {};
/** The plan of the actor that encodes an error: a codec has no actor. */
let encoding: Plan = {};

const planned = defineRoom<PlannedMeta, Env>({
  name: "planned",
  limits: { framesPerSecond: 100_000, framesBurst: 100_000 },
  codec: {
    ...veraniCodec,
    encodeError: (error) => (encoding.encodeError ?? (() => veraniCodec.encodeError(error)))(),
  },
  extractMeta(request) {
    const { searchParams } = new URL(request.url);
    const more = plans.get(searchParams.get("plan") ?? "")?.more;
    const expiresAtMs = Number(searchParams.get("expiresAtMs"));
    return {
      userId: searchParams.get("user") ?? "ann",
      clientId: crypto.randomUUID(),
      channels: ["default"],
      ...(more !== undefined && { more: structuredClone(more) }),
      ...(expiresAtMs > 0 && { expiresAtMs }),
    };
  },
  async onConnect(ctx) {
    await planOf(ctx.actor).onConnect?.(ctx);
  },
  async onDisconnect(ctx) {
    await planOf(ctx.actor).onDisconnect?.(ctx);
  },
  async onError(error, ctx) {
    await planOf(ctx.actor).onError?.(error, ctx);
  },
  async onHibernationRestore(actor) {
    await planOf(actor).onHibernationRestore?.(actor);
  },
  dueAt: (actor) => planOf(actor).dueAt?.(actor),
  async onDue(actor) {
    await planOf(actor).onDue?.(actor);
  },
});
planned.on("do", (ctx) => planOf(ctx.actor).do?.(ctx));
planned.on("say", ({ actor }, data) => {
  actor.emit.to("default").emit("said", data);
});
planned.on("more", ({ session }) => ({ more: [...(session.meta.more as Iterable<unknown>)] }));
planned.on(
  "checked",
  {
    "~standard": {
      version: 1,
      vendor: "test",
      validate: (value) => ({ value: encoding.validate?.(value) }),
    },
  },
  () => "checked",
);
planned.timer("timer", async (actor) => {
  await planOf(actor).timer?.(actor);
});
planned.timer("other", async (actor) => {
  await planOf(actor).other?.(actor);
});

export class Planned extends createActorHandler(
  planned.call("nothing", z.undefined(), () => null),
) {}

export type PlannedStub = DurableObjectStub<Planned> & ActorStub;

/** An actor that does what `plan` says; the plan may change meanwhile. */
export function newPlanned(plan: Plan): PlannedStub {
  const name = freshName();
  plans.set(name, plan);
  encoding = plan;
  return env.PLANNED.getByName(name) as PlannedStub;
}

/** The path of a client of `stub`. */
export function pathTo(stub: PlannedStub, query = "v=2"): string {
  return `/ws?plan=${stub.name}&${query}`;
}
