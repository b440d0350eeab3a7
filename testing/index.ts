/**
 * Tests of your own rooms, in the Workers runtime, under vitest and `@cloudflare/vitest-plugin`: an actor
 * with its clients, a clock, evictions and crashes. `docs/testing.md` is its guide. {@link testRoom} also adds
 * the matchers `toHaveRoster`, `toReceive` and `toBeClosedWith` to `expect`.
 *
 * @module
 */
export type { Hello } from "../src/wire/frames.ts";
export { type Received, TestClient, type TestClientOptions } from "./client.ts";
export type { ExpectedUser } from "./matchers.ts";
export {
  type ConnectOptions,
  type TestRoom,
  type TestRoomOptions,
  testRoom,
} from "./room.ts";
