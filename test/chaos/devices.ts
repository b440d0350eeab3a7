import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { EventSource } from "eventsource";
import type { Heartbeat } from "../../rooms/devices/contract.ts";
import { ANSWER_MS, type Cast, getJson, looked, type Stage } from "./cast.ts";
import type { Random } from "./random.ts";

const USERS = 3;
const DEVICES = 4;
const BEAT_MS = 700;
/** As the server is started with. */
export const FLUSH_MS = 1_500;
/** On top of the contract's second: these machines stall. */
const SLACK_MS = 2_000;
const HOUR_MS = 3_600_000;

interface Sent {
  beat: Heartbeat;
  sentAtMs: number;
  /** When the answer came, or the wait for it ended. */
  endedAtMs: number;
  /** Undefined while, and where, there is no answer. */
  status?: number;
}

/** A heartbeat by its place in `sent`, and when it was known to be the newest that was accepted. */
interface Promised {
  place: number;
  atMs: number;
}

/** One daemon: beats, stops, restarts, and has its clock set. */
class Daemon {
  readonly userId: string;
  readonly deviceId = randomUUID();
  readonly sent: Sent[] = [];
  beating = true;
  /** Says nothing for now. */
  held = false;
  /** What its clock is off by, in ms. */
  skewMs = 0;
  /** At least this place of `sent` has to be known to the server. */
  #known = -1;
  #restarts = 0;
  #seq = 0;
  #ttlMs: number;
  #latestSentMs = 0;
  #crashedAtMs = 0;
  #backAtMs = 0;
  readonly #stage: Stage;
  readonly #faults: string[];
  #stopped = false;

  constructor(stage: Stage, userId: string, ttlMs: number, faults: string[]) {
    this.#stage = stage;
    this.userId = userId;
    this.#ttlMs = ttlMs;
    this.#faults = faults;
  }

  async run(): Promise<void> {
    while (!this.#stopped) {
      if (this.beating && !this.held) await this.#post("online");
      await sleep(BEAT_MS);
    }
  }

  async #post(status: Heartbeat["status"]): Promise<void> {
    const sent_at_ms = Math.max(0, Date.now() + this.skewMs);
    this.#latestSentMs = Math.max(this.#latestSentMs, sent_at_ms);
    const beat: Heartbeat = {
      schema_version: 1,
      user_id: this.userId,
      device_id: this.deviceId,
      status,
      source: `chaos-${this.#restarts}`,
      sent_at_ms,
      seq: this.#seq++,
      ttl_ms: this.#ttlMs,
    };
    const entry: Sent = { beat, sentAtMs: Date.now(), endedAtMs: Number.POSITIVE_INFINITY };
    const place = this.sent.push(entry) - 1;
    try {
      const answer = await fetch(`${this.#stage.url}/api/v1/daemon/presence/heartbeat`, {
        method: "POST",
        headers: {
          Authorization: `Bearer ${this.#stage.ingestToken}`,
          "Content-Type": "application/json",
        },
        body: JSON.stringify(beat),
        signal: AbortSignal.timeout(ANSWER_MS),
      });
      await answer.arrayBuffer();
      entry.status = answer.status;
      // A crash while the answer was under way: it may have been given before.
      if (answer.status === 204 && entry.sentAtMs > this.#crashedAtMs) this.#known = place;
      if (answer.status === 409) {
        this.#faults.push(`a heartbeat that is newer than all before was refused: ${place}`);
      }
    } catch {
      // Lost on the way there or back.
    }
    entry.endedAtMs = Date.now();
  }

  /** Ends without a word; or says so. */
  halt(isPolite: boolean): void {
    this.beating = false;
    if (isPolite && !this.held) void this.#post("offline");
  }

  /** Starts anew: `seq` from 0, by a clock that is later than all it ever showed. */
  restart(random: Random): void {
    this.#restarts += 1;
    this.#seq = 0;
    this.skewMs = Math.max(0, this.#latestSentMs - Date.now() + 1_000);
    this.#ttlMs = random.int(3, 8) * 1_000;
    this.beating = true;
  }

  crashed(): void {
    this.held = true;
    this.#crashedAtMs = Date.now();
    this.#known = this.#certain();
  }

  back(): void {
    this.held = false;
    this.#backAtMs = Date.now();
  }

  /** The place of the newest heartbeat that a crash cannot take. */
  #certain(): number {
    const last = this.sent.at(this.#known);
    if (this.#known < 0 || !last) return -1;
    let place = this.#known;
    // Back to where its state began: that one was stored before its answer, as was a first one …
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

  /** What the server has to know if it is asked from now on. */
  get promised(): Promised {
    return { place: this.#known, atMs: Date.now() };
  }

  /** What does not fit what was accepted before the server was asked. */
  judgeKnown(told: Heartbeat | undefined, { place: known }: Promised): string[] {
    if (!told) return known >= 0 ? [`${this.#name} is not known at all`] : [];
    const place = this.sent.findIndex(
      ({ beat }) => beat.seq === told.seq && beat.source === told.source,
    );
    if (place === -1) return [`${this.#name} shows a heartbeat that nobody sent`];
    if (place >= known) return [];
    return [`${this.#name} shows heartbeat ${place}, though ${known} was accepted`];
  }

  judge(told: Heartbeat | undefined, promised: Promised): string[] {
    const wrong = this.judgeKnown(told, promised);
    if (!told) return wrong;
    const now = Date.now();
    const who = this.#name;
    const accepted = this.sent.findLast(({ status }) => status === 204);
    const latest = this.sent.at(-1);
    if (!accepted || !latest) return wrong;
    const isSureOnline =
      this.beating &&
      accepted === latest &&
      accepted.endedAtMs <= promised.atMs &&
      accepted.sentAtMs > this.#crashedAtMs &&
      now < accepted.sentAtMs + accepted.beat.ttl_ms;
    if (isSureOnline && told.status === "offline") wrong.push(`${who} beats but is offline`);

    // The last that the server can have heard of it, whether we know or not.
    const heardMs = Math.min(latest.endedAtMs, latest.sentAtMs + ANSWER_MS);
    const lostMs = this.#crashedAtMs >= latest.sentAtMs ? FLUSH_MS : 0;
    const offlineAtMs =
      Math.max(heardMs + latest.beat.ttl_ms + lostMs, this.#backAtMs) + 1_000 + SLACK_MS;
    const isSilent = !this.beating || this.held;
    if (isSilent && told.status === "online" && now > offlineAtMs) {
      wrong.push(`${who} is stuck online, ${now - offlineAtMs} ms after its time`);
    }
    return wrong;
  }

  stop(): void {
    this.#stopped = true;
  }
}

function stateOf(sent: Sent | undefined): string {
  const { source, status, ttl_ms } = sent?.beat ?? {};
  return `${source} ${status} ${ttl_ms}`;
}

/** A phone: what the stream told it, by device. */
class Phone {
  readonly shown = new Map<string, Heartbeat>();
  losses = 0;
  #source: EventSource;

  constructor(url: string) {
    const open = (): EventSource => {
      const source = new EventSource(url);
      source.onmessage = ({ data }) => {
        const told = JSON.parse(data) as Heartbeat;
        this.shown.set(told.device_id, told);
      };
      source.onerror = () => {
        this.losses += 1;
        // An answer other than 200, such as a proxy's 502, ends an EventSource for good.
        if (source.readyState !== source.CLOSED) return;
        setTimeout(() => {
          if (this.#source === source) this.#source = open();
        }, 1_000);
      };
      return source;
    };
    this.#source = open();
  }

  close(): void {
    this.#source.close();
  }
}

/** Daemons that beat for some users, and phones that watch. */
export class DeviceCast implements Cast {
  readonly name = "devices";
  actors: string[] = [];
  readonly faults: string[] = [];
  readonly #stage: Stage;
  readonly #daemons: Daemon[] = [];
  readonly #phones = new Map<string, Phone>();
  readonly #tokens = new Map<string, string>();

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  async start(): Promise<void> {
    for (let user = 0; user < USERS; user++) {
      const userId = randomUUID();
      const token = await this.#stage.watchToken(userId);
      this.#tokens.set(userId, token);
      this.actors.push(`devices/${userId}`);
      // The last user has no phone: its alarms ring with nobody there.
      if (user < USERS - 1) {
        const query = new URLSearchParams({ user_id: userId, token });
        const url = `${this.#stage.url}/api/v1/mobile/presence/stream?${query}`;
        this.#phones.set(userId, new Phone(url));
      }
      for (let i = 0; i < DEVICES; i++) {
        const daemon = new Daemon(this.#stage, userId, 3_000 + 1_000 * i, this.faults);
        this.#daemons.push(daemon);
        void daemon.run();
      }
    }
  }

  stir(random: Random): string {
    const daemon = random.pick(this.#daemons);
    const who = daemon.deviceId.slice(0, 4);
    if (!daemon.beating) {
      daemon.restart(random);
      return `daemon ${who} restarts`;
    }
    switch (random.int(0, 3)) {
      case 0:
        daemon.halt(false);
        return `daemon ${who} dies`;
      case 1:
        daemon.halt(true);
        return `daemon ${who} says goodbye`;
      default: {
        daemon.skewMs += random.int(-6, 6) * HOUR_MS;
        return `clock of daemon ${who} is ${daemon.skewMs / HOUR_MS} h off`;
      }
    }
  }

  crashed(): void {
    for (const daemon of this.#daemons) daemon.crashed();
  }

  rest(): void {
    for (const daemon of this.#daemons) daemon.held = true;
  }

  /** Every heartbeat that was answered, but after a crash for keep-alives within the flush time. */
  recall(): Promise<string[]> {
    return looked(async () => {
      const wrong: string[] = [];
      for (const [userId, token] of this.#tokens) {
        for (const { daemon, told, promised } of await this.#ask(userId, token)) {
          wrong.push(...daemon.judgeKnown(told, promised));
        }
      }
      return wrong;
    });
  }

  back(): void {
    for (const daemon of this.#daemons) daemon.back();
  }

  /** What the server tells of a user's daemons, and what it had promised before it was asked. */
  async #ask(
    userId: string,
    token: string,
  ): Promise<{ daemon: Daemon; told: Heartbeat | undefined; promised: Promised }[]> {
    const own = this.#daemons
      .filter((daemon) => daemon.userId === userId)
      .map((daemon) => ({ daemon, promised: daemon.promised }));
    const url = `${this.#stage.direct}/api/v1/mobile/presence?user_id=${userId}`;
    const bearer = { Authorization: `Bearer ${token}` };
    const { devices } = await getJson<{ devices: Heartbeat[] }>(url, bearer);
    return own.map(({ daemon, promised }) => {
      const told = devices.find(({ device_id }) => device_id === daemon.deviceId);
      return { daemon, told, promised };
    });
  }

  check(): Promise<string[]> {
    return looked(async () => {
      const wrong: string[] = [];
      for (const [userId, token] of this.#tokens) {
        const phone = this.#phones.get(userId);
        for (const { daemon, told, promised } of await this.#ask(userId, token)) {
          wrong.push(...daemon.judge(told, promised));
          const shown = phone?.shown.get(daemon.deviceId);
          if (phone && told && shown?.status !== told.status) {
            wrong.push(`a phone shows ${shown?.status}, the server says ${told.status}`);
          }
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
      unanswered: sent.filter(({ status }) => status === undefined).length,
      "streams lost": [...this.#phones.values()].reduce((sum, { losses }) => sum + losses, 0),
    };
  }

  stop(): void {
    for (const daemon of this.#daemons) daemon.stop();
    for (const phone of this.#phones.values()) phone.close();
  }
}
