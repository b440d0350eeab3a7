import { randomUUID } from "node:crypto";
import type { Heartbeat } from "../../rooms/devices/contract.ts";
import {
  Daemon as BeatWriter,
  inspectDevices,
  Phone,
  postBeat,
  postBeats,
  readDevices,
} from "../kit/devices.ts";
import { Latencies } from "../kit/latency.ts";
import { Delivery, Faults } from "../kit/ledger.ts";
import { Life } from "../kit/life.ts";
import { signWatcher } from "../kit/stage.ts";
import { AWAY_MS, type Cast, type Census, type SoakStage, STAY_MS, sumOf } from "./cast.ts";

const DAEMONS_PER_USER = 3;
const BEAT_MS = 10_000;
const TTL_MS = 25_000;
/** How late an expiry may be reported: the contract's second, and a stall of the machine. */
const EXPIRY_LATE_MS = 1_000 + 4_000;
/** Daemons of one gateway, which posts for all of them at once. */
const FLEET = 25;
const DAEMON_STAY_MS = 5 * 60_000;
const DAEMON_AWAY_MS = 45_000;
/** Users whose snapshot is read at each check. */
const CHECKED = 20;

/** A phone, and since when it must receive all heartbeats; Infinity before. */
interface Watcher {
  phone?: Phone;
  settledAtMs: number;
}

class Daemon extends BeatWriter {
  readonly user: User;
  /** A gateway posts for it. */
  readonly isBatched: boolean;
  isOn = false;
  isPosting = false;
  /** Of the last heartbeat that was accepted. */
  acceptedSeq = -1;
  acceptedStatus: Heartbeat["status"] = "offline";
  /** When the last heartbeat was sent, and when the daemon last started. */
  sentAtMs = 0;
  onAtMs = 0;
  readonly beats = new Map<number, Delivery<Watcher>>();
  /** It fell silent: since when, and who must receive that it is offline. */
  silence?: { fromMs: number; delivery: Delivery<Watcher> };

  constructor(user: User, isBatched: boolean) {
    super(user.id, TTL_MS);
    this.user = user;
    this.isBatched = isBatched;
  }

  /** A delivery that starts now, to the phone that watches. */
  toWatcher(): Delivery<Watcher> {
    const { watcher } = this.user;
    return new Delivery(watcher && watcher.settledAtMs < performance.now() ? [watcher] : []);
  }
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
  readonly #stage: SoakStage;
  readonly #life: Life;
  readonly #users: User[] = [];
  readonly #daemons: Daemon[] = [];
  #joins = 0;
  #accepted = 0;
  #received = 0;
  #checked = 0;

  constructor(stage: SoakStage, clients: number) {
    this.#stage = stage;
    this.#life = new Life(stage.seed, 3);
    for (let u = 0; u < clients; u++) {
      const user: User = { id: randomUUID(), token: "", daemons: [] };
      user.daemons = Array.from({ length: DAEMONS_PER_USER }, (_, d) => {
        return new Daemon(user, (u * DAEMONS_PER_USER + d) % 2 === 1);
      });
      this.#users.push(user);
      this.#daemons.push(...user.daemons);
    }
  }

  async start(): Promise<void> {
    const { rampMs } = this.#stage;
    for (const user of this.#users) {
      user.token = await signWatcher(this.#stage, user.id);
      const join = () => this.#join(user);
      void this.#life.joinAndLeave([rampMs, STAY_MS, AWAY_MS], join, () => this.#leave(user));
    }
    for (const daemon of this.#daemons) {
      const turnOn = async () => {
        daemon.isOn = true;
        daemon.onAtMs = performance.now();
        delete daemon.silence;
      };
      const turnOff = () => this.#turnOff(daemon);
      void this.#life.joinAndLeave([rampMs, DAEMON_STAY_MS, DAEMON_AWAY_MS], turnOn, turnOff);
      if (!daemon.isBatched) void this.#beatOn(() => this.#beat(daemon));
    }
    const fleet = this.#daemons.filter(({ isBatched }) => isBatched);
    for (let from = 0; from < fleet.length; from += FLEET) {
      const members = fleet.slice(from, from + FLEET);
      void this.#beatOn(() => this.#beatAll(members));
    }
  }

  /** Each by its own clock: after a stall of all, they do not beat in step. */
  async #beatOn(beat: () => Promise<void>): Promise<void> {
    let dueAtMs = performance.now() + this.#life.random.unit() * BEAT_MS;
    while (await this.#life.wait(Math.max(0, dueAtMs - performance.now()))) {
      dueAtMs += BEAT_MS;
      await beat();
    }
  }

  async #join(user: User): Promise<void> {
    this.#joins += 1;
    const watcher: Watcher = { settledAtMs: Number.POSITIVE_INFINITY };
    user.watcher = watcher;
    watcher.phone = await Phone.open(this.#stage, user.id, {
      onOpen: () => {
        watcher.settledAtMs = performance.now();
      },
      onBeat: (beat, before) => this.#receive(user, watcher, beat, before),
      onLost: (why) => {
        this.faults.add(`a stream was lost: ${why}`);
        this.#excuse(user, watcher);
        watcher.settledAtMs = Number.POSITIVE_INFINITY;
        watcher.phone?.shown.clear();
      },
    });
  }

  #leave(user: User): void {
    const { watcher } = user;
    if (!watcher) return;
    delete user.watcher;
    this.#excuse(user, watcher);
    watcher.phone?.close();
  }

  #excuse({ daemons }: User, watcher: Watcher): void {
    for (const { beats, silence } of daemons) {
      for (const beat of beats.values()) beat.excuse(watcher);
      silence?.delivery.excuse(watcher);
    }
  }

  #turnOff(daemon: Daemon): void {
    daemon.isOn = false;
    // A daemon without a heartbeat was offline all the time.
    if (daemon.sentAtMs < daemon.onAtMs) return;
    if (this.#life.random.chance(0.5)) void this.#beat(daemon, "offline");
    else {
      // It expires by the clock of the server, which received the heartbeat after we sent it.
      const fromMs = daemon.sentAtMs;
      daemon.silence = { fromMs, delivery: daemon.toWatcher() };
    }
  }

  /** The next heartbeat, with its delivery begun; null while the last one is on its way. */
  #next(daemon: Daemon, status: Heartbeat["status"]): Heartbeat | null {
    if (daemon.isPosting) return null;
    daemon.isPosting = true;
    daemon.sentAtMs = performance.now();
    const beat = daemon.next(status);
    daemon.beats.set(beat.seq, daemon.toWatcher());
    return beat;
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
    this.#answered(daemon, beat, await postBeat(this.#stage, beat));
  }

  async #beatAll(daemons: readonly Daemon[]): Promise<void> {
    const sent: { daemon: Daemon; beat: Heartbeat }[] = [];
    for (const daemon of daemons) {
      const beat = daemon.isOn ? this.#next(daemon, "online") : null;
      if (beat) sent.push({ daemon, beat });
    }
    if (sent.length === 0) return;
    const statuses = await postBeats(
      this.#stage,
      sent.map(({ beat }) => beat),
    );
    for (const [i, { daemon, beat }] of sent.entries()) {
      this.#answered(daemon, beat, statuses[i] ?? 0);
    }
  }

  #receive(user: User, watcher: Watcher, beat: Heartbeat, before: Heartbeat | undefined): void {
    this.#received += 1;
    const daemon = user.daemons.find(({ deviceId }) => deviceId === beat.device_id);
    if (!daemon || beat.user_id !== user.id) {
      this.faults.add("a stream shows a device of another user");
      return;
    }
    const { silence, beats } = daemon;
    const isExpiry = before?.seq === beat.seq && before.status === "online";
    if (isExpiry && beat.status === "offline") {
      const silentMs = performance.now() - daemon.sentAtMs;
      // At the end of its ttl the next heartbeat may be on its way.
      if (beat.seq === daemon.seq && silentMs < TTL_MS) {
        this.faults.add(`a device turned offline ${Math.round(silentMs)} ms after a heartbeat`);
      }
      if (silence?.delivery.reached(watcher)) this.latencies.expiry.add(silentMs - TTL_MS);
      return;
    }
    if (before && beat.seq <= before.seq) {
      this.faults.add(`heartbeat ${beat.seq} arrived after ${before.seq}`);
    }
    const delivery = beats.get(beat.seq);
    if (!delivery?.reached(watcher)) return;
    const { heartbeat, batched } = this.latencies;
    (daemon.isBatched ? batched : heartbeat).add(performance.now() - delivery.sentAtMs);
  }

  sweep(): void {
    const now = performance.now();
    for (const { deviceId, beats, silence } of this.#daemons) {
      for (const [seq, beat] of beats) {
        if (beat.isLate) this.faults.add(`a stream never showed heartbeat ${seq} of ${deviceId}`);
        if (beat.missing === 0 || beat.isLate) beats.delete(seq);
      }
      if (silence?.delivery.missing && now - silence.fromMs > TTL_MS + EXPIRY_LATE_MS) {
        this.faults.add("a stream still shows a silent device as online");
        silence.delivery = new Delivery([]);
      }
    }
  }

  /** The server's devices of some users, watched or not. */
  async check(): Promise<void> {
    for (let i = 0; i < CHECKED; i++) {
      await this.#checkUser(this.#users[this.#checked++ % this.#users.length] as User);
    }
  }

  async #checkUser({ id, token, daemons }: User): Promise<void> {
    const askedAtMs = performance.now();
    const known = daemons.map(({ seq, acceptedSeq }) => ({ seq, acceptedSeq }));
    const devices = await readDevices(this.#stage, id, token);
    for (const [i, daemon] of daemons.entries()) {
      const { seq = 0, acceptedSeq = -1 } = known[i] ?? {};
      const answer = devices.find(({ device_id }) => device_id === daemon.deviceId);
      if ((answer?.seq ?? -1) < acceptedSeq) {
        this.faults.add(`the server knows heartbeat ${answer?.seq}, ${acceptedSeq} was accepted`);
      }
      // The status is certain only if no heartbeat was on its way from the question to the answer.
      if (daemon.seq !== seq || acceptedSeq !== seq) continue;
      const silentMs = askedAtMs - daemon.sentAtMs;
      const isOver = silentMs > TTL_MS + EXPIRY_LATE_MS;
      const isOnline = daemon.acceptedStatus === "online" && silentMs < TTL_MS - EXPIRY_LATE_MS;
      if (isOver && answer?.status === "online") {
        this.faults.add("the server shows a silent device as online");
      } else if (isOnline && answer?.status !== "online") {
        this.faults.add("the server shows a beating device as offline");
      }
    }
  }

  hold(): void {
    this.#life.stop();
  }

  async census(): Promise<Census> {
    const counted = await sumOf(this.#users, async ({ id }) => {
      return (await inspectDevices(this.#stage, id)).active_streams;
    });
    return { live: this.#live, counted };
  }

  get #live(): number {
    return this.#users.filter(({ watcher }) => watcher !== undefined).length;
  }

  leave(): void {
    for (const user of this.#users) this.#leave(user);
  }

  figures(): Record<string, number> {
    return {
      live: this.#live,
      joins: this.#joins,
      daemons: this.#daemons.filter(({ isOn }) => isOn).length,
      accepted: this.#accepted,
      received: this.#received,
    };
  }
}
