/** A TCP proxy between clients and server, with the faults of bad networks. */
import { connect, createServer, type Server, type Socket } from "node:net";
import { untilEnd } from "./processes.ts";
import type { Random } from "./random.ts";

/** A cut waits for the next chunk for this time, then it happens without one. */
const CUT_WITHIN_MS = 700;

/** A client's connection through the proxy. */
export class Link {
  readonly client: Socket;
  readonly upstream: Socket;
  /** Method and target of the first request. */
  request = "";
  /** Whether any of the answer came. */
  answered = false;
  /** Bytes of the next chunk that still get through. */
  #cutAfter: number | undefined;
  /** Bytes that one side may still send. */
  #budget: { from: Socket; bytes: number; onSpent: () => void } | undefined;
  #stalled = false;
  #holed = false;

  constructor(client: Socket, port: number) {
    this.client = client;
    this.upstream = connect({ port, host: "127.0.0.1", noDelay: true });
    client.setNoDelay(true);
    this.#pump(client, this.upstream);
    this.#pump(this.upstream, client);
  }

  #pump(from: Socket, to: Socket): void {
    from.on("data", (chunk: Buffer) => {
      if (from === this.upstream) this.answered = true;
      else if (this.request === "") {
        this.request = /^[A-Z]+ \S*/.exec(chunk.toString("latin1"))?.[0] ?? "-";
      }
      if (this.#holed) return;
      if (this.#budget?.from === from && this.#spend(chunk, to)) return;
      if (this.#cutAfter !== undefined) {
        to.write(chunk.subarray(0, Math.min(this.#cutAfter, chunk.length - 1)), () => this.reset());
        this.#holed = true;
      } else if (!to.write(chunk)) {
        from.pause();
        to.once("drain", () => {
          if (!this.#stalled) from.resume();
        });
      }
    });
    from.on("error", () => {});
    from.on("end", () => {
      if (!this.#holed) to.end();
    });
    from.on("close", () => {
      if (!this.#holed) to.destroy();
    });
  }

  /** Lets `bytes` of the next chunk through, whichever side it comes from, then resets both. */
  cut(bytes: number): void {
    this.#cutAfter = bytes;
    setTimeout(() => this.reset(), CUT_WITHIN_MS).unref();
  }

  /**
   * Lets exactly `bytes` more of what `side` sends through, then resets both, before the next one.
   *
   * @returns when that has happened
   */
  cutAfter(side: "client" | "server", bytes: number): Promise<void> {
    return new Promise((onSpent) => {
      const from = side === "client" ? this.client : this.upstream;
      this.#budget = { from, bytes, onSpent };
    });
  }

  /** @returns whether the chunk ended the connection */
  #spend(chunk: Buffer, to: Socket): boolean {
    const budget = this.#budget;
    if (!budget) return false;
    budget.bytes -= chunk.length;
    if (budget.bytes >= 0) return false;
    this.#holed = true;
    to.write(chunk.subarray(0, chunk.length + budget.bytes), () => this.reset());
    budget.onSpent();
    return true;
  }

  /** The client reads nothing for `ms`: what the server sends piles up. */
  stall(ms: number): void {
    this.#stalled = true;
    this.upstream.pause();
    setTimeout(() => {
      this.#stalled = false;
      this.upstream.resume();
    }, ms).unref();
  }

  /** Nothing gets through any more, and neither side notices. */
  hole(): void {
    this.#holed = true;
  }

  reset(): void {
    this.#holed = true;
    for (const socket of [this.client, this.upstream])
      if (!socket.destroyed) socket.resetAndDestroy();
  }
}

export interface ProxyEvents {
  onConnect?(link: Link): void;
  /** A client disconnected before any byte of an answer arrived. */
  onUnanswered?(request: string): void;
}

export class FaultProxy {
  readonly #links = new Set<Link>();
  readonly #server: Server;
  readonly figures = { connections: 0, cuts: 0, stalls: 0, holes: 0, unanswered: 0 };
  #isDown = false;
  port = 0;

  /** @param target returns the port that the next connection goes to */
  constructor(target: () => number, { onConnect, onUnanswered }: ProxyEvents = {}) {
    this.#server = createServer((client) => {
      if (this.#isDown) {
        client.resetAndDestroy();
        return;
      }
      const link = new Link(client, target());
      onConnect?.(link);
      this.figures.connections += 1;
      this.#links.add(link);
      link.upstream.once("close", () => this.#links.delete(link));
      client.once("close", () => {
        if (!link.answered && !link.upstream.connecting && !link.upstream.errored) {
          this.figures.unanswered += 1;
          onUnanswered?.(link.request);
        }
      });
    });
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  get wsUrl(): string {
    return `ws://127.0.0.1:${this.port}`;
  }

  /** Connections at present; none while the server is down. */
  get size(): number {
    return this.#links.size;
  }

  async listen(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    untilEnd(this);
    const address = this.#server.address();
    if (address === null || typeof address === "string") throw new Error("no port to be had");
    this.port = address.port;
  }

  /** Cuts about a `share` of all connections in the middle of what they carry next. */
  cut(random: Random, share: number): number {
    const chosen = this.#choose(random, share);
    for (const link of chosen) link.cut(random.int(0, 40));
    this.figures.cuts += chosen.length;
    return chosen.length;
  }

  stall(random: Random, share: number, ms: number): number {
    const chosen = this.#choose(random, share);
    for (const link of chosen) link.stall(ms);
    this.figures.stalls += chosen.length;
    return chosen.length;
  }

  /** Makes one connection whose request begins like this a black hole. */
  hole(random: Random, request: string): number {
    const fitting = [...this.#links].filter((link) => link.request.startsWith(request));
    if (fitting.length === 0) return 0;
    random.pick(fitting).hole();
    this.figures.holes += 1;
    return 1;
  }

  #choose(random: Random, share: number): Link[] {
    return [...this.#links].filter(() => random.chance(share));
  }

  /** Resets all connections, and every new one until `up`. */
  down(): void {
    this.#isDown = true;
    this.resetAll();
  }

  up(): void {
    this.#isDown = false;
  }

  resetAll(): void {
    for (const link of this.#links) link.reset();
  }

  async stop(): Promise<void> {
    this.#server.close();
    this.resetAll();
  }
}
