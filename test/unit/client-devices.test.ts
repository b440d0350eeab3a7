import { expect, it, vi } from "vitest";
import { type Device, watchDevices } from "../../client/devices.ts";
import { FakeWebSocket } from "./client-fake.ts";

const USER = "11111111-1111-4111-8111-111111111111";

function device(id: string, status: Device["status"], seq: number): Device {
  const times = { sent_at_ms: seq, seq, ttl_ms: 12_000 };
  return { schema_version: 1, user_id: USER, device_id: id, status, source: "test", ...times };
}

function event(type: string, data: object): object {
  return { type: "event", channel: "default", data: { type, ...data } };
}

it("a watch reports all devices after the snapshot and after each change, in stable order", async () => {
  const onDevices = vi.fn();
  const watch = watchDevices(`ws://rollcall.test/ws/devices?user_id=${USER}`, {
    WebSocket: FakeWebSocket,
    onDevices,
  });
  await vi.waitFor(() => expect(FakeWebSocket.all).toHaveLength(1));
  const [socket] = FakeWebSocket.all;
  expect(socket?.url.searchParams.get("user_id")).toBe(USER);
  socket?.accept();
  const [laptop, phone] = [device("a", "online", 1), device("b", "online", 1)];
  socket?.say(event("device.sync", { devices: [laptop, phone] }));
  expect(onDevices).toHaveBeenLastCalledWith([laptop, phone]);

  socket?.say(event("device.update", device("a", "offline", 2)));
  expect(onDevices).toHaveBeenLastCalledWith([device("a", "offline", 2), phone]);
  socket?.say(event("device.update", device("c", "online", 1)));
  expect(watch.devices.map(({ device_id }) => device_id)).toEqual(["a", "b", "c"]);
  expect(onDevices).toHaveBeenCalledTimes(3);

  watch.close();
  expect(socket?.closedWith).toBe(1000);
});
