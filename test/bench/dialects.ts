/** How the clients of each implementation are addressed: ours in protocol 2, engine.io by hand. */
import { parseFrames, unwrapEvent } from "../../src/wire/frames.ts";
import type { Greeting } from "../kit/sockets.ts";

export type Dialect = "Rollcall" | "bare Durable Object" | "PartyServer" | "socket.io";

interface Speech {
  /** Of a room whose clients send to all. */
  path: string;
  greeting: Greeting;
  encode(event: string, data: object): string;
}

const encode = (type: string, data: object): string => JSON.stringify({ type, data });

export const DIALECTS: Record<Dialect, Speech> = {
  Rollcall: { path: "/ws?v=2", greeting: "hello", encode },
  "bare Durable Object": { path: "/ws", greeting: "none", encode },
  PartyServer: { path: "/parties/room/bench", greeting: "none", encode },
  "socket.io": {
    path: "/socket.io/?EIO=4&transport=websocket",
    greeting: "engine.io",
    encode: (event, data) => `42${JSON.stringify([event, data])}`,
  },
};

/** The events of a message, in any of the dialects. */
export function eventsOf(message: Buffer): ReturnType<typeof unwrapEvent>[] {
  const text = message.toString();
  if (!text.startsWith("42")) return parseFrames(text).map(unwrapEvent);
  const [event, data] = JSON.parse(text.slice(2));
  return [{ event, data }];
}
