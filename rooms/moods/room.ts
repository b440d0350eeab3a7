import * as z from "zod/mini";
import { defineRoom, perActor, type Room } from "../../src/actor/room.ts";
import { countTogether, type TotalCalls } from "../../src/shards/totals.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { heartbeatCall, leaveCall, moodChange } from "./contract.ts";
import { EXPIRY_STEP_MS, type MoodActor, MoodCount, type MoodMeta, userOf } from "./count.ts";
import { parseMood, parseSessionId } from "./fields.ts";
import type { MoodEvents, MoodOptions, MoodState } from "./tally.ts";

/** In the query of a socket that the total of an earlier release opens to each shard. */
const WITNESS = "witness";

/** The calls of the mood room: those of routes, and those between its actors. */
export type MoodCalls<M extends string> = {
  heartbeat: { in: { sessionId: string; mood: M }; out: MoodState<M> };
  leave: { in: { sessionId: string }; out: undefined };
  state: { in: undefined; out: MoodState<M> };
} & TotalCalls;

/** A room that counts sessions by mood; `M` are its moods. */
export type MoodRoom<E, M extends string> = Room<MoodMeta<M>, E, MoodEvents<M>, MoodCalls<M>>;

/** The room of a mood count. Actors `shard:<i>` count; if there are several, `total` adds them up. */
export function defineMoods<E, M extends string>(
  options: Required<MoodOptions<M>>,
): MoodRoom<E, M> {
  const { name, websocketPath, moods, defaultMood, ttlMs } = options;
  const countOf = perActor((actor: MoodActor<M>) => new MoodCount(actor, options));

  const room = defineRoom<MoodMeta<M>, E, MoodEvents<M>>({
    name,
    websocketPath,
    // A visitor without a socket is gone, and its next socket begins with the count.
    graceMs: 0,
    resumeMs: 0,
    liveness: {
      // So two of three pings may get lost.
      pingMs: Math.floor(ttlMs / 3),
      firstPingMs: ttlMs,
      deadAfterMs: ttlMs,
      legacyDeadAfterMs: ttlMs,
      sweepMs: EXPIRY_STEP_MS,
      requirePing: true,
    },

    extractMeta(request) {
      const query = new URL(request.url).searchParams;
      const clientId = crypto.randomUUID();
      const id = query.get("sessionId");
      if (id === null) {
        const userId = `watcher:${clientId}`;
        const isWitness = query.has(WITNESS);
        return { userId, clientId, channels: [], mood: defaultMood, isWitness };
      }
      const sessionId = parseSessionId(id);
      const mood = parseMood(query.get("mood") ?? undefined, moods, defaultMood);
      return { userId: userOf(sessionId), clientId, channels: [], sessionId, mood };
    },

    async onConnect({ actor, session, meta }) {
      const here = countOf(actor);
      if (meta.sessionId !== undefined) await here.setMood(meta.sessionId, meta.mood);
      if (!meta.isWitness) await here.sendFirst(session);
    },

    onDisconnect({ actor, meta }) {
      countOf(actor).update(meta.sessionId);
    },

    onHibernationRestore(actor) {
      countOf(actor).update();
    },

    dueAt(actor) {
      return countOf(actor).dueAtMs;
    },

    onDue(actor) {
      return countOf(actor).due();
    },
  });

  room.on("mood.set", moodChange(moods), async ({ actor, meta }, { mood }) => {
    if (meta.sessionId === undefined) throw new RollcallError("forbidden", "A watcher has no mood");
    await countOf(actor).setMood(meta.sessionId, mood);
  });

  return countTogether(room, moods.length, (actor) => countOf(actor).totals)
    .call("heartbeat", heartbeatCall(moods), (actor, { sessionId, mood }) =>
      countOf(actor).heartbeat(sessionId, mood),
    )
    .call("leave", leaveCall, async (actor, { sessionId }) => {
      await countOf(actor).leave(sessionId);
      return undefined;
    })
    .call("state", z.undefined(), (actor) => countOf(actor).state());
}
