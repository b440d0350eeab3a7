/** Devices as daemons send them and clients see them. Without a schema, so that clients can share it. */

/** A UUID of version 1 to 8 in lower case. The variant is not checked: people write any. */
export const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** A device's sign of life, or its goodbye. Times are the daemon's, in ms since the epoch. */
export interface Heartbeat {
  schema_version: 1;
  /** {@link UUID}, as `device_id`. */
  user_id: string;
  device_id: string;
  status: "online" | "offline";
  /** The program that sends it. Not empty. */
  source: string;
  /** For an expiry that the server noticed: the server's time. */
  sent_at_ms: number;
  seq: number;
  /** The device turns offline when no heartbeat comes for so long. 1–86 400 000. */
  ttl_ms: number;
}

/** Events of the devices sockets. */
export interface DeviceEvents {
  in: {
    /** A daemon's heartbeat: its first frame, and one for each change. It may also come bare. */
    "device.beat": Heartbeat;
    /** A watcher probes: devices that have fallen silent turn offline. Due when `device.probe` says. */
    "device.probe": object;
  };
  out: {
    /** All devices of the user, once after connecting. */
    "device.sync": { devices: Heartbeat[] };
    /** Each heartbeat and change after that. */
    "device.update": Heartbeat;
    /**
     * The time in ms after which the watcher must send `device.probe`; the actor sleeps until then. A later
     * `device.probe` replaces it. For watchers that connect with `probe_devices=1`.
     */
    "device.probe": { in_ms: number };
  };
}

/** The devices after a `device.update`: a known device keeps its place, a new one comes last. */
export function replaceDevice(devices: readonly Heartbeat[], device: Heartbeat): Heartbeat[] {
  const place = devices.findIndex(({ device_id }) => device_id === device.device_id);
  return place < 0 ? [...devices, device] : devices.with(place, device);
}
