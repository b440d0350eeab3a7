import * as z from "zod/mini";
import { defineRecord } from "../../src/actor/record.ts";
import { answered, limited, type SystemDescription } from "../../src/http/describe.ts";
import { invalidMood } from "./fields.ts";
import { MOODS, type MoodEvents, type MoodState, SESSION_ID_LENGTH } from "./tally.ts";

/** Bytes of a request's body: many times what a session id of any script takes. */
export const BODY_BYTES = 4_096;

/** A schema that takes `T` and gives it as it is. */
type Same<T> = z.ZodMiniType<T, T>;

// ── Events and calls ───────────────────────────────────────────────────────────────────────────

function moodOf<M extends string>(moods: readonly M[]) {
  return z.literal(moods, { error: invalidMood(moods) });
}

/** The data of `mood.set`. */
export function moodChange<M extends string>(moods: readonly M[]): Same<{ mood: M }> {
  return z.object({ mood: moodOf(moods) });
}

const sessionId = z.string().check(z.minLength(1));

/** The data of the call `heartbeat`. */
export function heartbeatCall<M extends string>(
  moods: readonly M[],
): Same<{ sessionId: string; mood: M }> {
  return z.object({ sessionId, mood: moodOf(moods) });
}

const whole = z.int().check(z.nonnegative());

/** The data of the call `leave`. */
export const leaveCall = z.object({ sessionId });

// ── Storage ────────────────────────────────────────────────────────────────────────────────────

/** One row of the journal: the changes since the row before. */
export interface Segment {
  /** Rows are read in this order: later ones win. */
  order: number;
  writtenAtMs: number;
  /** Until then heartbeats may have come that no row contains; 0: none has. */
  openUntilMs: number;
  /** Session ids; `moods` and `beats` belong to them by position. */
  ids: string[];
  moods: Uint8Array<ArrayBuffer>;
  /** Times of the last heartbeats, in ms. */
  beats: Float64Array<ArrayBuffer>;
}

export const segmentRecord = defineRecord<Segment>({
  version: 1,
  schema: z
    .object({
      order: z.number(),
      writtenAtMs: z.number(),
      openUntilMs: z.number(),
      ids: z.array(z.string()),
      moods: z.instanceof(Uint8Array<ArrayBuffer>),
      beats: z.instanceof(Float64Array<ArrayBuffer>),
    })
    .check(
      z.refine(
        ({ ids, moods, beats }) =>
          ids.length === moods.length &&
          ids.length === beats.length &&
          beats.every(Number.isFinite),
      ),
    ),
});

// ── Description ────────────────────────────────────────────────────────────────────────────────

/** Routes, sockets and streams of the service's mood count. */
export function describeMoods(): SystemDescription {
  const mood = moodOf(MOODS);
  const state = z.object({
    count: whole,
    moods: z.record(mood, whole),
    timestamp: z.int().check(z.describe("Server time in ms")),
  }) satisfies z.ZodMiniType<MoodState>;
  const events = {
    in: { "mood.set": moodChange(MOODS) },
    out: { "mood.state": state },
  } satisfies { [D in keyof MoodEvents]: { [K in keyof MoodEvents[D]]: Same<MoodEvents[D][K]> } };
  const failure = z.object({ error: z.string() });
  const id = z.string().check(z.minLength(1), z.maxLength(SESSION_ID_LENGTH));
  const unavailable = answered("MOOD_SHARDS is malformed, or an actor does not answer", failure);
  const refused = {
    400: answered("The message names the wrong field; or the body is no JSON", failure),
    401: answered("The id must be signed, and this server has not issued it", failure),
    403: answered("DEFAULT_CAP does not allow to join moods", failure),
    413: answered(`The body has more than ${BODY_BYTES} bytes`, failure),
    429: limited(failure),
    503: unavailable,
  };
  const json = (schema: z.ZodMiniType) => ({ "application/json": schema });

  return {
    tag: {
      name: "Moods",
      description: "How many people are here, and in which mood. No account needed.",
    },
    routes: [
      {
        method: "post",
        path: "/api/session",
        summary: "A session id that nobody can guess, for the other routes",
        description: "Outside development, and with MOODS_SIGNED=true, they take no others.",
        responses: {
          200: answered("The id", z.object({ sessionId: id })),
          403: refused[403],
          429: refused[429],
          503: answered("No signing key is configured", failure),
        },
      },
      {
        method: "post",
        path: "/api/heartbeat",
        summary: "Counts a session, in a mood, for 30 s",
        body: {
          description: "A missing mood is `presence`. Any content type will do.",
          content: json(z.object({ sessionId: id, mood: z.optional(mood) })),
        },
        responses: { 200: answered("The count, the caller included", state), ...refused },
      },
      {
        method: "post",
        path: "/api/leave",
        summary: "Ends a session; works from navigator.sendBeacon",
        body: {
          description: "The session that leaves",
          content: json(z.object({ sessionId: id })),
        },
        responses: {
          200: answered("Also for an unknown session", z.object({ success: z.literal(true) })),
          ...refused,
        },
      },
      {
        method: "get",
        path: "/api/presence",
        summary: "How many people are here, and in which mood",
        responses: {
          200: answered("At most a second old", state),
          429: refused[429],
          503: unavailable,
        },
      },
      {
        method: "get",
        path: "/api/presence/stream",
        summary: "The same at once, then whenever it changes, at most once a second",
        responses: {
          200: { description: "Server-sent events", content: { "text/event-stream": state } },
          429: refused[429],
          503: unavailable,
        },
      },
    ],
    channels: {
      moods: {
        address: "/ws/moods",
        title: "A session of the mood count",
        description:
          "A socket counts while it lives. The id may also be sent as a subprotocol, beside `rollcall`: `token.<id in base64url>`. Without a ping or frame for 30 s it is closed with 4408.",
        query: z.object({ sessionId: id, mood: z.optional(mood) }),
        wire: "room",
        ...events,
      },
      moodStream: {
        address: "/api/presence/stream",
        title: "The mood count, as server-sent events",
        description: "At once, then whenever it changes, at most once a second.",
        wire: "plain",
        in: {},
        out: { state },
      },
    },
    components: { MoodState: state, MoodError: failure },
  };
}
