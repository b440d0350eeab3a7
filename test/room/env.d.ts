/** Bindings of the Durable Objects that exist for tests only (vitest.config.ts). */
declare namespace Cloudflare {
  interface Env {
    LAB: DurableObjectNamespace<import("./rooms.ts").Lab>;
    TIGHT: DurableObjectNamespace<import("./rooms.ts").Tight>;
    FALLBACK: DurableObjectNamespace<InstanceType<typeof import("./rooms.ts").FallbackRoom>>;
    MOODS4: DurableObjectNamespace<import("./moods.ts").FourMoodShards>;
    MOODS8: DurableObjectNamespace<import("./moods.ts").EightMoodShards>;
    CREW: DurableObjectNamespace<import("./presence.ts").Crew>;
    BOARD: DurableObjectNamespace<import("./presence.ts").Board>;
    CROWD: DurableObjectNamespace<import("./presence.ts").Crowd>;
    FOCUS: DurableObjectNamespace<import("./moods.ts").Focus>;
    LINE: DurableObjectNamespace<import("./continuity.ts").Line>;
    SHORT_LINE: DurableObjectNamespace<import("./continuity.ts").ShortLine>;
    LASTING_LINE: DurableObjectNamespace<import("./continuity.ts").LastingLine>;
    INCURIOUS_LINE: DurableObjectNamespace<import("./continuity.ts").IncuriousLine>;
    ARENA: DurableObjectNamespace<import("./arena.ts").Arena>;
    LASTING_ARENA: DurableObjectNamespace<import("./arena.ts").LastingArena>;
    FAULTY: DurableObjectNamespace<import("./faulty.ts").Faulty>;
    PLANNED: DurableObjectNamespace<import("./planned.ts").Planned>;
    CATCHING: DurableObjectNamespace<import("./rooms.ts").Catching>;
  }
}
