import { jwtVerify } from "jose";
import {
  type ConnectionMeta,
  createActorHandler,
  defineRoom,
  RollcallError,
  requestToken,
  type VeraniActor,
} from "rollcall";
import * as z from "zod/mini";
import type { FeedEvents, Notification } from "./events.ts";

export interface Env {
  FEED: DurableObjectNamespace<Feed>;
  JWT_SECRET: string;
  PUSH_TOKEN: string;
}
type FeedActor = VeraniActor<ConnectionMeta, Env, FeedEvents>;

const KEPT = 100;
const PREFIX = "item:";
const encoder = new TextEncoder();

/** Who shows this token. `exp` closes the socket in time. */
export async function identify(
  request: Request,
  env: Env,
): Promise<{ userId: string; expiresAtMs: number }> {
  const token = requestToken(request) ?? "";
  const key = encoder.encode(env.JWT_SECRET);
  const required = { algorithms: ["HS256"], requiredClaims: ["sub", "exp"] };
  const { payload } = await jwtVerify(token, key, required).catch(() => {
    throw new RollcallError("unauthorized", "A valid token is required");
  });
  return { userId: payload.sub ?? "", expiresAtMs: (payload.exp ?? 0) * 1000 };
}

/** The latest first: ids begin with the time. */
function itemsOf(actor: FeedActor): Notification[] {
  const { kv } = actor.getStorage();
  return [...kv.list<Notification>({ prefix: PREFIX, reverse: true })].map(([, item]) => item);
}
const unreadOf = (items: Notification[]) => items.filter(({ isRead }) => !isRead).length;

const feed = defineRoom<ConnectionMeta, Env, FeedEvents>({
  name: "feed",
  websocketPath: "/ws/feed",

  async extractMeta(request, env) {
    return { ...(await identify(request, env)), clientId: crypto.randomUUID(), channels: ["mine"] };
  },
  onConnect({ actor, emit }) {
    const items = itemsOf(actor);
    emit.emit("feed", { items, unread: unreadOf(items) });
  },
});

feed.on("read", z.object({ id: z.string().check(z.maxLength(64)) }), ({ actor }, { id }) => {
  const { kv } = actor.getStorage();
  const item = kv.get<Notification>(PREFIX + id);
  if (!item) throw new RollcallError("not_found", "There is no such notification");
  kv.put(PREFIX + id, { ...item, isRead: true });
  const unread = unreadOf(itemsOf(actor));
  actor.emit.to("mine").emit("read", { id, unread });
  return { unread };
});

/** What a backend asks for. */
export const push = z.object({
  userId: z.string().check(z.minLength(1), z.maxLength(256)),
  text: z.string().check(z.minLength(1), z.maxLength(1_000)),
});
feed.ingest("push", push, (actor, { text }) => {
  const storage = actor.getStorage();
  const at = Date.now();
  const item = { id: `${at}-${crypto.randomUUID().slice(0, 8)}`, text, at, isRead: false };
  storage.transactionSync(() => {
    storage.kv.put(PREFIX + item.id, item);
    for (const { id } of itemsOf(actor).slice(KEPT)) storage.kv.delete(PREFIX + id);
    actor.emit.to("mine").emit("pushed", item);
  });
  return { id: item.id, devices: actor.getSessionCount() };
});

export class Feed extends createActorHandler(feed) {}
