/** What room tests run against: the Worker as it is, and rooms that exist for tests only. */
export * from "../../src/server/worker.ts";
export { default } from "../../src/server/worker.ts";
export { Arena, LastingArena } from "./arena.ts";
export { IncuriousLine, LastingLine, Line, ShortLine } from "./continuity.ts";
export { Faulty } from "./faulty.ts";
export { EightMoodShards, Focus, FourMoodShards } from "./moods.ts";
export { Planned } from "./planned.ts";
export { Board, Crew, Crowd } from "./presence.ts";
export { Catching, FallbackRoom, Lab, Tight } from "./rooms.ts";
