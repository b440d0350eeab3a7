import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { call } from "../../src/actor/call.ts";
import type { Untyped } from "../../src/wire/frames.ts";
import { Client } from "./continuity.ts";
import { connect, freshName, type TestSocket } from "./socket.ts";

/** The room takes 400 000 units unread, four times as much by protocol 2. */
const TEXT = "x".repeat(50_000);

function room() {
  const stub = env.LINE.getByName(freshName()) as unknown as DurableObjectStub;
  const emit = () =>
    (call(stub as never) as { emit(data: Untyped): Promise<number> }).emit({
      channel: "default",
      n: TEXT,
    });
  return { stub, emit };
}

const asked = (socket: TestSocket | undefined) =>
  socket?.received.filter(({ frame }) => frame.type === "confirm").length;

describe("a client that pings and does not read", () => {
  it("of protocol 3 is asked, is closed when it does not confirm, and gets the rest when it is back", async () => {
    const { stub, emit } = room();
    const client = new Client(stub as never);
    await client.connect();
    const { socket } = client;
    for (let i = 0; i < 10; i++) await emit();
    expect((await socket?.ended())?.code).toBe(1013);
    expect(asked(socket)).toBe(1);
    expect(await client.connect()).toMatchObject({ resumed: true, replayed: 10 });
  });

  it("of protocol 3 is left alone while it confirms", async () => {
    const { stub, emit } = room();
    const client = new Client(stub as never);
    await client.connect();
    for (let i = 0; i < 40; i++) {
      await emit();
      await client.socket?.caughtUp();
      client.emit("confirmed", {});
    }
    expect(client.socket?.closed).toBeFalsy();
    expect(asked(client.socket)).toBeGreaterThan(10);
  });

  it("of protocol 3 cannot confirm what it has not been asked for", async () => {
    const { stub, emit } = room();
    const client = new Client(stub as never);
    await client.connect();
    const { socket } = client;
    client.emit("confirmed", {});
    for (let i = 0; i < 10; i++) await emit();
    expect((await socket?.ended())?.code).toBe(1013);
  });

  it("of protocol 2 is closed after four times as much, and never asked", async () => {
    const { stub, emit } = room();
    const socket = await connect(stub, "/ws?v=2");
    for (let i = 0; i < 30; i++) await emit();
    await socket.caughtUp();
    expect(socket.closed).toBeFalsy();
    expect(asked(socket)).toBe(0);
    for (let i = 0; i < 5; i++) await emit();
    expect((await socket.ended()).code).toBe(1013);
  });
});
