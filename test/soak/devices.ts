import { randomUUID } from "node:crypto";
import { EventSource } from "eventsource";
import type { DeviceInspection, Heartbeat } from "../../rooms/devices/contract.ts";
import { mintPresenceToken, TOKEN_TTL_MAX_MS } from "../../rooms/devices/token.ts";
import {
  type Cast,
  type Census,
  Delivery,
  Faults,
  getJson,
  Life,
  request,
  type Stage,
  sumUp,
} from "./cast.ts";
import { Latencies } from "./latency.ts";

const DAEMONS_PER_USER = 3;
const BEAT_MS = 10_000;
const TTL_MS = 25_000;
/** How late an expiry may be told: the contract's second, and a stall of the machine. */
const EXPIRY_LATE_MS = 1_000 + 4_000;
/** Daemons that share a gateway, which posts for all of them at once. */
const FLEET = 25;
const STAY_MS = 8 * 60_000;
const AWAY_MS = 8_000;
const DAEMON_STAY_MS = 5 * 60_000;
const DAEMON_AWAY_MS = 45_000;
/** Users whose snapshot is asked for at each look. */
const LOOKED_AT = 20;

class Watcher {
  /** What the stream said last, by device. */
  readonly shown = new Map<string, Heartbeat>();
  readonly source: EventSource;
  settledAtMs = Number.POSITIVE_INFINITY;

  constructor(url: string) {
    this.source = new EventSource(url);
    this.source.onopen = () => {
      this.settledAtMs = performance.now();
    };
  }

  get isSettled(): boolean {
    return this.settledAtMs < performance.now();
  }
}

interface Daemon {
  id: string;
  user: User;
  isOn: boolean;
  seq: number;
  /** Of the last heartbeat that was accepted. */
  acceptedSeq: number;
  acceptedStatus: Heartbeat["status"];
  /** When the last one was sent, and when it last came. */
  sentAtMs: number;
  onAtMs: number;
  isPosting: boolean;
  /** It has a gateway that posts for it. */
  isBatched: boolean;
  beats: Map<number, Delivery<Watcher>>;
  /** It fell silent: since when, and who has to hear that it is offline. */
  silence?: { fromMs: number; delivery: Delivery<Watcher> };
}

interface User {
  id: string;
  token: string;
  daemons: Daemon[];
  watcher?: Watcher;
}

/** Daemons that beat, alone or through a gateway, and phones that watch them by streams. */
export class DeviceCast implements Cast {
  readonly name = "devices";
  readonly faults = new Faults();
  readonly latencies = {
    heartbeat: new Latencies(),
    batched: new Latencies(),
    expiry: new Latencies(),
  };
  readonly #stage: Stage;
  readonly #life: Life;
  readonly #users: User[] = [];
  readonly #daemons: Daemon[] = [];
  #comings = 0;
  #accepted = 0;
  #received = 0;
  #lookedAt = 0;

  constructor(stage: Stage, clients: number) {
    this.#stage = stage;
    this.#life = new Life(stage.seed, 3);
    for (let u = 0; u < clients; u++) {
      const user: User = { id: randomUUID(), token: "", daemons: [] };
      user.daemons = Array.from({ length: DAEMONS_PER_USER }, () => ({
        id: randomUUID(),
        user,
        isOn: false,
        seq: 0,
        acceptedSeq: -1,
        acceptedStatus: "offline",
        sentAtMs: 0,
        onAtMs: 0,
        isPosting: false,
        isBatched: false,
        beats: new Map(),
      }));
      this.#users.push(user);
      this.#daemons.push(...user.daemons);
    }
  }

  async start(): Promise<void> {
    const { rampMs } = this.#stage;
    for (const user of this.#users) {
      const grant = { user_id: user.id, device_id: user.id, ttlMs: TOKEN_TTL_MAX_MS };
      user.token = (await mintPresenceToken(grant, this.#stage.signingKey)).token;
      const come = async () => this.#come(user);
      void this.#life.comeAndGo(rampMs, STAY_MS, AWAY_MS, come, () => this.#go(user));
    }
    const lone: Daemon[] = [];
    const fleet: Daemon[] = [];
    for (const [i, daemon] of this.#daemons.entries()) {
      daemon.isBatched = i % 2 === 1;
      (daemon.isBatched ? fleet : lone).push(daemon);
      const turnOn = async () => {
        daemon.isOn = true;
        daemon.onAtMs = performance.now();
        delete daemon.silence;
      };
      const turnOff = () => this.#turnOff(daemon);
      void this.#life.comeAndGo(rampMs, DAEMON_STAY_MS, DAEMON_AWAY_MS, turnOn, turnOff);
    }
    for (const daemon of lone) void this.#beatOn(() => this.#beat(daemon));
    for (let from = 0; from < fleet.length; from += FLEET) {
      const members = fleet.slice(from, from + FLEET);
      void this.#beatOn(() => this.#beatAll(members));
    }
  }

  /** Each by its own clock: a stall that holds many up together leaves none of them in step. */
  async #beatOn(beat: () => Promise<void>): Promise<void> {
    let dueAtMs = performance.now() + this.#life.random.unit() * BEAT_MS;
    while (await this.#life.wait(Math.max(0, dueAtMs - performance.now()))) {
      dueAtMs += BEAT_MS;
      await beat();
    }
  }

  #come(user: User): void {
    this.#comings += 1;
    const query = new URLSearchParams({ user_id: user.id, token: user.token });
    const watcher = new Watcher(`${this.#stage.url}/api/v1/mobile/presence/stream?${query}`);
    user.watcher = watcher;
    watcher.source.onmessage = ({ data }) => this.#heard(user, watcher, JSON.parse(data));
    watcher.source.onerror = ({ message }) => {
      this.faults.add(`a stream was lost: ${message}`);
      this.#excuse(user, watcher);
      watcher.settledAtMs = Number.POSITIVE_INFINITY;
      watcher.shown.clear();
    };
  }

  #go(user: User): void {
    const { watcher } = user;
    if (!watcher) return;
    delete user.watcher;
    this.#excuse(user, watcher);
    watcher.source.close();
  }

  #excuse({ daemons }: User, watcher: Watcher): void {
    for (const { beats, silence } of daemons) {
      for (const beat of beats.values()) beat.excuse(watcher);
      silence?.delivery.excuse(watcher);
    }
  }

  #turnOff(daemon: Daemon): void {
    daemon.isOn = false;
    // Who did not even beat once was offline all the time.
    if (daemon.sentAtMs < daemon.onAtMs) return;
    if (this.#life.random.chance(0.5)) void this.#beat(daemon, "offline");
    else {
      // It expires by the time of the server, which heard the last heartbeat after we sent it.
      const fromMs = daemon.sentAtMs;
      daemon.silence = { fromMs, delivery: this.#toWatcher(daemon) };
    }
  }

  #toWatcher({ user: { watcher } }: Daemon): Delivery<Watcher> {
    return new Delivery(watcher?.isSettled ? [watcher] : []);
  }

  /** The next heartbeat, with its delivery begun; null where the last one is still under way. */
  #next(daemon: Daemon, status: Heartbeat["status"]): Heartbeat | null {
    if (daemon.isPosting) return null;
    daemon.isPosting = true;
    daemon.seq += 1;
    daemon.sentAtMs = performance.now();
    daemon.beats.set(daemon.seq, this.#toWatcher(daemon));
    return {
      schema_version: 1,
      user_id: daemon.user.id,
      device_id: daemon.id,
      status,
      source: "soak",
      sent_at_ms: Date.now(),
      seq: daemon.seq,
      ttl_ms: TTL_MS,
    };
  }

  #answered(daemon: Daemon, { seq, status }: Heartbeat, answer: number): void {
    daemon.isPosting = false;
    if (answer === 204) {
      this.#accepted += 1;
      daemon.acceptedSeq = seq;
      daemon.acceptedStatus = status;
    } else {
      this.faults.add(`a heartbeat was answered ${answer}`);
      daemon.beats.delete(seq);
    }
  }

  async #beat(daemon: Daemon, status: Heartbeat["status"] = "online"): Promise<void> {
    if (status === "online" && !daemon.isOn) return;
    const beat = this.#next(daemon, status);
    if (!beat) return;
    this.#answered(daemon, beat, await this.#post("heartbeat", beat, async ({ status }) => status));
  }

  async #beatAll(daemons: readonly Daemon[]): Promise<void> {
    const sent: { daemon: Daemon; beat: Heartbeat }[] = [];
    for (const daemon of daemons) {
      const beat = daemon.isOn ? this.#next(daemon, "online") : null;
      if (beat) sent.push({ daemon, beat });
    }
    if (sent.length === 0) return;
    const body = { heartbeats: sent.map(({ beat }) => beat) };
    const results = await this.#post("heartbeats", body, async (response) => {
      return ((await response.json()) as { results?: { status: number }[] }).results;
    });
    const list = typeof results === "object" ? results : [];
    for (const [i, { daemon, beat }] of sent.entries()) {
      this.#answered(daemon, beat, list[i]?.status ?? 0);
    }
  }

  /** @returns 0 where there is no answer */
  async #post<T>(route: string, body: object, read: (response: Response) => Promise<T>) {
    try {
      const response = await request(`${this.#stage.url}/api/v1/daemon/presence/${route}`, {
        method: "POST",
        headers: {
          Authorization: `Bearer ${this.#stage.ingestToken}`,
          "Content-Type": "application/json",
        },
        body: JSON.stringify(body),
      });
      const result = await read(response);
      if (!response.bodyUsed) await response.arrayBuffer();
      return result;
    } catch {
      return 0;
    }
  }

  #heard({ daemons }: User, watcher: Watcher, told: Heartbeat): void {
    this.#received += 1;
    const daemon = daemons.find(({ id }) => id === told.device_id);
    if (!daemon) {
      this.faults.add("a stream told of a device of somebody else");
      return;
    }
    const before = watcher.shown.get(daemon.id);
    watcher.shown.set(daemon.id, told);
    const { silence, beats } = daemon;
    const isExpiry = before?.seq === told.seq && before.status === "online";
    if (isExpiry && told.status === "offline") {
      const silentMs = performance.now() - daemon.sentAtMs;
      // The next heartbeat may be on its way when the last one's time is over.
      if (told.seq === daemon.seq && silentMs < TTL_MS) {
        this.faults.add(`a device was called offline ${Math.round(silentMs)} ms after a heartbeat`);
      }
      if (silence?.delivery.reached(watcher)) this.latencies.expiry.add(silentMs - TTL_MS);
      return;
    }
    if (before && told.seq <= before.seq) {
      this.faults.add(`heartbeat ${told.seq} came after ${before.seq}`);
    }
    const beat = beats.get(told.seq);
    if (!beat?.reached(watcher)) return;
    const { heartbeat, batched } = this.latencies;
    (daemon.isBatched ? batched : heartbeat).add(performance.now() - beat.sentAtMs);
  }

  sweep(): void {
    const now = performance.now();
    for (const { id, beats, silence } of this.#daemons) {
      for (const [seq, beat] of beats) {
        if (beat.isLate) this.faults.add(`a stream never showed heartbeat ${seq} of ${id}`);
        if (beat.missing === 0 || beat.isLate) beats.delete(seq);
      }
      if (silence?.delivery.missing && now - silence.fromMs > TTL_MS + EXPIRY_LATE_MS) {
        this.faults.add("a stream still shows a silent device as online");
        silence.delivery = new Delivery([]);
      }
    }
  }

  /** What the server says of some users, watched or not. */
  async look(): Promise<void> {
    for (let i = 0; i < LOOKED_AT; i++) {
      await this.#lookAt(this.#users[this.#lookedAt++ % this.#users.length] as User);
    }
  }

  async #lookAt(user: User): Promise<void> {
    const askedAtMs = performance.now();
    const known = user.daemons.map(({ seq, acceptedSeq }) => ({ seq, acceptedSeq }));
    const url = `${this.#stage.url}/api/v1/mobile/presence?user_id=${user.id}`;
    const bearer = { Authorization: `Bearer ${user.token}` };
    const { devices } = await getJson<{ devices: Heartbeat[] }>(url, bearer);
    for (const [i, daemon] of user.daemons.entries()) {
      const { seq = 0, acceptedSeq = -1 } = known[i] ?? {};
      const told = devices.find(({ device_id }) => device_id === daemon.id);
      if ((told?.seq ?? -1) < acceptedSeq) {
        this.faults.add(`the server knows heartbeat ${told?.seq}, ${acceptedSeq} was accepted`);
      }
      // Of the rest only those of whom nothing was under way from the question to the answer.
      if (daemon.seq !== seq || acceptedSeq !== seq) continue;
      const silentMs = askedAtMs - daemon.sentAtMs;
      const isOver = silentMs > TTL_MS + EXPIRY_LATE_MS;
      const isOnline = daemon.acceptedStatus === "online" && silentMs < TTL_MS - EXPIRY_LATE_MS;
      if (isOver && told?.status === "online") {
        this.faults.add("the server says that a silent device is online");
      } else if (isOnline && told?.status !== "online") {
        this.faults.add("the server says that a beating device is offline");
      }
    }
  }

  hold(): void {
    this.#life.stop();
  }

  async census(): Promise<Census> {
    const told = await sumUp(this.#users, async ({ id }) => {
      const url = `${this.#stage.url}/debug/presence?user_id=${id}`;
      return (await getJson<DeviceInspection>(url)).active_streams;
    });
    return { live: this.#live, told };
  }

  get #live(): number {
    return this.#users.filter(({ watcher }) => watcher !== undefined).length;
  }

  leave(): void {
    for (const user of this.#users) this.#go(user);
  }

  figures(): Record<string, number> {
    return {
      live: this.#live,
      comings: this.#comings,
      daemons: this.#daemons.filter(({ isOn }) => isOn).length,
      accepted: this.#accepted,
      received: this.#received,
    };
  }
}
