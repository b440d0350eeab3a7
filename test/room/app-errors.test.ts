import { describe, expect, it } from "vitest";
import { call } from "../../src/actor/call.ts";
import { AppError, ERRORS, RollcallError } from "../../src/wire/errors.ts";
import { newLab } from "./lab.ts";
import type { Shop } from "./rooms.ts";
import { connect, upgrade } from "./socket.ts";

const soldOut = { code: "out_of_stock", options: { status: 409, path: "sku" } };
const payload = { code: "out_of_stock", message: "Sold out", status: 409, path: "sku" };

describe("an error with a code of the app's own", () => {
  it.each([2, 3])("reaches a client of protocol %i as the nack of its frame", async (protocol) => {
    const socket = await connect(newLab(), `/ws?v=${protocol}`);
    const { type, error } = await socket.ask("refuse.own", soldOut);
    expect({ type, error }).toEqual({ type: "nack", error: payload });
  });

  it.each([1, 2, 3])(
    "reaches a client of protocol %i as an error event without an ack",
    async (protocol) => {
      const socket = await connect(newLab(), `/ws?v=${protocol}`);
      socket.emit("refuse.own", soldOut);
      expect(await socket.event("error")).toMatchObject(payload);
    },
  );

  it("has the status 422 where it names none", async () => {
    const socket = await connect(newLab(), "/ws?v=2");
    const { error } = await socket.ask("refuse.own", { code: "out_of_stock" });
    expect(error).toEqual({ code: "out_of_stock", message: "Sold out", status: 422 });
  });

  it("reaches a Worker over a call with its path and status", async () => {
    const shop = call<Shop>(newLab());
    expect(await shop.buy({ sku: "plain" })).toEqual({ sku: "plain" });
    const thrown = await shop.buy({ sku: "rare" }).catch((error: unknown) => error);
    expect(thrown).toBeInstanceOf(RollcallError);
    expect(thrown).toMatchObject({ ...payload, closeCode: 1013 });
    expect(JSON.parse(JSON.stringify(thrown))).toEqual(payload);
  });

  it("answers an upgrade with its status and code, and one of protocol 3 with the close code", async () => {
    const stub = newLab();
    const refused = await upgrade(stub, "/ws?refuse=own");
    expect(refused.status).toBe(402);
    expect(await refused.json()).toEqual({ error: "unpaid", details: "Pay first" });
    const socket = await connect(stub, "/ws?v=3&refuse=own");
    expect(await socket.ended()).toEqual({ code: 4400, reason: "Pay first" });
  });

  it("closes the socket with the close code of its status when onConnect throws it", async () => {
    const socket = await connect(newLab(), "/ws?v=2&client=unpaid");
    expect(await socket.ended()).toEqual({ code: 4403, reason: "Pay first" });
  });

  it.each([
    ["is one of ours", { code: "conflict" }],
    ["is empty", { code: "" }],
    ["is a name of an object's own", { code: "hasOwnProperty" }],
    ["has 65 characters", { code: "x".repeat(65) }],
    ["has other characters", { code: "out of stock" }],
    ["comes with a status below 400", { code: "fine", options: { status: 200 } }],
    ["comes with a status above 599", { code: "fine", options: { status: 600 } }],
  ])("is a fault of the room where the code %s", async (_, data) => {
    const socket = await connect(newLab(), "/ws?v=2");
    expect((await socket.ask("refuse.own", data)).error).toEqual({
      code: "internal",
      message: "Internal error",
    });
  });

  it("has the close code of its status", () => {
    const closeOf = (status: number) => new AppError("own", "", { status }).closeCode;
    expect([400, 401, 403, 409, 413, 422, 429, 500, 503].map(closeOf)).toEqual([
      ...[4400, 4401, 4403, 1013, 1009, 4400, 4429, 1011, 1011],
    ]);
  });

  it("is none of the closed list", () => {
    for (const code of Object.keys(ERRORS)) {
      expect(() => new AppError(code, "")).toThrow(RangeError);
    }
  });
});
