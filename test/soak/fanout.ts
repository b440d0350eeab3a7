import {
  type Envelope,
  type PublishAnswer,
  PublishError,
  type Publisher,
  publish,
  publishBatch,
} from "../../client/fanout.ts";
import { Subscriber } from "../kit/fanout.ts";
import { Latencies } from "../kit/latency.ts";
import { Delivery, Faults, SETTLE_MS, Sequence } from "../kit/ledger.ts";
import { Life } from "../kit/life.ts";
import { PlainWebSocket } from "../kit/sockets.ts";
import { inspectActor, signUser } from "../kit/stage.ts";
import { AWAY_MS, type Cast, type Census, type SoakStage, STAY_MS, sumOf } from "./cast.ts";

const READERS_PER_USER = 5;
/** Every n-th reads a stream. */
const STREAM_EVERY = 8;
const TOPICS = ["north", "east", "south", "west"];
/** Publishes of a request of their own, and messages in batches, per second and reader. */
const SINGLES_PER_SECOND = 0.05;
const BATCHED_PER_SECOND = 0.04;
const BATCH = 10;
/** The server has a subscription this long after it was sent, in ms. */
const SUBSCRIBED_MS = 5_000;
/** The server misses the reader of a stream after this time, in ms. */
const MISSED_MS = 20_000;

interface Payload {
  /** Numbers the publishes to the user. */
  n: number;
  topic: string;
}

interface Reader {
  name: string;
  user: User;
  /** What it subscribed to; undefined: all. */
  topic: string | undefined;
  settledAtMs: number;
  leftAtMs: number | undefined;
  received: Sequence;
  subscriber?: Subscriber<Payload>;
}

interface User {
  id: string;
  /** Readers that are here, and those that may still be counted. */
  readers: Set<Reader>;
  letters: Map<number, Delivery<Reader>>;
  published: number;
  /** One request at a time, so that there is an order. */
  busy: boolean;
}

/** Subscribers of some users, by socket and by stream, and backends that publish to them. */
export class FanoutCast implements Cast {
  readonly name = "fan-out";
  readonly faults = new Faults();
  readonly latencies = { publish: new Latencies() };
  readonly #stage: SoakStage;
  readonly #life: Life;
  readonly #users: User[];
  readonly #slots: number;
  #publisher: Publisher = { url: "", token: "" };
  #joins = 0;
  #published = 0;
  #received = 0;
  #acked = 0;

  constructor(stage: SoakStage, clients: number) {
    this.#stage = stage;
    this.#life = new Life(stage.seed, 2);
    this.#slots = clients;
    this.#users = Array.from({ length: Math.ceil(clients / READERS_PER_USER) }, (_, u) => ({
      id: `reader-${u}`,
      readers: new Set(),
      letters: new Map(),
      published: 0,
      busy: false,
    }));
  }

  async start(): Promise<void> {
    const { url, jwtSecret } = this.#stage;
    this.#publisher = { url, token: await signUser(jwtSecret, "backend") };
    for (let slot = 0; slot < this.#slots; slot++) {
      const user = this.#users[slot % this.#users.length] as User;
      let reader: Reader | undefined;
      void this.#life.joinAndLeave(
        [this.#stage.rampMs, STAY_MS, AWAY_MS],
        async () => {
          reader = await this.#join(user, slot);
        },
        () => reader && this.#leave(reader),
      );
    }
    void this.#life.repeat(this.#slots * SINGLES_PER_SECOND, () => void this.#publishOne());
    const batches = (this.#slots * BATCHED_PER_SECOND) / BATCH;
    void this.#life.repeat(batches, () => void this.#publishMany());
  }

  async #join(user: User, slot: number): Promise<Reader> {
    // A fifth subscribes to all topics.
    const topic = [...TOPICS, undefined][this.#life.random.int(0, TOPICS.length)];
    const by = slot % STREAM_EVERY === 0 ? "stream" : "socket";
    const reader: Reader = {
      name: `${user.id}/${this.#joins++}`,
      user,
      topic,
      settledAtMs: Number.POSITIVE_INFINITY,
      leftAtMs: undefined,
      received: new Sequence(),
    };
    user.readers.add(reader);
    reader.subscriber = await Subscriber.open<Payload>(this.#stage, {
      userId: user.id,
      filter: { type: "news", ...(topic !== undefined && { topic }) },
      by,
      WebSocket: PlainWebSocket,
      onOpen: () => {
        reader.settledAtMs = performance.now() + SUBSCRIBED_MS;
      },
      onEnvelope: (envelope) => {
        this.#receive(reader, envelope);
        return reader.name;
      },
      onLost: (why) => {
        if (reader.leftAtMs !== undefined) return;
        this.faults.add(`a ${by} was lost: ${why}`);
        reader.settledAtMs = Number.POSITIVE_INFINITY;
        this.#excuse(reader);
      },
    });
    return reader;
  }

  #leave(reader: Reader): void {
    reader.leftAtMs = performance.now();
    this.#excuse(reader);
    reader.subscriber?.close();
  }

  #excuse(reader: Reader): void {
    for (const letter of reader.user.letters.values()) letter.excuse(reader);
  }

  #receive(reader: Reader, { payload, userId }: Envelope<Payload>): void {
    if (reader.leftAtMs !== undefined || !payload) return;
    this.#received += 1;
    const { n, topic } = payload;
    const { user } = reader;
    const isWanted = reader.topic === undefined || reader.topic === topic;
    if (userId !== user.id || !isWanted) this.faults.add("an envelope came without a subscription");
    const wrong = reader.received.take(n);
    if (wrong) this.faults.add(`envelope ${wrong}`);
    const letter = user.letters.get(n);
    if (letter?.reached(reader)) this.latencies.publish.add(performance.now() - letter.sentAtMs);
  }

  /** Begins a message to `user`. */
  #write(user: User): { message: { userId: string; type: string; payload: Payload }; n: number } {
    const n = ++user.published;
    this.#published += 1;
    const topic = this.#life.random.pick(TOPICS);
    user.letters.set(n, new Delivery(this.#matching(user, topic).filter(isSettled)));
    return { message: { userId: user.id, type: "news", payload: { n, topic } }, n };
  }

  #matching(user: User, topic: string): Reader[] {
    return [...user.readers].filter(
      (reader) => reader.topic === undefined || reader.topic === topic,
    );
  }

  async #publishOne(): Promise<void> {
    const user = this.#life.random.pick(this.#users);
    if (user.busy) return;
    user.busy = true;
    const { message, n } = this.#write(user);
    const isAwaited = this.#life.random.chance(0.8);
    const isKeyed = this.#life.random.chance(0.5);
    try {
      const answer = await publish<string>(this.#publisher, {
        ...message,
        ...(!isAwaited && { ackTimeoutMs: 0 }),
        ...(isKeyed && { idempotencyKey: `${this.#stage.seed}-${n}` }),
      });
      this.#judge(user, n, message.payload.topic, answer, isAwaited);
    } catch (error) {
      this.faults.add(`a publish failed: ${error}`);
    }
    user.busy = false;
  }

  async #publishMany(): Promise<void> {
    const free = this.#users.filter(({ busy }) => !busy);
    if (free.length === 0) return;
    // Some users get several of one batch.
    const chosen = Array.from({ length: BATCH }, () => this.#life.random.pick(free));
    for (const user of chosen) user.busy = true;
    const written = chosen.map((user) => ({ user, ...this.#write(user) }));
    try {
      const messages = written.map(({ message }) => message);
      const answers = await publishBatch<string>(this.#publisher, messages);
      for (const [i, { user, n, message }] of written.entries()) {
        const answer = answers[i];
        if (!answer || answer instanceof PublishError) {
          this.faults.add(`a message of a batch failed: ${answer?.message}`);
        } else this.#judge(user, n, message.payload.topic, answer, true);
      }
    } catch (error) {
      this.faults.add(`a batch failed: ${error}`);
    }
    for (const user of chosen) user.busy = false;
  }

  /** The answer to the publisher, against who was there. */
  #judge(
    user: User,
    n: number,
    topic: string,
    { clientCount, results }: PublishAnswer<string>,
    isAwaited: boolean,
  ): void {
    const sure = [...(user.letters.get(n)?.receivers ?? [])];
    const most = this.#matching(user, topic).length;
    if (clientCount < sure.length || clientCount > most) {
      this.faults.add(`${clientCount} were reached, ${sure.length} to ${most} are there`);
    }
    if (!isAwaited) return;
    this.#acked += results.length;
    if (new Set(results).size < results.length) this.faults.add("an ack was counted twice");
    for (const { subscriber, name } of sure) {
      if (!subscriber?.isStream && !results.includes(name))
        this.faults.add("an ack is missing in the answer");
    }
  }

  sweep(): void {
    const now = performance.now();
    for (const user of this.#users) {
      for (const [n, letter] of user.letters) {
        if (letter.isLate) this.faults.add(`envelope ${n} never reached ${letter.missing}`);
        if (letter.missing === 0 || letter.isLate) {
          // Kept for a while: it might come twice.
          if (now - letter.sentAtMs > SETTLE_MS) user.letters.delete(n);
        }
      }
      for (const reader of user.readers) {
        if (reader.leftAtMs === undefined) continue;
        if (now - reader.leftAtMs > (reader.subscriber?.isStream ? MISSED_MS : SUBSCRIBED_MS)) {
          user.readers.delete(reader);
        }
      }
    }
  }

  async check(): Promise<void> {}

  hold(): void {
    this.#life.stop();
  }

  async census(): Promise<Census> {
    const counted = await sumOf(this.#users, async ({ id }) => {
      return (await inspectActor(this.#stage, `fanout/${id}`)).sessions;
    });
    return { live: this.#live, counted };
  }

  get #live(): number {
    const readers = this.#users.flatMap(({ readers }) => [...readers]);
    return readers.filter(({ leftAtMs }) => leftAtMs === undefined).length;
  }

  leave(): void {
    for (const { readers } of this.#users) {
      for (const reader of readers) if (reader.leftAtMs === undefined) this.#leave(reader);
    }
  }

  figures(): Record<string, number> {
    return {
      live: this.#live,
      users: this.#users.length,
      joins: this.#joins,
      published: this.#published,
      received: this.#received,
      acked: this.#acked,
    };
  }
}

function isSettled({ settledAtMs, leftAtMs }: Reader): boolean {
  return leftAtMs === undefined && settledAtMs < performance.now();
}
