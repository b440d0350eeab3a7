/** A consumer of webhooks over HTTP that fails in every way, and notes what it must never receive. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { Webhook } from "standardwebhooks";
import type { Change } from "../../rooms/presence/contract.ts";
import type { Random } from "../kit/random.ts";

/** What the consumer does with a request. After `break` and `late` it has the changes, and the server cannot know. */
export const ANSWERS = [
  "ok",
  "slow",
  "error",
  "hang",
  "late",
  "break",
  "redirect",
  "endless",
] as const;
export type Answer = (typeof ANSWERS)[number];

/** Those that end with a 2xx in time. */
const ACKED: ReadonlySet<Answer> = new Set(["ok", "slow", "endless"]);
/** Those after which the changes count as received. */
const APPLIED: ReadonlySet<Answer> = new Set([...ACKED, "late", "break"]);
/** Above the 10 s that the server waits for an answer, in ms. */
const LATE_MS = 11_000;
/** The server must have ended a request by then, in ms: 10 s, and a stall of the machine. */
const HELD_MOST_MS = 15_000;
/** And an answer without end by then, in ms. */
const ENDLESS_MOST_MS = 8_000;
const PORT_ATTEMPTS = 20;

/**
 * Answers in random order. After two failures in a row one succeeds: the server's waits double with each
 * failure, and would soon be longer than the run.
 */
export class Deck {
  readonly #random: Random | undefined;
  #first: readonly Answer[];
  #rest: Answer[] = [];
  #failures = 0;

  /**
   * @param random without it, each answer is a success
   * @param first the answers to the first requests
   */
  constructor(random?: Random, first: readonly Answer[] = []) {
    this.#random = random;
    this.#first = first;
  }

  draw(): Answer {
    const [first, ...later] = this.#first;
    this.#first = later;
    if (first || !this.#random) return first ?? "ok";
    if (this.#rest.length === 0) this.#rest = [...ANSWERS];
    const good = this.#rest.filter((answer) => ACKED.has(answer));
    const answer = this.#failures < 2 ? this.#random.pick(this.#rest) : (good[0] ?? "ok");
    this.#rest = this.#rest.filter((other) => other !== answer);
    this.#failures = ACKED.has(answer) ? 0 : this.#failures + 1;
    return answer;
  }

  /** The next answer succeeds. */
  relent(): void {
    this.#first = [];
    this.#failures = 2;
  }
}

/** Applies the changes of a room, each once and in order, and notes what cannot be. */
export class Follower {
  readonly users = new Set<string>();
  /** All that were applied. */
  readonly changes: Change[] = [];
  readonly faults: string[] = [];
  epoch = "";
  offset = 0;
  readonly #name: string;

  constructor(name: string) {
    this.#name = name;
  }

  /** Begins anew, with what a snapshot has. */
  restart(userIds: Iterable<string>, cursor: string): void {
    const [epoch = "", offset] = cursor.split(":");
    this.users.clear();
    for (const userId of userIds) this.users.add(userId);
    this.epoch = epoch;
    this.offset = Number(offset);
  }

  get cursor(): string {
    return `${this.epoch}:${this.offset}`;
  }

  #fault(what: string): void {
    this.faults.push(`${this.#name}: ${what}`);
  }

  /** @returns whether it was new */
  apply(change: Change): boolean {
    const { epoch, offset, type, userId = "" } = change;
    if (this.epoch === "") this.epoch = epoch;
    if (epoch !== this.epoch) {
      this.#fault(`the epoch ${epoch} after ${this.cursor}, though nothing was lost`);
      this.restart([], `${epoch}:${offset - 1}`);
    }
    if (offset <= this.offset) return false;
    if (offset !== this.offset + 1) this.#fault(`the offset ${offset} after ${this.cursor}`);
    this.offset = offset;
    this.changes.push(change);
    const { size } = this.users;
    const at = `${type} ${userId} at ${this.cursor}`;
    if (type === "user.joined" && this.users.has(userId)) this.#fault(`${at}: is there already`);
    if (type === "user.left" && !this.users.has(userId)) this.#fault(`${at}: is not there`);
    if (type.startsWith("room.") && size > 0) this.#fault(`${at}: ${size} are there`);
    if (type === "user.joined") this.users.add(userId);
    if (type === "user.left") this.users.delete(userId);
    return true;
  }

  /** Who was there once the change with this offset had been applied. */
  usersAt(offset: number): string[] {
    const users = new Set<string>();
    for (const { type, userId = "", offset: at } of this.changes) {
      if (at > offset) break;
      if (type === "user.joined") users.add(userId);
      if (type === "user.left") users.delete(userId);
    }
    return [...users].sort();
  }
}

/** The requests for a room. */
interface Line {
  follower: Follower;
  deck: Deck;
  batch?: { id: string; body: string; isAcked: boolean };
  /** The ids of batches that others have followed. */
  done: Set<string>;
  underWay: number;
}

export interface ConsumerOptions {
  /** `whsec_…` */
  secret: string;
  /** Of a room's requests; default: all succeed. */
  deckOf?: (room: string) => Deck;
  /** Since when the server has run, in ms: a change of before may come late. */
  upSinceMs: () => number;
}

export class Consumer {
  readonly name: string;
  readonly faults: string[] = [];
  /** How often it gave each answer. */
  readonly answered = new Map<Answer, number>();
  /** Requests that came again. */
  repeats = 0;
  /** From a change to its first arrival, in ms, where the server ran all the time. */
  readonly lagsMs: number[] = [];
  readonly #options: ConsumerOptions;
  readonly #webhook: Webhook;
  readonly #lines = new Map<string, Line>();
  #server: Server | undefined;
  #port = 0;
  #isWell = false;
  #wasDown = false;

  constructor(name: string, options: ConsumerOptions) {
    this.name = name;
    this.#options = options;
    this.#webhook = new Webhook(options.secret);
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}/${this.name}`;
  }

  followerOf(room: string): Follower {
    return this.#lineOf(room).follower;
  }

  /** All that must not happen, so far. */
  allFaults(): string[] {
    const lines = [...this.#lines.values()];
    return [...this.faults, ...lines.flatMap(({ follower }) => follower.faults)];
  }

  /** Listens, after the first time on the same port. The next request for each room succeeds. */
  async up(): Promise<void> {
    for (const { deck } of this.#lines.values()) deck.relent();
    for (let attempt = 1; this.#server === undefined; attempt++) {
      const server = createServer((request, response) => {
        this.#receive(request, response).catch((error) => this.#fault(String(error)));
      });
      // A connection that the server keeps for later would end in the middle of a request.
      server.keepAliveTimeout = 60_000;
      try {
        await new Promise<void>((resolve, reject) => {
          server.once("error", reject).listen(this.#port, "127.0.0.1", resolve);
        });
        this.#port = (server.address() as AddressInfo).port;
        this.#server = server;
      } catch (error) {
        if (attempt === PORT_ATTEMPTS) throw error;
        await sleep(250);
      }
    }
  }

  /** Nothing listens on its port any more. */
  async down(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    this.#wasDown = true;
    if (!server) return;
    const closed = new Promise((resolve) => server.close(resolve));
    server.closeAllConnections();
    await closed;
  }

  /** From now on all requests succeed. */
  recover(): void {
    this.#isWell = true;
  }

  #fault(what: string): void {
    this.faults.push(`${this.name}: ${what}`);
  }

  #lineOf(room: string): Line {
    let line = this.#lines.get(room);
    if (!line) {
      const { deckOf } = this.#options;
      const deck = deckOf?.(room) ?? new Deck();
      if (this.#wasDown) deck.relent();
      const follower = new Follower(`${this.name}, ${room}`);
      line = { follower, deck, done: new Set(), underWay: 0 };
      this.#lines.set(room, line);
    }
    return line;
  }

  async #receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
    response.on("error", () => {});
    const text = await textOf(request);
    // The server was killed in the middle of it.
    if (text === undefined) return;
    const arrivedAtMs = Date.now();
    if (request.url !== `/${this.name}`) {
      this.#fault(`${request.method} ${request.url}: a redirect was followed`);
      response.writeHead(204).end();
      return;
    }
    const changes = this.#verify(request, text);
    if (!changes) {
      response.writeHead(401).end();
      return;
    }
    const [first] = changes;
    if (!first || changes.some(({ room }) => room !== first.room)) {
      this.#fault(`a batch of several rooms, or of none: ${text}`);
      return;
    }
    const line = this.#lineOf(first.room);
    const answer = this.#isWell ? "ok" : line.deck.draw();
    this.answered.set(answer, (this.answered.get(answer) ?? 0) + 1);
    const batch = this.#note(line, String(request.headers["webhook-id"]), text);
    if (APPLIED.has(answer)) {
      for (const change of changes) if (line.follower.apply(change)) this.#measure(change);
    }

    line.underWay += 1;
    if (line.underWay > 1) this.#fault(`two requests for ${first.room} at a time`);
    let isOver = false;
    const over = (): void => {
      if (!isOver) line.underWay -= 1;
      isOver = true;
    };
    response.on("close", () => {
      over();
      const heldMs = Date.now() - arrivedAtMs;
      const mostMs = answer === "endless" ? ENDLESS_MOST_MS : HELD_MOST_MS;
      if (heldMs > mostMs) this.#fault(`${answer}: the request ended after ${heldMs} ms only`);
    });
    await this.#answer(answer, response, () => {
      over();
      batch.isAcked = ACKED.has(answer);
    });
  }

  #verify(request: IncomingMessage, text: string): Change[] | undefined {
    const header = (name: string) => String(request.headers[name]);
    try {
      return this.#webhook.verify(text, {
        "webhook-id": header("webhook-id"),
        "webhook-timestamp": header("webhook-timestamp"),
        "webhook-signature": header("webhook-signature"),
      }) as Change[];
    } catch (error) {
      this.#fault(`a signature that does not hold: ${error}`);
      return undefined;
    }
  }

  /** A batch is repeated as it was until it succeeds, and only then another one follows. */
  #note(line: Line, id: string, body: string): NonNullable<Line["batch"]> {
    const { batch, done, follower } = line;
    if (batch?.id === id) {
      this.repeats += 1;
      if (batch.body !== body) this.#fault(`${id} came again with other bytes`);
      return batch;
    }
    if (done.has(id)) this.#fault(`${id} came again after a later batch`);
    if (batch && !batch.isAcked) this.#fault(`${id} came before ${batch.id} had succeeded`);
    const [first] = JSON.parse(body) as Change[];
    if (first?.offset !== follower.offset + 1) {
      this.#fault(`${id} begins with ${first?.offset} after ${follower.cursor}`);
    }
    if (batch) done.add(batch.id);
    line.batch = { id, body, isAcked: false };
    return line.batch;
  }

  #measure({ at }: Change): void {
    if (at >= this.#options.upSinceMs()) this.lagsMs.push(Date.now() - at);
  }

  /** @param onAnswer to be called before the answer: the server may then send the next request */
  async #answer(answer: Answer, response: ServerResponse, onAnswer: () => void): Promise<void> {
    if (answer === "slow") await sleep(1_500);
    if (answer === "hang") return;
    if (answer === "late") await sleep(LATE_MS);
    if (response.destroyed) return;
    onAnswer();
    if (answer === "break") response.destroy();
    else if (answer === "error") response.writeHead(500).end("Not now");
    else if (answer === "redirect") response.writeHead(302, { Location: "/moved" }).end();
    else if (answer === "endless") {
      response.writeHead(200);
      while (!response.destroyed) {
        response.write("more ".repeat(1_000));
        await sleep(5);
      }
    } else response.writeHead(204).end();
  }
}

/** @returns undefined where it breaks off */
async function textOf(request: IncomingMessage): Promise<string | undefined> {
  try {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    return request.complete ? Buffer.concat(chunks).toString() : undefined;
  } catch {
    return undefined;
  }
}
