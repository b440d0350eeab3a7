import { setTimeout as sleep } from "node:timers/promises";
import { EventSource } from "eventsource";
import { FanoutClient, type PublishAnswer, publish } from "../../client/fanout.ts";
import { type Cast, looked, type Stage } from "./cast.ts";
import type { Random } from "./random.ts";

const USERS = ["fan-1", "fan-2"];
const CLIENTS = 3;
const PUBLISH_EVERY_MS = 120;
/** How many of the last answers are asked for again after a crash. */
const RECALLED = 10;
const ACK_MS = 1_000;
/** A socket may be gone before its client, or the server, knows … */
const UNSURE_MS = 4_000;
/** … and a stream's reader is missed by its keep-alives only. */
const STREAM_UNSURE_MS = 20_000;
/** After which an envelope that was on its way has come, to a reader that stalls for 4 s too. */
const ARRIVAL_MS = 6_000;

interface Letter {
  user: string;
  sentAtMs: number;
  endedAtMs: number;
  answer?: PublishAnswer<string>;
}

/** A subscriber, by socket or by stream: what it got, and when it had no connection. */
class Reader {
  readonly name: string;
  readonly user: string;
  /** How often each letter came. */
  readonly got = new Map<string, number>();
  readonly lostAtMs: number[] = [];
  wanted = true;

  constructor(name: string, user: string) {
    this.name = name;
    this.user = user;
  }

  take(id: string): string {
    this.got.set(id, (this.got.get(id) ?? 0) + 1);
    return this.name;
  }
}

/** Subscribers of some users, and a backend that publishes with idempotency keys. */
export class FanoutCast implements Cast {
  readonly name = "fan-out";
  readonly actors = USERS.map((user) => `fanout/${user}`);
  readonly faults: string[] = [];
  readonly #stage: Stage;
  readonly #readers: Reader[] = [];
  readonly #clients = new Map<Reader, FanoutClient>();
  readonly #streams = new Map<Reader, EventSource>();
  readonly #letters = new Map<string, Letter>();
  #unjudged = new Set<string>();
  /** When connections went in the middle of their upgrade: the server counts them until it writes. */
  #untoldAtMs: number[] = [];
  #held = false;
  #publisher = { url: "", token: "" };
  #direct = { url: "", token: "" };
  #stopped = false;
  #count = 0;

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  async start(): Promise<void> {
    const token = await this.#stage.sign("backend");
    this.#publisher = { url: this.#stage.url, token };
    this.#direct = { url: this.#stage.direct, token };
    for (const user of USERS) {
      const userToken = await this.#stage.sign(user);
      for (let i = 0; i < CLIENTS; i++) {
        const reader = new Reader(`${user} client ${i}`, user);
        const client = new FanoutClient(this.#stage.wsUrl, {
          token: userToken,
          onClose: () => reader.lostAtMs.push(Date.now()),
        });
        client.subscribe({ type: "letter" }, ({ payload }) => reader.take(payload.id));
        this.#readers.push(reader);
        this.#clients.set(reader, client);
      }
      const reader = new Reader(`${user} stream`, user);
      this.#readers.push(reader);
      this.#openStream(reader, userToken);
    }
    void this.#publishOn();
  }

  #openStream(reader: Reader, token: string): void {
    const query = new URLSearchParams({ type: "letter", token });
    const source = new EventSource(`${this.#stage.url}/fanout/stream?${query}`);
    this.#streams.set(reader, source);
    source.onmessage = ({ data }) => reader.take(JSON.parse(data).payload.id);
    source.onerror = () => {
      reader.lostAtMs.push(Date.now());
      if (source.readyState !== source.CLOSED || this.#stopped) return;
      setTimeout(() => this.#openStream(reader, token), 1_000);
    };
  }

  async #publishOn(): Promise<void> {
    while (!this.#stopped) {
      const user = USERS[this.#count % USERS.length] as string;
      if (!this.#held) void this.#publish(this.#publisher, user, `letter-${this.#count++}`);
      await sleep(PUBLISH_EVERY_MS);
    }
  }

  async #publish(
    publisher: { url: string; token: string },
    user: string,
    id: string,
  ): Promise<Letter> {
    const letter: Letter = { user, sentAtMs: Date.now(), endedAtMs: Number.POSITIVE_INFINITY };
    this.#letters.set(id, letter);
    this.#unjudged.add(id);
    try {
      letter.answer = await this.#send(publisher, user, id);
    } catch {
      // Nothing was promised.
    }
    letter.endedAtMs = Date.now();
    return letter;
  }

  #send(
    publisher: { url: string; token: string },
    userId: string,
    id: string,
  ): Promise<PublishAnswer<string>> {
    const message = { userId, type: "letter", payload: { id }, ackTimeoutMs: ACK_MS };
    return publish<string>(publisher, { ...message, idempotencyKey: id });
  }

  stir(random: Random): string {
    const reader = random.pick([...this.#clients.keys()]);
    const client = this.#clients.get(reader);
    reader.wanted = !reader.wanted;
    if (reader.wanted) client?.reconnect();
    else client?.disconnect();
    reader.lostAtMs.push(Date.now());
    return `${reader.name} ${reader.wanted ? "comes" : "goes"}`;
  }

  lostUntold(request: string): void {
    if (/^GET (\/\?|\/fanout\/)/.test(request)) this.#untoldAtMs.push(Date.now());
  }

  crashed(): void {
    this.#held = true;
    this.#untoldAtMs = [];
    for (const reader of this.#readers) reader.lostAtMs.push(Date.now());
  }

  rest(): void {
    this.#held = true;
  }

  /** The last answers, under their keys. Whoever got such a letter must not get it again. */
  recall(): Promise<string[]> {
    return looked(async () => {
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
  back(): void {
    this.#held = false;
    for (const [reader, client] of this.#clients) {
      if (reader.wanted && client.state !== "connected") client.reconnect();
    }
  }

  check(): Promise<string[]> {
    return looked(async () => {
      this.#judge();
      const wrong: string[] = [];
      await Promise.all(
        USERS.map(async (user) => {
          const id = `quiet-${this.#count++}`;
          const { answer } = await this.#publish(this.#direct, user, id);
          const meant = this.#readers.filter((reader) => reader.user === user && reader.wanted);
          if (!answer) wrong.push(`a publish to ${user} was refused`);
          else if (answer.clientCount !== meant.length) {
            wrong.push(`${meant.length} readers of ${user}, ${answer.clientCount} were reached`);
          } else {
            const again = await this.#send(this.#direct, user, id);
            if (JSON.stringify(again) !== JSON.stringify(answer)) {
              this.faults.push(`${id} with the same key was answered differently`);
            }
            await sleep(200);
            for (const reader of meant) {
              if (!reader.got.has(id)) wrong.push(`${reader.name} did not get ${id}`);
            }
          }
        }),
      );
      return wrong;
    });
  }

  /** What was promised for letters whose time is over. */
  #judge(): void {
    for (const id of this.#unjudged) {
      const letter = this.#letters.get(id);
      if (!letter || Date.now() < letter.endedAtMs + ARRIVAL_MS) continue;
      this.#unjudged.delete(id);
      const readers = this.#readers.filter(({ user }) => user === letter.user);
      for (const { name, got } of readers) {
        const times = got.get(id) ?? 0;
        if (times > 1) this.faults.push(`${name} got ${id} ${times} times`);
      }
      if (!letter.answer) continue;
      const { clientCount, results } = letter.answer;
      for (const name of results) {
        if (!readers.some((reader) => reader.name === name && reader.got.has(id))) {
          this.faults.push(`${id} is said to be acked by ${name}, who never got it`);
        }
      }
      const reached = readers.filter(({ got }) => got.has(id)).length;
      const to = letter.endedAtMs + UNSURE_MS;
      let unsure = 0;
      for (const reader of readers) {
        const from = letter.sentAtMs - (this.#clients.has(reader) ? UNSURE_MS : STREAM_UNSURE_MS);
        unsure += reader.lostAtMs.filter((at) => at >= from && at <= to).length;
      }
      const untold = this.#untoldAtMs.filter((at) => at <= to).length;
      if (reached < clientCount - unsure - untold) {
        this.faults.push(
          `${id} was delivered to ${clientCount}, but ${reached} got it and ${unsure + untold} were cut off`,
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
      deliveries: this.#readers.reduce((sum, { got }) => sum + got.size, 0),
      losses: this.#readers.reduce((sum, { lostAtMs }) => sum + lostAtMs.length, 0),
    };
  }

  stop(): void {
    this.#stopped = true;
    for (const client of this.#clients.values()) client.disconnect();
    for (const source of this.#streams.values()) source.close();
  }
}
