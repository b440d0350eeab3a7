/**
 * Clients whose connections break all the time, each library with its own way of coming back: what they
 * lose, receive twice or in the wrong order, and whether they learn of it.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { PartySocket } from "partysocket";
import { io } from "socket.io-client";
import WebSocket from "ws";
import { VeraniClient } from "../../client/client.ts";
import { FaultProxy } from "../kit/proxy.ts";
import { PlainWebSocket } from "../kit/sockets.ts";
import { type Bound, less, type Result } from "./report.ts";
import { type BenchServer, startNode, startWorker } from "./server.ts";

const CLIENTS = 50;
const EVENTS_PER_S = 20;
/** A connection lives for so long, in ms. */
const CUT_AFTER_MS = [1_000, 5_000] as const;
/** Length of a round, in ms. */
const ROUND_MS = 24_000;
/** Time for the last clients to come back, in ms: the longest wait of a client is 30 s. */
const SETTLE_MS = 35_000;

/** What one client has received. Events are numbered by the client that speaks. */
class Listener {
  readonly #numbers: number[] = [];
  /** How much it had received when it learned that it may have missed something. */
  readonly #told = new Set<number>();
  received(n: number): void {
    this.#numbers.push(n);
  }

  told(): void {
    this.#told.add(this.#numbers.length);
  }

  /** @param last the number of the last event */
  figures(last: number) {
    const first = this.#numbers[0] ?? 0;
    const known = new Set(this.#numbers);
    let outOfOrder = 0;
    let untold = 0;
    let newest = first;
    for (const [i, n] of this.#numbers.entries()) {
      if (i === 0) continue;
      if (n < newest && n !== this.#numbers[i - 1]) outOfOrder += 1;
      if (n > newest + 1 && !this.#told.has(i)) untold += 1;
      newest = Math.max(newest, n);
    }
    return {
      lost: last - first + 1 - known.size,
      doubled: this.#numbers.length - known.size,
      outOfOrder,
      untold,
    };
  }
}

interface Side {
  start(): Promise<BenchServer>;
  /** Connects a listener. @returns ends it */
  listen(url: string, listener: Listener): () => void;
  /** Connects the one who speaks, over a line that is not cut. */
  speak(url: string): (data: object) => void;
}

const startOurs = () =>
  startWorker("test/bench/continuity.worker.ts", { ROOM: "Room", DURABLE_ROOM: "DurableRoom" });

function ours(query: string): Side {
  return {
    start: startOurs,
    listen(url, listener) {
      const target = `${url}/ws?${query}`;
      const client = new VeraniClient(target, { WebSocket: PlainWebSocket });
      client.on("said", ({ id }) => listener.received(Number(id)));
      client.onOpen(({ resumed, reason }) => {
        if (!resumed && reason) listener.told();
      });
      return () => client.close();
    },
    speak(url) {
      const client = new VeraniClient(`${url}/ws?${query}`, { WebSocket: PlainWebSocket });
      return (data) => client.emit("say", data);
    },
  };
}

/** A peer whose clients speak frames of JSON over partysocket, which comes back by itself. */
function party(entry: string, path: string): Side {
  const open = (url: string) =>
    new PartySocket({ host: url.replace("ws://", ""), basePath: path, WebSocket });
  return {
    start: () => startWorker(entry, { ROOM: "Room" }),
    listen(url, listener) {
      const socket = open(url);
      socket.addEventListener("message", ({ data }) =>
        listener.received(Number(JSON.parse(data).data.id)),
      );
      return () => socket.close();
    },
    speak(url) {
      const socket = open(url);
      return (data) => socket.send(JSON.stringify({ type: "say", data }));
    },
  };
}

const SIDES: Record<string, Side> = {
  Rollcall: ours("memory"),
  "Rollcall, durable": ours("durable"),
  "socket.io with recovery": {
    start: () => startNode(new URL("peers/recovery.ts", import.meta.url)),
    listen(url, listener) {
      const socket = io(url, { transports: ["websocket"], forceNew: true });
      let isFirst = true;
      socket.on("connect", () => {
        if (!isFirst && !socket.recovered) listener.told();
        isFirst = false;
      });
      socket.on("said", ({ id }) => listener.received(Number(id)));
      return () => socket.close();
    },
    speak(url) {
      const socket = io(url, { transports: ["websocket"], forceNew: true });
      return (data) => socket.emit("say", data);
    },
  },
  PartyServer: party("test/bench/peers/partyserver.worker.ts", "parties/room/bench"),
  "bare Durable Object": party("test/bench/peers/bare.worker.ts", "ws"),
};

async function play(side: Side, lengthMs: number) {
  const server = await side.start();
  let isCutting = true;
  const proxy = new FaultProxy(() => Number(new URL(server.url).port), {
    onConnect(link) {
      const [least, most] = CUT_AFTER_MS;
      setTimeout(() => isCutting && link.reset(), least + Math.random() * (most - least)).unref();
    },
  });
  await proxy.listen();
  const speak = side.speak(server.url);
  const listeners = Array.from({ length: CLIENTS }, () => new Listener());
  const ends = listeners.map((listener) => side.listen(proxy.wsUrl, listener));
  await sleep(5_000);
  const total = (lengthMs / 1000) * EVENTS_PER_S;
  const startedAtMs = performance.now();
  for (let n = 0; n < total; n++) {
    speak({ id: `${n}`, text: "x".repeat(50) });
    await sleep(Math.max(0, startedAtMs + ((n + 1) * 1000) / EVENTS_PER_S - performance.now()));
  }
  isCutting = false;
  await sleep(SETTLE_MS);
  // One more, so that a client that missed the last ones has a gap.
  speak({ id: `${total}`, text: "" });
  await sleep(1_000);
  for (const end of ends) end();
  const all = listeners.map((listener) => listener.figures(total));
  const sum = (name: keyof (typeof all)[number]) => all.reduce((n, one) => n + one[name], 0);
  return {
    lost: sum("lost"),
    doubled: sum("doubled"),
    outOfOrder: sum("outOfOrder"),
    untold: sum("untold"),
    connections: proxy.figures.connections,
  };
}

export default async function continuity(rounds: number): Promise<Result> {
  const lengthMs = ROUND_MS * rounds;
  const names = Object.keys(SIDES);
  const played = await Promise.all(names.map((name) => play(SIDES[name] as Side, lengthMs)));
  const figures = Object.fromEntries(names.map((name, i) => [name, played[i]]));
  const of = (key: keyof (typeof played)[number]) =>
    Object.fromEntries(names.map((name) => [name, [figures[name]?.[key] ?? Number.NaN]]));
  const bounds = names
    .filter((name) => name.startsWith("Rollcall"))
    .flatMap((name): Bound[] =>
      (["lost", "doubled", "outOfOrder", "untold"] as const).map((key) => ({
        what: `${key}: ${name}`,
        value: figures[name]?.[key] ?? Number.NaN,
        unit: "",
        atMost: 0,
      })),
    );
  return {
    title: "Broken connections",
    setup: `${CLIENTS} clients, ${EVENTS_PER_S} events a second for ${lengthMs / 1000} s, each connection cut by a proxy after ${CUT_AFTER_MS.map((ms) => ms / 1000).join(" to ")} s; all libraries at once, each with its own defaults. Untold: gaps between two events that the client was not told of.`,
    quantities: [
      less("events lost", "in all", 0, of("lost")),
      less("events received twice", "in all", 0, of("doubled")),
      less("events out of order", "in all", 0, of("outOfOrder")),
      less("untold gaps", "in all", 0, of("untold")),
      less("connections", "in all", 0, of("connections")),
    ],
    bounds,
  };
}
