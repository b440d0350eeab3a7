/**
 * A property of devices: random heartbeats over HTTP and by sockets, clocks that are hours off, sleeps,
 * crashes, and watchers that come and go, beside a model that knows what each device's status may be.
 */
import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { expect, vi } from "vitest";
import type { Heartbeat } from "../../rooms/devices/contract.ts";
import { BEARER, beat, beatOf, list, tokenFor } from "./device-fixture.ts";
import { connect, type TestSocket } from "./socket.ts";

const FLUSH_MS = 30_000;
const HOUR_MS = 3_600_000;
const TTLS_MS = [2_000, 35_000, 600_000];
const SKEWS_MS = [-6 * HOUR_MS, 0, 6 * HOUR_MS];
/** A watched device is offline so long after its deadline at the latest. */
const SEEN_WITHIN_MS = 3_000;
/** What an actor may take a socket's last sign of life to be later than it was, after a sleep. */
const LAG_MS = 1_001;
/** A silent socket that vouches for nothing stays open for so long at least. */
const SILENT_MS = 55_000;

type Status = Heartbeat["status"];
/** `again`: the same heartbeat once more; `restart`: the daemon has begun to count anew. */
type Kind = "next" | "again" | "restart";
interface Beat {
  who: number;
  status: Status;
  kind: Kind;
  ttl: number;
  source: string;
}
type Step =
  | ({ do: "http" | "socket" } & Beat)
  | { do: "connect" | "ping" | "leave" | "cut"; who: number }
  | { do: "beats"; who: number; count: number }
  | { do: "wait"; who: number; ttls: number }
  | { do: "sleep" | "move" | "crash" | "watch" | "watch without probes" | "unwatch" };

const who = fc.nat({ max: SKEWS_MS.length - 1 });
const beats: fc.Arbitrary<Beat> = fc.record({
  who,
  status: fc.constantFrom<Status>("online", "online", "online", "offline"),
  kind: fc.constantFrom<Kind>("next", "next", "next", "again", "restart"),
  ttl: fc.constantFrom(0, 1, 1, 1, 2),
  source: fc.constantFrom("one", "one", "one", "two"),
});
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 5, arbitrary: beats.map((one) => ({ do: "http" as const, ...one })) },
  { weight: 5, arbitrary: beats.map((one) => ({ do: "socket" as const, ...one })) },
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constantFrom("connect", "ping", "ping", "leave", "cut"), who }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant("beats" as const),
      who,
      count: fc.integer({ min: 2, max: 8 }),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant("wait" as const),
      who,
      ttls: fc.constantFrom(0.1, 0.3, 0.3, 0.6, 0.9, 1.02, 1.5, 3),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constantFrom(
        "sleep",
        "move",
        "crash",
        "watch",
        "watch",
        "watch without probes",
        "unwatch",
      ),
    }),
  },
);

interface Socket {
  socket: TestSocket;
  vouches: boolean;
  seenMs: number;
}

interface Known {
  last: Heartbeat;
  skewMs: number;
  isKnown: boolean;
  status: Status;
  aliveMs: number;
  /** Its sockets vouch for it. */
  isVouched: boolean;
  sockets: Socket[];
  /** Keep-alives may be lost since its last heartbeat: it may be taken for alive for longer. */
  isUnsure: boolean;
  /** The server may not know its last heartbeat any more. */
  isForgotten: boolean;
}

interface Watcher {
  socket: TestSocket;
  neverProbes: boolean;
  shown: Map<string, Heartbeat>;
  probeAtMs: number;
}

async function play(steps: readonly Step[]): Promise<void> {
  // So far ahead that no alarm rings by itself in a play that takes long: the model rings them.
  vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 24 * HOUR_MS });
  const userId = crypto.randomUUID();
  const stub = env.DEVICES.getByName(userId);
  const all: Known[] = SKEWS_MS.map((skewMs) => ({
    last: beatOf({ user_id: userId, seq: 0, sent_at_ms: 0 }),
    skewMs,
    isKnown: false,
    status: "offline",
    aliveMs: 0,
    isVouched: false,
    sockets: [],
    isUnsure: false,
    isForgotten: false,
  }));
  let watchers: Watcher[] = [];

  /** The earliest and the latest time at which a silent device turns offline, in ms. */
  const deadlines = (one: Known): [earliestMs: number, latestMs: number] => {
    const vouching = one.isVouched ? one.sockets.filter(({ vouches }) => vouches) : [];
    const seenMs = Math.max(0, ...vouching.map((socket) => socket.seenMs));
    const earliestMs = Math.max(one.aliveMs, seenMs) + one.last.ttl_ms;
    const lostMs = one.isUnsure ? FLUSH_MS + FLUSH_MS / 30 : 0;
    return [earliestMs, earliestMs + Math.max(lostMs, vouching.length > 0 ? LAG_MS : 0)];
  };
  const turnOffline = (one: Known): void => {
    one.status = "offline";
    one.isUnsure = false;
    if (one.isVouched) one.sockets = one.sockets.filter(({ vouches }) => !vouches);
    one.isVouched = false;
  };
  const allows = (one: Known, status: Status, slackMs: number): boolean => {
    const now = Date.now();
    if (one.status === "offline") return status === "offline";
    const [earliestMs, latestMs] = deadlines(one);
    if (status === "offline") return now >= earliestMs;
    return now < latestMs + slackMs;
  };

  async function hear(watcher: Watcher): Promise<void> {
    await watcher.socket.caughtUp();
    for (const { event, data } of watcher.socket.received.splice(0)) {
      if (event === "device.sync") {
        for (const device of data.devices as Heartbeat[]) {
          watcher.shown.set(device.device_id, device);
        }
      } else if (event === "device.probe") watcher.probeAtMs = Date.now() + data.in_ms;
      else if (event === "device.update") {
        const { type: _, ...device } = data;
        watcher.shown.set(device.device_id, device);
      }
    }
  }

  /** Snapshot and streams say the same, and nothing that the model rules out. */
  async function check(what: string): Promise<void> {
    for (const watcher of watchers) {
      await hear(watcher);
      for (const one of all) {
        const shown = watcher.shown.get(one.last.device_id);
        if (!shown) continue;
        const isAllowed = allows(one, shown.status, SEEN_WITHIN_MS);
        expect(isAllowed, `a watcher sees ${shown.status} after ${what}`).toBe(true);
      }
    }
    const snapshot = await list(userId);
    expect(snapshot.length).toBe(all.filter(({ isKnown }) => isKnown).length);
    for (const one of all) {
      const device = snapshot.find(({ device_id }) => device_id === one.last.device_id);
      if (!device) continue;
      const text = `the snapshot has ${device.status} after ${what}`;
      expect(allows(one, device.status, 0), text).toBe(true);
      if (device.status === "offline" && one.status === "online") turnOffline(one);
      const { ttl_ms, source, seq, sent_at_ms } = one.last;
      expect(device).toMatchObject({ ttl_ms, source, ...(one.isForgotten ? {} : { seq }) });
      if (one.isForgotten) one.last = { ...one.last, seq: device.seq };
      else if (device.status === "online") expect(device.sent_at_ms).toBe(sent_at_ms);
    }
    for (const watcher of watchers) {
      await hear(watcher);
      const shown = [...watcher.shown.values()];
      const isSame =
        ({ device_id }: Heartbeat) =>
        (other: Heartbeat) =>
          other.device_id === device_id;
      for (const device of snapshot) {
        const seen = shown.find(isSame(device));
        expect(seen?.status, `a watcher and the snapshot after ${what}`).toBe(device.status);
        if (seen && !all.some((one) => one.isForgotten)) expect(seen).toEqual(device);
      }
    }
  }

  /** Closes the sockets of a device that the server would close for their silence at `atMs`. */
  async function closeSilent(one: Known, willBeIdle: boolean, atMs: number): Promise<void> {
    for (const socket of [...one.sockets]) {
      const isIdle = willBeIdle || !socket.vouches || one.status === "offline" || !one.isVouched;
      if (isIdle && atMs - socket.seenMs > SILENT_MS) await close(one, 3_001, socket);
    }
  }

  /** Moves the clock. The alarm rings and watchers probe at their times. */
  async function wait(ms: number): Promise<void> {
    for (const one of all) await closeSilent(one, false, Date.now() + ms);
    const untilMs = Date.now() + ms;
    for (let rounds = 0; rounds < 1_000; rounds++) {
      const alarmMs = await runInDurableObject(stub, (_, { storage }) => storage.getAlarm());
      for (const watcher of watchers) await hear(watcher);
      const probing = watchers.filter(({ neverProbes }) => !neverProbes);
      const next = Math.min(alarmMs ?? untilMs, ...probing.map(({ probeAtMs }) => probeAtMs));
      if (next >= untilMs) break;
      vi.setSystemTime(Math.max(next, Date.now()));
      if (alarmMs !== null && alarmMs <= Date.now()) await runDurableObjectAlarm(stub);
      for (const watcher of probing) {
        if (watcher.probeAtMs > Date.now()) continue;
        watcher.probeAtMs = Number.POSITIVE_INFINITY;
        watcher.socket.emit("device.probe");
        await hear(watcher);
      }
    }
    vi.setSystemTime(untilMs);
  }

  async function open(one: Known): Promise<Socket> {
    const path = `/ws/devices/beat?v=3&user_id=${userId}&device_id=${one.last.device_id}`;
    const socket = await connect(null, path, BEARER);
    const opened = { socket, vouches: false, seenMs: Date.now() };
    one.sockets.push(opened);
    return opened;
  }

  async function send(one: Known, wish: Beat, bySocket: boolean): Promise<void> {
    const seq = wish.kind === "restart" ? 1 : one.last.seq + (wish.kind === "next" ? 1 : 0);
    const isAgain = wish.kind === "again";
    const sent: Heartbeat = {
      ...one.last,
      status: wish.status,
      ttl_ms: TTLS_MS[wish.ttl] as number,
      source: wish.source,
      seq,
      sent_at_ms: isAgain ? one.last.sent_at_ms : Date.now() + one.skewMs,
    };
    const { seq: lastSeq, sent_at_ms: lastSentMs } = one.last;
    const isNewer = !one.isKnown || seq > lastSeq || sent.sent_at_ms > lastSentMs;
    // What was lost may count as new.
    if (one.isForgotten && !isNewer) return;
    // A device that goes offline needs no socket any more.
    if (!bySocket && wish.status === "offline") await closeSilent(one, true, Date.now());
    let isAccepted: boolean;
    let socket: Socket | undefined;
    if (bySocket) {
      socket = one.sockets.at(-1) ?? (await open(one));
      const answer = await socket.socket.ask("device.beat", sent);
      isAccepted = answer.type === "ack";
      socket.seenMs = Date.now();
    } else isAccepted = (await beat(sent)).status === 204;
    expect(isAccepted, `${wish.kind} by ${bySocket ? "socket" : "HTTP"}`).toBe(isNewer);
    if (!isAccepted) return;
    one.last = sent;
    one.isKnown = true;
    one.isUnsure = false;
    one.isForgotten = false;
    one.status = sent.status;
    if (socket) socket.vouches = true;
    else one.aliveMs = Date.now();
    const isStillVouched = one.isVouched && one.sockets.some(({ vouches }) => vouches);
    one.isVouched = sent.status === "online" && (bySocket || isStillVouched);
  }

  async function close(one: Known, code: number, closed = one.sockets.at(-1)): Promise<void> {
    if (!closed) return;
    one.sockets = one.sockets.filter((socket) => socket !== closed);
    await closed.socket.close(code);
    if (!closed.vouches || !one.isVouched || one.status === "offline") return;
    if (one.sockets.some(({ vouches }) => vouches)) return;
    if (code === 1000) return turnOffline(one);
    one.isVouched = false;
    one.isUnsure = false;
    one.aliveMs = Date.now();
  }

  for (const one of steps) {
    const actor = "who" in one ? (all[one.who] as Known) : undefined;
    if (one.do === "wait" && actor) await wait(actor.last.ttl_ms * one.ttls);
    else if (one.do === "beats" && actor) {
      for (let i = 0; i < one.count; i++) {
        const { source, ttl_ms } = actor.last;
        const ttl = Math.max(0, TTLS_MS.indexOf(ttl_ms));
        await send(actor, { who: one.who, status: "online", kind: "next", ttl, source }, false);
        await wait((TTLS_MS[ttl] as number) / 3);
      }
    } else if (actor && "kind" in one) await send(actor, one, one.do === "socket");
    else if (one.do === "connect" && actor) await open(actor);
    else if (one.do === "leave" && actor) await close(actor, 1000);
    else if (one.do === "cut" && actor) await close(actor, 3_001);
    else if (one.do === "ping" && actor) {
      const socket = actor.sockets.at(-1);
      await socket?.socket.caughtUp();
      if (socket) socket.seenMs = Date.now();
    } else if (one.do === "sleep" || one.do === "move") {
      if (one.do === "move") {
        await runInDurableObject(stub, (_, { storage }) => {
          if (storage.kv.get("held")) storage.kv.put("held", { held: true, isolate: "another" });
        });
        for (const known of all) {
          known.isUnsure = known.status === "online";
          known.isForgotten ||= known.isUnsure;
        }
      }
      // An actor that does not run cannot be evicted.
      await list(userId);
      await evictDurableObject(stub);
    } else if (one.do === "crash") {
      await list(userId);
      await evictDurableObject(stub, { webSockets: "close" });
      watchers = [];
      for (const known of all) {
        known.sockets = [];
        if (!known.isVouched) continue;
        known.isVouched = false;
        known.aliveMs = Date.now();
      }
    } else if (one.do === "watch" || one.do === "watch without probes") {
      const neverProbes = one.do === "watch without probes";
      const token = await tokenFor(userId, { ttlMs: 24 * HOUR_MS });
      const path = `/ws/devices?user_id=${userId}&token=${token}${neverProbes ? "" : "&probe_devices=1"}`;
      const socket = await connect(null, path);
      const probeAtMs = Number.POSITIVE_INFINITY;
      watchers.push({ socket, neverProbes, shown: new Map(), probeAtMs });
    } else if (one.do === "unwatch") await watchers.pop()?.socket.close();
    await check(JSON.stringify(one));
  }
}

/** Plays `numRuns` random sequences. @throws for the first that breaks the contract, with its seed */
export async function checkDevices(numRuns: number): Promise<void> {
  const steps = fc.array(step, { minLength: 5, maxLength: 30 });
  await fc.assert(fc.asyncProperty(steps, play), { numRuns });
}
