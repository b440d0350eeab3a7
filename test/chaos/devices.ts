import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { Heartbeat } from "../../rooms/devices/contract.ts";
import { Daemon, Phone, postBeat, readDevices } from "../kit/devices.ts";
import type { Random } from "../kit/random.ts";
import { type Stage, signWatcher } from "../kit/stage.ts";
import { ANSWER_MS, attempt, type Cast, SLACK_MS } from "./cast.ts";

const USERS = 3;
const DEVICES = 4;
const BEAT_MS = 700;
/** As the server is started with. */
export const FLUSH_MS = 1_500;
const HOUR_MS = 3_600_000;

interface Sent {
  beat: Heartbeat;
  sentAtMs: number;
  /** When the answer came, or the wait for it ended. */
  endedAtMs: number;
  /** 0 while, and where, there is no answer. */
  status: number;
}

/** A heartbeat by its place in `sent`, and when it was known to be the newest that was accepted. */
interface Promised {
  place: number;
  atMs: number;
}

/** One daemon: beats, stops, restarts, and has its clock set. */
class UnluckyDaemon extends Daemon {
  readonly sent: Sent[] = [];
  isBeating = true;
  /** Sends nothing for now. */
  isPaused = false;
  /** The server must know at least this place of `sent`. */
  #known = -1;
  #restarts = 0;
  #latestSentMs = 0;
  #crashedAtMs = 0;
  #backAtMs = 0;
  readonly #stage: Stage;
  readonly #faults: string[];
  #isStopped = false;

  constructor(stage: Stage, userId: string, ttlMs: number, faults: string[]) {
    super(userId, ttlMs);
    this.source = "chaos-0";
    this.#stage = stage;
    this.#faults = faults;
  }

  async run(): Promise<void> {
    while (!this.#isStopped) {
      if (this.isBeating && !this.isPaused) await this.#post("online");
      await sleep(BEAT_MS);
    }
  }

  async #post(status: Heartbeat["status"]): Promise<void> {
    const beat = this.next(status);
    this.#latestSentMs = Math.max(this.#latestSentMs, beat.sent_at_ms);
    const endedAtMs = Number.POSITIVE_INFINITY;
    const entry: Sent = { beat, sentAtMs: Date.now(), endedAtMs, status: 0 };
    const place = this.sent.push(entry) - 1;
    entry.status = await postBeat(this.#stage, beat, ANSWER_MS);
    entry.endedAtMs = Date.now();
    // After a crash an answer may arrive that was given before it.
    if (entry.status === 204 && entry.sentAtMs > this.#crashedAtMs) this.#known = place;
    if (entry.status === 409) {
      this.#faults.push(`a heartbeat that is newer than all before was refused: ${place}`);
    }
  }

  /** Stops beating, with a last heartbeat (`offline`) or without. */
  halt(isPolite: boolean): void {
    this.isBeating = false;
    if (isPolite && !this.isPaused) void this.#post("offline");
  }

  /** Starts again: `seq` from its beginning, by a clock later than all that it ever showed. */
  restart(random: Random): void {
    this.#restarts += 1;
    this.source = `chaos-${this.#restarts}`;
    this.seq = 0;
    this.skewMs = Math.max(0, this.#latestSentMs - Date.now() + 1_000);
    this.ttlMs = random.int(3, 8) * 1_000;
    this.isBeating = true;
  }

  crashed(): void {
    this.isPaused = true;
    this.#crashedAtMs = Date.now();
    this.#known = this.#durable();
  }

  resume(): void {
    this.isPaused = false;
    this.#backAtMs = Date.now();
  }

  /** The place of the newest heartbeat that a crash cannot take. */
  #durable(): number {
    const last = this.sent.at(this.#known);
    if (this.#known < 0 || !last) return -1;
    let place = this.#known;
    // The first heartbeat of a state was stored before its answer …
    while (place > 0 && stateOf(this.sent[place - 1]) === stateOf(last)) place -= 1;
    // … and keep-alives stay in memory for the flush time only.
    for (let later = this.#known; later > place; later--) {
      const { status, endedAtMs = 0 } = this.sent[later] ?? {};
      if (status === 204 && endedAtMs < last.sentAtMs - FLUSH_MS) return later;
    }
    return place;
  }

  get #name(): string {
    return `device ${this.deviceId.slice(0, 4)}`;
  }

  /** What the server must know when it is asked from now on. */
  get promised(): Promised {
    return { place: this.#known, atMs: Date.now() };
  }

  /** What contradicts the heartbeats accepted before the question. */
  judgeKnown(answer: Heartbeat | undefined, { place: known }: Promised): string[] {
    if (!answer) return known >= 0 ? [`${this.#name} is not known at all`] : [];
    const place = this.sent.findIndex(
      ({ beat }) => beat.seq === answer.seq && beat.source === answer.source,
    );
    if (place === -1) return [`${this.#name} shows a heartbeat that nobody sent`];
    if (place >= known) return [];
    return [`${this.#name} shows heartbeat ${place}, though ${known} was accepted`];
  }

  judge(answer: Heartbeat | undefined, promised: Promised): string[] {
    const wrong = this.judgeKnown(answer, promised);
    if (!answer) return wrong;
    const now = Date.now();
    const accepted = this.sent.findLast(({ status }) => status === 204);
    const latest = this.sent.at(-1);
    if (!accepted || !latest) return wrong;
    const isOnlineForSure =
      this.isBeating &&
      accepted === latest &&
      accepted.endedAtMs <= promised.atMs &&
      accepted.sentAtMs > this.#crashedAtMs &&
      now < accepted.sentAtMs + accepted.beat.ttl_ms;
    if (isOnlineForSure && answer.status === "offline") {
      wrong.push(`${this.#name} beats but is offline`);
    }

    // The latest time at which the server can have received a heartbeat.
    const receivedMs = Math.min(latest.endedAtMs, latest.sentAtMs + ANSWER_MS);
    const lostMs = this.#crashedAtMs >= latest.sentAtMs ? FLUSH_MS : 0;
    const offlineAtMs =
      Math.max(receivedMs + latest.beat.ttl_ms + lostMs, this.#backAtMs) + 1_000 + SLACK_MS;
    const isSilent = !this.isBeating || this.isPaused;
    if (isSilent && answer.status === "online" && now > offlineAtMs) {
      wrong.push(`${this.#name} is still online, ${now - offlineAtMs} ms after its time`);
    }
    return wrong;
  }

  stop(): void {
    this.#isStopped = true;
  }
}

function stateOf(sent: Sent | undefined): string {
  const { source, status, ttl_ms } = sent?.beat ?? {};
  return `${source} ${status} ${ttl_ms}`;
}

interface User {
  id: string;
  token: string;
  daemons: UnluckyDaemon[];
  phone?: Phone;
}

/** Daemons that beat for some users, and phones that watch. */
export class DeviceCast implements Cast {
  readonly name = "devices";
  readonly faults: string[] = [];
  readonly #stage: Stage;
  readonly #users: User[] = [];

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  async start(): Promise<void> {
    for (let i = 0; i < USERS; i++) {
      const id = randomUUID();
      const user: User = { id, token: await signWatcher(this.#stage, id), daemons: [] };
      this.#users.push(user);
      // The last user has no phone: its alarms run with no reader.
      if (i < USERS - 1) user.phone = await Phone.open(this.#stage, id);
      for (let device = 0; device < DEVICES; device++) {
        const ttlMs = 3_000 + 1_000 * device;
        const daemon = new UnluckyDaemon(this.#stage, id, ttlMs, this.faults);
        user.daemons.push(daemon);
        void daemon.run();
      }
    }
  }

  get actors(): string[] {
    return this.#users.map(({ id }) => `devices/${id}`);
  }

  get #daemons(): UnluckyDaemon[] {
    return this.#users.flatMap(({ daemons }) => daemons);
  }

  act(random: Random): string {
    const daemon = random.pick(this.#daemons);
    const who = daemon.deviceId.slice(0, 4);
    if (!daemon.isBeating) {
      daemon.restart(random);
      return `daemon ${who} restarts`;
    }
    const what = random.int(0, 3);
    if (what < 2) {
      const isPolite = what === 1;
      daemon.halt(isPolite);
      return `daemon ${who} ${isPolite ? "leaves" : "dies"}`;
    }
    daemon.skewMs += random.int(-6, 6) * HOUR_MS;
    return `clock of daemon ${who} is ${daemon.skewMs / HOUR_MS} h off`;
  }

  crashed(): void {
    for (const daemon of this.#daemons) daemon.crashed();
  }

  pause(): void {
    for (const daemon of this.#daemons) daemon.isPaused = true;
  }

  /** Every heartbeat that was answered, except keep-alives within the flush time of a crash. */
  checkKept(): Promise<string[]> {
    return this.#checkEach((daemon, answer, promised) => daemon.judgeKnown(answer, promised));
  }

  resume(): void {
    for (const daemon of this.#daemons) daemon.resume();
  }

  check(): Promise<string[]> {
    return this.#checkEach((daemon, answer, promised, phone) => {
      const wrong = daemon.judge(answer, promised);
      const shown = phone?.shown.get(daemon.deviceId);
      if (phone && answer && shown?.status !== answer.status) {
        wrong.push(`a phone shows ${shown?.status}, the server ${answer.status}`);
      }
      return wrong;
    });
  }

  /** Compares the server's answer on each daemon with what it had promised before the question. */
  #checkEach(
    judge: (
      daemon: UnluckyDaemon,
      answer: Heartbeat | undefined,
      promised: Promised,
      phone: Phone | undefined,
    ) => string[],
  ): Promise<string[]> {
    return attempt(async () => {
      const wrong: string[] = [];
      for (const { id, token, daemons, phone } of this.#users) {
        const promises = daemons.map(({ promised }) => promised);
        const devices = await readDevices(this.#stage, id, token);
        for (const [i, daemon] of daemons.entries()) {
          const answer = devices.find(({ device_id }) => device_id === daemon.deviceId);
          wrong.push(...judge(daemon, answer, promises[i] as Promised, phone));
        }
      }
      return wrong;
    });
  }

  figures(): Record<string, number> {
    const sent = this.#daemons.flatMap((daemon) => daemon.sent);
    return {
      daemons: this.#daemons.length,
      sent: sent.length,
      accepted: sent.filter(({ status }) => status === 204).length,
      unanswered: sent.filter(({ status }) => status === 0).length,
      "streams lost": this.#users.reduce((sum, { phone }) => sum + (phone?.losses ?? 0), 0),
    };
  }

  stop(): void {
    for (const daemon of this.#daemons) daemon.stop();
    for (const { phone } of this.#users) phone?.close();
  }
}
