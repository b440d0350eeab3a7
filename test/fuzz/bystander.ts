/** Honest users who go on as usual during the attack, and must neither lose nor miss anything. */
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { PresenceEvents, VeraniClient } from "../../client/client.ts";
import { publish } from "../../client/fanout.ts";
import { joinMoods, type MoodSession } from "../../client/moods.ts";
import { PeopleClient } from "../../client/people.ts";
import { STATUSES } from "../../rooms/presence/roster.ts";
import { Daemon, Phone, postBeat } from "../kit/devices.ts";
import { Subscriber } from "../kit/fanout.ts";
import { post } from "../kit/http.ts";
import { Faults, Sequence } from "../kit/ledger.ts";
import { joinRoom } from "../kit/presence.ts";
import { type Stage, signUser } from "../kit/stage.ts";
import { Stream } from "../kit/streams.ts";
import { SHARED_ROOM } from "./target.ts";

const EVERY_MS = 500;
/** Nothing that an honest user does takes longer, in ms. */
const PATIENCE_MS = 10_000;
/** Longer than the run waits for ghosts, in which nobody beats. */
const TTL_MS = 600_000;

/** What the backend publishes to the room. */
const EVENT = "news";
const BACKEND = "backend";
type Reader = "ann" | "bob" | "the backend";

/**
 * Two users in a room with the enemy, which a backend publishes to, reads and watches. Another one has
 * subscribers, a daemon, a phone and a mood.
 */
export class Bystander {
  readonly faults = new Faults();
  readonly userId = randomUUID();
  slowestMs = 0;
  rounds = 0;
  readonly #stage: Stage;
  readonly #daemon = new Daemon(this.userId, TTL_MS);
  readonly #received = { socket: new Sequence(), stream: new Sequence(), phone: new Sequence() };
  /** Events of the room, by who receives them. */
  readonly #events = { ann: new Sequence(), bob: new Sequence(), "the backend": new Sequence() };
  readonly #subscribers: Subscriber<{ n: number }>[] = [];
  readonly #devices: VeraniClient<PresenceEvents>[] = [];
  #phone: Phone | undefined;
  #mood: MoodSession | undefined;
  #stream: Stream | undefined;
  #people: PeopleClient | undefined;
  #isRunning = true;

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  async start(): Promise<void> {
    for (const user of ["ann", "bob"] as const) {
      const device = await joinRoom(this.#stage, SHARED_ROOM, user);
      device.onClose(({ code }) => this.#lost(`${user}'s socket`, code));
      device.on(EVENT as never, (data: unknown) => this.#takeEvent(user, data));
      await device.waitForConnection();
      this.#devices.push(device);
    }
    await this.#startBackend();
    for (const by of ["socket", "stream"] as const) {
      await new Promise<void>((resolve, reject) => {
        const options = {
          userId: this.userId,
          filter: { type: "news" },
          by,
          onOpen: resolve,
          onEnvelope: ({ payload }: { payload?: { n: number } }) => {
            const wrong = this.#received[by].take(payload?.n ?? -1);
            if (wrong) this.faults.add(`${by}: envelope ${wrong}`);
            return payload?.n;
          },
          onLost: (why: string) => this.#lost(`the subscriber's ${by}`, why),
        };
        Subscriber.open<{ n: number }>(this.#stage, options).then(
          (subscriber) => this.#subscribers.push(subscriber),
          reject,
        );
      });
    }
    this.#phone = await Phone.open(this.#stage, this.userId, {
      onBeat: ({ seq }) => {
        const wrong = this.#received.phone.take(seq);
        if (wrong) this.faults.add(`phone: heartbeat ${wrong}`);
      },
      onLost: (why) => this.#lost("the phone", why),
    });
    this.#mood = joinMoods({
      url: this.#stage.url,
      onState: ({ count }) => count > 0 || this.faults.add("nobody has a mood, though one does"),
    });
  }

  /** Others may use the same name: only the publisher counts, whom the server has verified. */
  #takeEvent(by: Reader, data: unknown): void {
    const { n, publisher } = data as { n: number; publisher?: unknown };
    if (publisher !== BACKEND) return;
    const wrong = this.#events[by].take(n);
    if (wrong) this.faults.add(`${by}: event ${wrong}`);
  }

  async #startBackend(): Promise<void> {
    const token = await signUser(this.#stage.jwtSecret, BACKEND);
    const { url, wsUrl } = this.#stage;
    await new Promise<void>((resolve) => {
      this.#stream = new Stream(`${url}/api/v1/rooms/${SHARED_ROOM}/stream?token=${token}`, {
        onOpen: resolve,
        onData: (text) => {
          const { event, data } = JSON.parse(text);
          if (event === EVENT) this.#takeEvent("the backend", data);
        },
        onLost: (why) => this.#lost("the room's stream", why),
      });
    });
    this.#people = new PeopleClient(wsUrl, {
      token,
      onClose: ({ code }) => this.#lost("the backend's watch", code),
    });
    await new Promise<void>((resolve) => {
      this.#people?.watch(["ann", "bob"], (userId, online) => {
        if (!online) this.#lost(userId, "shown as offline");
        if (this.#people?.online.size === 2) resolve();
      });
    });
  }

  #lost(what: string, why: unknown): void {
    if (this.#isRunning) this.faults.add(`${what} was lost: ${why}`);
  }

  async run(until: () => boolean): Promise<void> {
    const token = await signUser(this.#stage.jwtSecret, BACKEND);
    const publisher = { url: this.#stage.url, token };
    for (let n = 1; !until(); n++) {
      const startedMs = performance.now();
      await Promise.all([
        this.#publish(publisher, n),
        this.#emit(token, n),
        this.#beat(),
        this.#changeStatus(n),
      ]);
      const tookMs = performance.now() - startedMs;
      this.slowestMs = Math.max(this.slowestMs, tookMs);
      if (tookMs > PATIENCE_MS) this.faults.add(`round ${n} took ${Math.round(tookMs)} ms`);
      this.rounds = n;
      await sleep(EVERY_MS);
    }
  }

  async #publish(publisher: { url: string; token: string }, n: number): Promise<void> {
    try {
      const message = { userId: this.userId, type: "news", payload: { n } };
      const { clientCount, results } = await publish<number>(publisher, message);
      if (clientCount !== 2) this.faults.add(`publish ${n} reached ${clientCount} of 2`);
      if (results.join() !== String(n)) this.faults.add(`publish ${n} was acked with ${results}`);
    } catch (error) {
      this.faults.add(`publish ${n} failed: ${error}`);
    }
  }

  /** Publishes to the room. */
  async #emit(token: string, n: number): Promise<void> {
    const url = `${this.#stage.url}/api/v1/rooms/${SHARED_ROOM}/events`;
    const { status, text } = await post(url, { event: EVENT, data: { n } }, { token });
    if (status !== 200) this.faults.add(`event ${n} was answered ${status} ${text}`);
    else if (JSON.parse(text).recipients < 3)
      this.faults.add(`event ${n} reached not all: ${text}`);
  }

  async #beat(): Promise<void> {
    const status = await postBeat(this.#stage, this.#daemon.next());
    if (status !== 204) this.faults.add(`heartbeat ${this.#daemon.seq} was answered ${status}`);
  }

  /** One user changes status; the other one's client must show it. */
  async #changeStatus(n: number): Promise<void> {
    const [ann, bob] = this.#devices;
    const status = STATUSES[n % STATUSES.length] as (typeof STATUSES)[number];
    ann?.emit("presence.status", { status });
    const isShown = await this.#within(() => bob?.roster.get("ann")?.status === status);
    if (!isShown) this.faults.add(`${bob?.roster.get("ann")?.status} is shown, not ${status}`);
  }

  async #within(holds: () => boolean): Promise<boolean> {
    for (let waitedMs = 0; !holds(); waitedMs += 20) {
      if (waitedMs > PATIENCE_MS) return false;
      await sleep(20);
    }
    return true;
  }

  /** What must have arrived by now. */
  async finish(): Promise<void> {
    const { socket, stream, phone } = this.#received;
    const all = { socket, stream };
    for (const [name, { count }] of Object.entries(all)) {
      const isComplete = await this.#within(
        () => all[name as keyof typeof all].count >= this.rounds,
      );
      if (!isComplete) this.faults.add(`the ${name} received ${count} of ${this.rounds} envelopes`);
    }
    for (const [name, { count }] of Object.entries(this.#events)) {
      const sequence = this.#events[name as Reader];
      if (!(await this.#within(() => sequence.count >= this.rounds))) {
        this.faults.add(`${name} received ${count} of ${this.rounds} events`);
      }
    }
    if (!(await this.#within(() => phone.last === this.#daemon.seq))) {
      this.faults.add(`the phone shows heartbeat ${phone.last} of ${this.#daemon.seq}`);
    }
    const shown = [...(this.#phone?.shown.values() ?? [])].map(({ status }) => status);
    if (shown.join() !== "online") this.faults.add(`the phone shows devices that are ${shown}`);
  }

  /** The users that each client's roster shows. */
  get rosters(): string[] {
    return this.#devices.map((device) => [...device.roster.keys()].sort().join());
  }

  stop(): void {
    this.#isRunning = false;
    for (const device of this.#devices) device.close();
    for (const subscriber of this.#subscribers) subscriber.close();
    this.#stream?.close();
    this.#people?.disconnect();
    this.#phone?.close();
    this.#mood?.leave();
  }
}
