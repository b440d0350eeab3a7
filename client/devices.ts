/**
 * A user's devices, live: `rollcall/devices`.
 *
 * @module
 */
import { type DeviceEvents, type Heartbeat, replaceDevice } from "../rooms/devices/device.ts";
import { VeraniClient, type VeraniClientOptions } from "./client.ts";
import { toSocketUrl } from "./socket.ts";

export { DeviceClient, type DeviceClientOptions, type DeviceState } from "./device.ts";

/** A device, as it was reported last. */
export type Device = Heartbeat;

/** Options of {@link watchDevices}. */
export interface WatchDevicesOptions extends VeraniClientOptions {
  /**
   * Called with all devices after the first snapshot, and after each change. A device keeps its place
   * in the list; a new one comes last.
   */
  onDevices(devices: readonly Device[]): void;
}

/** The devices of a user, as {@link watchDevices} follows them. */
export interface DeviceWatch {
  /** The devices as last received; empty until the first snapshot. */
  readonly devices: readonly Device[];
  /** The connection, for its state and errors. */
  readonly client: VeraniClient<DeviceEvents>;
  /** Ends the connection for good. */
  close(): void;
}

/**
 * Watches the devices of a user. The connection comes back by itself, and then starts with a new
 * snapshot.
 *
 * @param url of the devices socket: `wss://<host>/ws/devices?user_id=<uuid>`
 * @param options `token`: a presence token with the scope `presence:read`, or a function that gives one
 *
 * @example
 * const watch = watchDevices("wss://example.com/ws/devices?user_id=" + userId, {
 *   token: () => fetchPresenceToken(),
 *   onDevices: (devices) => show(devices.filter(({ status }) => status === "online")),
 * });
 */
export function watchDevices(url: string, options: WatchDevicesOptions): DeviceWatch {
  const { onDevices, ...clientOptions } = options;
  const target = toSocketUrl(url);
  target.searchParams.set("probe_devices", "1");
  const client = new VeraniClient<DeviceEvents>(target.href, clientOptions);
  let probing: ReturnType<typeof setTimeout> | undefined;
  let devices: readonly Device[] = [];
  const show = (next: readonly Device[]): void => {
    devices = next;
    onDevices(devices);
  };
  client.on("device.sync", (snapshot) => show(snapshot.devices));
  client.on("device.update", ({ type: _, ...device }: Device & { type?: string }) =>
    show(replaceDevice(devices, device)),
  );
  // A device that beats by a socket turns offline only when a watcher probes, or the list is read.
  client.on("device.probe", ({ in_ms }) => {
    clearTimeout(probing);
    probing = setTimeout(() => {
      if (client.isConnected()) client.emit("device.probe", {});
    }, in_ms);
  });
  return {
    client,
    get devices() {
      return devices;
    },
    close() {
      clearTimeout(probing);
      client.close();
    },
  };
}
