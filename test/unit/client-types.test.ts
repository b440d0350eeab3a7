import { describe, expectTypeOf, it } from "vitest";
import type { WebSocket as NodeWebSocket } from "ws";
import type {
  ErrorCode,
  ErrorPayload,
  PresenceEvents,
  RosterEntry,
  Untyped,
  VeraniClient,
  VeraniClientOptions,
} from "../../client/client.ts";
import type { MoodState } from "../../client/moods.ts";
import type { Device } from "../../client/react.ts";
import type { DeviceEvents } from "../../rooms/devices/device.ts";
import type { MoodEvents } from "../../rooms/moods/tally.ts";
import type { PresenceEvents as RoomEvents } from "../../rooms/presence/roster.ts";

/** Seen from the server, as `defineRoom<Meta, Env, ChatEvents>` takes it. */
interface ChatEvents {
  in: { "chat.send": { text: string }; "chat.typing": undefined };
  out: { "chat.message": { from: string; text: string } };
  acks: { "chat.send": { messageId: string } };
}

// Compiled, not run: each line with an expected error fails `npm run check` once it compiles.
function typed(client: VeraniClient<ChatEvents>): void {
  client.emit("chat.send", { text: "hi" });
  client.emit("chat.typing");
  // @ts-expect-error the data is missing
  client.emit("chat.send");
  // @ts-expect-error the data has the wrong type
  client.emit("chat.send", { text: 7 });
  // @ts-expect-error the server does not take this event
  client.emit("chat.message", { from: "a", text: "hi" });
  client.on("chat.message", (data) => {
    expectTypeOf(data).toEqualTypeOf<{ from: string; text: string }>();
  });
  client.on("error", (data) => expectTypeOf(data).toEqualTypeOf<ErrorPayload<ErrorCode>>());
  // @ts-expect-error the server does not send this event
  client.on("chat.send", () => {});
  // @ts-expect-error the handler wants other data
  client.once("chat.message", (data: { from: number }) => data);
  expectTypeOf(client.emitWithAck("chat.send", { text: "hi" })).resolves.toEqualTypeOf<{
    messageId: string;
  }>();
  expectTypeOf(client.emitWithAck("chat.typing", undefined, { timeoutMs: 1 })).resolves.toBeAny();
}

function asInVerani(client: VeraniClient): void {
  client.on("chat.message", (data) => expectTypeOf(data).toEqualTypeOf<Untyped>());
  client.on("presence.status", (data: { userId: string; status: string }) => data.userId);
  client.emit("chat.message", { text: "hi" });
  client.emit("ready");
  client.onClose((event: CloseEvent) => event.code);
  client.onError((error: Event) => error.type);
  expectTypeOf(client.isConnecting).toBeBoolean();
  expectTypeOf(client.emitWithAck("anything")).resolves.toBeAny();
  // @ts-expect-error read only
  client.isConnecting = true;
}

function presence(client: VeraniClient<PresenceEvents>): void {
  client.on("presence.online", ({ status, devices }) => {
    expectTypeOf(status).toEqualTypeOf<"online" | "away" | "busy">();
    expectTypeOf(devices).toBeNumber();
  });
  client.on("presence.sync", ({ users }) => expectTypeOf(users).toEqualTypeOf<RosterEntry[]>());
  client.emit("presence.status", { status: "busy" });
  // @ts-expect-error no status of a presence room
  client.emit("presence.status", { status: "asleep" });
}

describe("the client's types", () => {
  it("follow one event map for both directions", () => {
    expectTypeOf(typed).parameter(0).toEqualTypeOf<VeraniClient<ChatEvents>>();
  });

  it("know the presence room", () => {
    expectTypeOf(presence).parameter(0).toEqualTypeOf<VeraniClient<PresenceEvents>>();
  });

  it("are those that rooms are held to, and that /asyncapi.json tells of", () => {
    expectTypeOf<RoomEvents["out"]>().toExtend<PresenceEvents["out"]>();
    expectTypeOf<PresenceEvents["out"]>().toExtend<RoomEvents["out"]>();
    expectTypeOf<MoodEvents["out"]["mood.state"]>().toEqualTypeOf<MoodState>();
    expectTypeOf<DeviceEvents["out"]["device.update"]>().toEqualTypeOf<Device>();
  });

  it("take any event without a map, and callbacks written for Verani", () => {
    expectTypeOf(asInVerani).parameter(0).toEqualTypeOf<VeraniClient>();
  });

  it("take the WebSocket of a browser and of the package ws", () => {
    expectTypeOf<{ WebSocket: typeof WebSocket }>().toExtend<VeraniClientOptions>();
    expectTypeOf<{ WebSocket: typeof NodeWebSocket }>().toExtend<VeraniClientOptions>();
  });
});
