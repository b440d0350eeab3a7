import { setTimeout as sleep } from "node:timers/promises";
import { type PublishAnswer, type Publisher, publish } from "../../client/fanout.ts";
import { Subscriber } from "../kit/fanout.ts";
import type { Random } from "../kit/random.ts";
import { type Stage, signUser } from "../kit/stage.ts";
import { attempt, type Cast } from "./cast.ts";

const USERS = ["fan-1", "fan-2"];
const SOCKETS = 3;
const PUBLISH_EVERY_MS = 120;
/** How many of the last answers are requested again after a crash. */
const RECALLED = 10;
const ACK_MS = 1_000;
/** A socket may be gone before its client, or the server, knows … */
const UNSURE_MS = 4_000;
/** … and only the keep-alives of a stream notice that its reader is gone. */
const STREAM_UNSURE_MS = 20_000;
/** An envelope on its way has arrived after this time, also at a reader that stalls for 4 s. */
const ARRIVAL_MS = 6_000;

interface Letter {
  user: string;
  sentAtMs: number;
  endedAtMs: number;
  answer?: PublishAnswer<string>;
}

/** A subscriber, what it received, and when it had no connection. */
interface Reader {
  name: string;
  subscriber: Subscriber<{ id: string }>;
  /** How often each letter came. */
  received: Map<string, number>;
  lostAtMs: number[];
  isHere: boolean;
}

/** Subscribers of some users, and a backend that publishes with idempotency keys. */
export class FanoutCast implements Cast {
  readonly name = "fan-out";
  readonly actors = USERS.map((user) => `fanout/${user}`);
  readonly faults: string[] = [];
  readonly #stage: Stage;
  readonly #readers: Reader[] = [];
  readonly #letters = new Map<string, Letter>();
  readonly #unjudged = new Set<string>();
  /** When upgrades were cut: the server counts such connections until it writes to them. */
  #abandonedAtMs: number[] = [];
  #isPaused = false;
  #isStopped = false;
  #publisher: Publisher = { url: "", token: "" };
  #direct: Publisher = { url: "", token: "" };
  #count = 0;

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  async start(): Promise<void> {
    const { url, direct, jwtSecret } = this.#stage;
    const token = await signUser(jwtSecret, "backend");
    this.#publisher = { url, token };
    this.#direct = { url: direct, token };
    for (const user of USERS) {
      for (let i = 0; i < SOCKETS; i++) await this.#open(user, `${user} socket ${i}`, "socket");
      await this.#open(user, `${user} stream`, "stream");
    }
    void this.#publishOn();
  }

  async #open(userId: string, name: string, by: "socket" | "stream"): Promise<void> {
    const received = new Map<string, number>();
    const lostAtMs: number[] = [];
    const subscriber = await Subscriber.open<{ id: string }>(this.#stage, {
      userId,
      by,
      filter: { type: "letter" },
      onEnvelope: ({ payload }) => {
        if (payload) received.set(payload.id, (received.get(payload.id) ?? 0) + 1);
        return name;
      },
      onLost: () => lostAtMs.push(Date.now()),
    });
    this.#readers.push({ name, subscriber, received, lostAtMs, isHere: true });
  }

  async #publishOn(): Promise<void> {
    while (!this.#isStopped) {
      const user = USERS[this.#count % USERS.length] as string;
      if (!this.#isPaused) void this.#publish(this.#publisher, user, `letter-${this.#count++}`);
      await sleep(PUBLISH_EVERY_MS);
    }
  }

  async #publish(publisher: Publisher, user: string, id: string): Promise<Letter> {
    const letter: Letter = { user, sentAtMs: Date.now(), endedAtMs: Number.POSITIVE_INFINITY };
    this.#letters.set(id, letter);
    this.#unjudged.add(id);
    try {
      letter.answer = await this.#send(publisher, user, id);
    } catch {
      // Without an answer nothing was promised.
    }
    letter.endedAtMs = Date.now();
    return letter;
  }

  #send(publisher: Publisher, userId: string, id: string): Promise<PublishAnswer<string>> {
    const message = { userId, type: "letter", payload: { id }, ackTimeoutMs: ACK_MS };
    return publish<string>(publisher, { ...message, idempotencyKey: id });
  }

  act(random: Random): string {
    const reader = random.pick(this.#readers.filter(({ subscriber }) => !subscriber.isStream));
    reader.isHere = !reader.isHere;
    if (reader.isHere) reader.subscriber.reconnect();
    else reader.subscriber.close();
    reader.lostAtMs.push(Date.now());
    return `${reader.name} ${reader.isHere ? "joins" : "leaves"}`;
  }

  abandoned(request: string): void {
    if (/^GET (\/\?|\/fanout\/)/.test(request)) this.#abandonedAtMs.push(Date.now());
  }

  crashed(): void {
    this.#isPaused = true;
    this.#abandonedAtMs = [];
    for (const { lostAtMs } of this.#readers) lostAtMs.push(Date.now());
  }

  pause(): void {
    this.#isPaused = true;
  }

  /** The last answers, under their keys. A reader that has such a letter must not receive it again. */
  checkKept(): Promise<string[]> {
    return attempt(async () => {
      const answered = [...this.#letters].filter(([, { answer }]) => answer !== undefined);
      const wrong = await Promise.all(
        answered.slice(-RECALLED).map(async ([id, { user, answer }]) => {
          const again = await this.#send(this.#direct, user, id);
          const [now, then] = [JSON.stringify(again), JSON.stringify(answer)];
          return now === then ? [] : [`${id} was answered with ${then}, and is now with ${now}`];
        }),
      );
      return wrong.flat();
    });
  }

  /** As a page does that comes to the foreground: the client's own waits grow to half a minute. */
  resume(): void {
    this.#isPaused = false;
    for (const { subscriber, isHere } of this.#readers) {
      if (isHere && !subscriber.isConnected) subscriber.reconnect();
    }
  }

  check(): Promise<string[]> {
    return attempt(async () => {
      this.#judge();
      const wrong: string[] = [];
      await Promise.all(
        USERS.map(async (user) => {
          const id = `quiet-${this.#count++}`;
          const { answer } = await this.#publish(this.#direct, user, id);
          const targets = this.#readersOf(user).filter(({ isHere }) => isHere);
          if (!answer) wrong.push(`a publish to ${user} was refused`);
          else if (answer.clientCount !== targets.length) {
            wrong.push(`${targets.length} readers of ${user}, ${answer.clientCount} were reached`);
          } else {
            const again = await this.#send(this.#direct, user, id);
            if (JSON.stringify(again) !== JSON.stringify(answer)) {
              this.faults.push(`${id} with the same key was answered differently`);
            }
            await sleep(200);
            for (const { name, received } of targets) {
              if (!received.has(id)) wrong.push(`${name} did not receive ${id}`);
            }
          }
        }),
      );
      return wrong;
    });
  }

  #readersOf(user: string): Reader[] {
    return this.#readers.filter(({ subscriber }) => subscriber.userId === user);
  }

  /** Compares old letters with what their answers promised. */
  #judge(): void {
    for (const id of this.#unjudged) {
      const letter = this.#letters.get(id);
      if (!letter || Date.now() < letter.endedAtMs + ARRIVAL_MS) continue;
      this.#unjudged.delete(id);
      const readers = this.#readersOf(letter.user);
      for (const { name, received } of readers) {
        const times = received.get(id) ?? 0;
        if (times > 1) this.faults.push(`${name} received ${id} ${times} times`);
      }
      if (!letter.answer) continue;
      const { clientCount, results } = letter.answer;
      for (const name of results) {
        if (!readers.some((reader) => reader.name === name && reader.received.has(id))) {
          this.faults.push(`the answer to ${id} has an ack of ${name}, who never received it`);
        }
      }
      const reached = readers.filter(({ received }) => received.has(id)).length;
      const to = letter.endedAtMs + UNSURE_MS;
      let unsure = this.#abandonedAtMs.filter((at) => at <= to).length;
      for (const { subscriber, lostAtMs } of readers) {
        const from = letter.sentAtMs - (subscriber.isStream ? STREAM_UNSURE_MS : UNSURE_MS);
        unsure += lostAtMs.filter((at) => at >= from && at <= to).length;
      }
      if (reached < clientCount - unsure) {
        this.faults.push(
          `${id} was delivered to ${clientCount}, but ${reached} received it and ${unsure} were cut off`,
        );
      }
    }
  }

  figures(): Record<string, number> {
    const letters = [...this.#letters.values()];
    return {
      readers: this.#readers.length,
      publishes: letters.length,
      answered: letters.filter(({ answer }) => answer).length,
      deliveries: this.#readers.reduce((sum, { received }) => sum + received.size, 0),
      losses: this.#readers.reduce((sum, { lostAtMs }) => sum + lostAtMs.length, 0),
    };
  }

  stop(): void {
    this.#isStopped = true;
    for (const { subscriber } of this.#readers) subscriber.close();
  }
}
