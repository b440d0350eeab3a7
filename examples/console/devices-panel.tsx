import { useState } from "preact/hooks";
import type { Daemon, Device, Devices } from "./devices.ts";
import { clock, Lamp, Panel, plural, Switch } from "./parts.tsx";
import { useNow, useStore } from "./store.ts";

const TTLS = { "3 s": 3_000, "6 s": 6_000, "12 s": 12_000 } as const;
type Ttl = keyof typeof TTLS;
/** Devices of earlier days that are listed. */
const OFFLINE_LISTED = 3;

/** What is left of a ttl, as the browser animates it. A new beat is a new bar. */
function TtlBar({ ttlMs, aliveMs }: { ttlMs: number; aliveMs: number }) {
  const [ageMs] = useState(() => Date.now() - aliveMs);
  return (
    <span class="ttl" aria-hidden="true">
      <span
        class="ttl-left"
        style={{ animationDuration: `${ttlMs}ms`, animationDelay: `${-ageMs}ms` }}
      />
    </span>
  );
}

function Row(props: {
  device: Device;
  daemon: Daemon | undefined;
  devices: Devices;
  nowMs: number;
}) {
  const { device, daemon, devices, nowMs } = props;
  const { heartbeat, aliveMs, endedLateMs } = device;
  const { device_id, source, status, ttl_ms, seq, sent_at_ms } = heartbeat;
  const isOnline = status === "online";
  const leftMs = Math.max(0, aliveMs + ttl_ms - nowMs);
  const isSilent = isOnline && daemon?.isRunning === false;
  const end =
    endedLateMs === null
      ? ""
      : `, noticed ${(Math.max(0, endedLateMs) / 1000).toFixed(1)} s after its ttl`;
  return (
    <li class="device" data-status={status} data-device={device_id}>
      <Lamp state={isSilent ? "connecting" : isOnline ? "connected" : "off"} />
      <span class="device-name">
        <b>{source}</b> <code>{device_id.slice(0, 8)}</code>
      </span>
      {isOnline && <TtlBar key={seq} ttlMs={ttl_ms} aliveMs={aliveMs} />}
      <span class="device-state">
        <span class="status">{status}</span>
        {isOnline ? `, ${(leftMs / 1000).toFixed(1)} s left` : ` since ${clock(sent_at_ms)}${end}`}
      </span>
      {daemon && (
        <span class="actions">
          {daemon.isRunning ? (
            <>
              <button type="button" onClick={() => devices.unplug(device_id)}>
                Pull the plug<span class="unseen"> of {source}</span>
              </button>
              <button type="button" onClick={() => devices.shutDown(device_id)}>
                Shut down<span class="unseen"> {source}</span>
              </button>
            </>
          ) : (
            <button type="button" onClick={() => devices.resume(device_id)}>
              Start again<span class="unseen"> {source}</span>
            </button>
          )}
        </span>
      )}
    </li>
  );
}

export function DevicesPanel({ devices }: { devices: Devices | null }) {
  return (
    <Panel
      name="devices"
      title="Your devices"
      wire="POST …/heartbeat → SSE"
      idea="Daemons post heartbeats, a phone watches. One that falls silent turns offline when its ttl has run out, by the server's alarm."
    >
      {devices ? (
        <Fleet devices={devices} />
      ) : (
        <p class="empty">
          Needs the minting token and a user_id: leave the console and bring both.
        </p>
      )}
    </Panel>
  );
}

function Fleet({ devices }: { devices: Devices }) {
  const known = useStore(devices.devices);
  const daemons = useStore(devices.daemons);
  const fault = useStore(devices.fault);
  const [ttl, setTtl] = useState<Ttl>("6 s");

  const byId = new Map(daemons.map((daemon) => [daemon.deviceId, daemon]));
  const all = [...known.values()];
  const mine = daemons.flatMap(({ deviceId }) => known.get(deviceId) ?? []);
  const others = all.filter(({ heartbeat }) => !byId.has(heartbeat.device_id));
  const online = others.filter(({ heartbeat }) => heartbeat.status === "online");
  const offline = others
    .filter(({ heartbeat }) => heartbeat.status === "offline")
    .sort((a, b) => b.heartbeat.sent_at_ms - a.heartbeat.sent_at_ms);
  const listed = [...mine, ...online, ...offline.slice(0, OFFLINE_LISTED)];
  const onlineCount = all.filter(({ heartbeat }) => heartbeat.status === "online").length;
  const nowMs = useNow(onlineCount > 0 ? 100 : null);
  const unlisted = offline.length - OFFLINE_LISTED;
  return (
    <>
      <div class="bar">
        <p class="figure" role="status">
          <b>{onlineCount}</b> of {plural(all.length, "device")} online
        </p>
        <Switch<Ttl>
          legend="ttl"
          options={Object.keys(TTLS) as Ttl[]}
          value={ttl}
          onChange={setTtl}
        />
      </div>
      {all.length === 0 && <p class="empty">No device has been heard of yet. Start a daemon.</p>}
      <ul class="fleet" aria-label="Devices">
        {listed.map((device) => {
          const { device_id } = device.heartbeat;
          const daemon = byId.get(device_id);
          return (
            <Row key={device_id} device={device} daemon={daemon} devices={devices} nowMs={nowMs} />
          );
        })}
      </ul>
      {unlisted > 0 && <p class="quiet">and {unlisted} more offline</p>}
      {fault !== null && (
        <p class="fault" role="alert">
          {fault}
        </p>
      )}
      <div class="actions">
        <button type="button" onClick={() => devices.start(TTLS[ttl])}>
          Start a daemon
        </button>
      </div>
    </>
  );
}
