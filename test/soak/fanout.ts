import { EventSource } from "eventsource";
import { SignJWT } from "jose";
import {
  type Envelope,
  FanoutClient,
  type PublishAnswer,
  PublishError,
  publish,
  publishBatch,
} from "../../client/fanout.ts";
import {
  type Cast,
  type Census,
  Delivery,
  Faults,
  getJson,
  Life,
  PlainWebSocket,
  SETTLE_MS,
  type Stage,
  sumUp,
} from "./cast.ts";
import { Latencies } from "./latency.ts";

const READERS_PER_USER = 5;
/** Every n-th listens by a stream. */
const STREAM_EVERY = 8;
const TOPICS = ["north", "east", "south", "west"];
const STAY_MS = 8 * 60_000;
const AWAY_MS = 8_000;
/** Publishes of a request of their own, and messages in batches, per second and reader. */
const SINGLES_PER_SECOND = 0.05;
const BATCHED_PER_SECOND = 0.04;
const BATCH = 10;
/** After which a subscription that was sent has been taken, in ms. */
const SUBSCRIBED_MS = 5_000;
/** After which a stream whose reader went without a word is missed, in ms. */
const MISSED_MS = 20_000;

interface Payload {
  /** Counts what is published to the user. */
  n: number;
  topic: string;
}

interface Reader {
  name: string;
  user: User;
  /** What it subscribed to; undefined: all. */
  topic: string | undefined;
  settledAtMs: number;
  /** Set when it went; a client only: nobody waits for a stream. */
  leftAtMs: number | undefined;
  answers: boolean;
  lastN: number;
  close(): void;
}

interface User {
  id: string;
  /** Those who are here, and those who may still be counted. */
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
  readonly #stage: Stage;
  readonly #life: Life;
  readonly #users: User[];
  readonly #slots: number;
  readonly #key: Uint8Array;
  #publisher = { url: "", token: "" };
  #comings = 0;
  #published = 0;
  #received = 0;
  #acked = 0;

  constructor(stage: Stage, clients: number) {
    this.#stage = stage;
    this.#life = new Life(stage.seed, 2);
    this.#slots = clients;
    this.#key = new TextEncoder().encode(stage.jwtSecret);
    this.#users = Array.from({ length: Math.ceil(clients / READERS_PER_USER) }, (_, u) => ({
      id: `reader-${u}`,
      readers: new Set(),
      letters: new Map(),
      published: 0,
      busy: false,
    }));
  }

  async start(): Promise<void> {
    this.#publisher = { url: this.#stage.url, token: await this.#token("backend") };
    for (let slot = 0; slot < this.#slots; slot++) {
      const user = this.#users[slot % this.#users.length] as User;
      let reader: Reader | undefined;
      void this.#life.comeAndGo(
        this.#stage.rampMs,
        STAY_MS,
        AWAY_MS,
        async () => {
          reader = await this.#come(user, slot);
        },
        () => reader && this.#go(reader),
      );
    }
    void this.#life.keepDoing(this.#slots * SINGLES_PER_SECOND, () => void this.#publishOne());
    const batches = (this.#slots * BATCHED_PER_SECOND) / BATCH;
    void this.#life.keepDoing(batches, () => void this.#publishMany());
  }

  #token(userId: string): Promise<string> {
    return new SignJWT({ userId })
      .setProtectedHeader({ alg: "HS256" })
      .setExpirationTime("2h")
      .sign(this.#key);
  }

  async #come(user: User, slot: number): Promise<Reader> {
    const token = await this.#token(user.id);
    const isStream = slot % STREAM_EVERY === 0;
    // A fifth hears everything.
    const topic = [...TOPICS, undefined][this.#life.random.int(0, TOPICS.length)];
    const filter = { type: "news", ...(topic !== undefined && { topic }) };
    const reader: Reader = {
      name: `${user.id}/${this.#comings++}`,
      user,
      topic,
      settledAtMs: Number.POSITIVE_INFINITY,
      leftAtMs: undefined,
      answers: !isStream,
      lastN: 0,
      close() {},
    };
    user.readers.add(reader);
    const opened = () => {
      reader.settledAtMs = performance.now() + SUBSCRIBED_MS;
    };
    const lost = (why: string) => {
      if (reader.leftAtMs !== undefined) return;
      this.faults.add(`a ${isStream ? "stream" : "socket"} was lost: ${why}`);
      reader.settledAtMs = Number.POSITIVE_INFINITY;
      this.#excuse(reader);
    };
    if (isStream) {
      const query = new URLSearchParams({ ...filter, token });
      const source = new EventSource(`${this.#stage.url}/fanout/stream?${query}`);
      source.onopen = opened;
      source.onmessage = ({ data }) => this.#heard(reader, JSON.parse(data));
      source.onerror = ({ message }) => lost(String(message));
      reader.close = () => source.close();
    } else {
      const client = new FanoutClient<{ news: Payload }>(this.#stage.wsUrl, {
        token,
        WebSocket: PlainWebSocket,
        onStateChange: (state) => state === "connected" && opened(),
        onClose: ({ code, reason }) => lost(`${code} ${reason}`),
      });
      client.subscribe({ ...filter, type: "news" }, (envelope) => {
        this.#heard(reader, envelope);
        return reader.name;
      });
      reader.close = () => client.disconnect();
    }
    return reader;
  }

  #go(reader: Reader): void {
    reader.leftAtMs = performance.now();
    this.#excuse(reader);
    reader.close();
  }

  #excuse(reader: Reader): void {
    for (const letter of reader.user.letters.values()) letter.excuse(reader);
  }

  #heard(reader: Reader, { payload, userId }: Envelope<Payload>): void {
    if (reader.leftAtMs !== undefined || !payload) return;
    this.#received += 1;
    const { n, topic } = payload;
    const { user } = reader;
    const isMeant = reader.topic === undefined || reader.topic === topic;
    if (userId !== user.id || !isMeant) this.faults.add("an envelope came that nobody asked for");
    if (n <= reader.lastN) this.faults.add(`envelope ${n} came after ${reader.lastN}`);
    reader.lastN = n;
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

  /** What the publisher was told, against who was there. */
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
    for (const { answers, name } of sure) {
      if (answers && !results.includes(name)) this.faults.add("an ack is missing in the answer");
    }
  }

  sweep(): void {
    const now = performance.now();
    for (const user of this.#users) {
      for (const [n, letter] of user.letters) {
        if (letter.isLate) this.faults.add(`envelope ${n} never came to ${letter.missing}`);
        if (letter.missing === 0 || letter.isLate) {
          // Kept for a while: it might come twice.
          if (now - letter.sentAtMs > SETTLE_MS) user.letters.delete(n);
        }
      }
      for (const reader of user.readers) {
        if (reader.leftAtMs === undefined) continue;
        if (now - reader.leftAtMs > (reader.answers ? SUBSCRIBED_MS : MISSED_MS)) {
          user.readers.delete(reader);
        }
      }
    }
  }

  async look(): Promise<void> {}

  hold(): void {
    this.#life.stop();
  }

  async census(): Promise<Census> {
    const told = await sumUp(this.#users, async ({ id }) => {
      const url = `${this.#stage.url}/debug/actors/fanout/${id}`;
      return (await getJson<{ sessions: number }>(url)).sessions;
    });
    return { live: this.#live, told };
  }

  get #live(): number {
    const readers = this.#users.flatMap(({ readers }) => [...readers]);
    return readers.filter(({ leftAtMs }) => leftAtMs === undefined).length;
  }

  leave(): void {
    for (const { readers } of this.#users) {
      for (const reader of readers) if (reader.leftAtMs === undefined) this.#go(reader);
    }
  }

  figures(): Record<string, number> {
    return {
      live: this.#live,
      users: this.#users.length,
      comings: this.#comings,
      published: this.#published,
      received: this.#received,
      acked: this.#acked,
    };
  }
}

function isSettled({ settledAtMs, leftAtMs }: Reader): boolean {
  return leftAtMs === undefined && settledAtMs < performance.now();
}
