/**
 * One user with 100 sockets of 500 filters each: what finding the subscribers of a publish costs,
 * alone and as part of the whole way from the request to the sockets; and whether envelopes in a row
 * arrive in order.
 */
import type { WebSocket } from "ws";
import { FilterIndex, type FilterKey, parseFilter } from "../../rooms/fanout/filters.ts";
import { cpuMs } from "../kit/processes.ts";
import { openSocket } from "../kit/sockets.ts";
import { signUser } from "../kit/stage.ts";
import { less, median, OURS, pick, type Result } from "./report.ts";
import { startWorker } from "./server.ts";

const SOCKETS = 100;
const FILTERS = 500;
const PER_FRAME = 50;
const IN_A_ROW = 100;
const PUBLISHES = 200;
/** CPU that one publish, and the matching in it, may cost, in ms. */
const BOUND_MS = 5;
const SECRET = "bench-secret-bench-secret-bench-secret";
const USER = "bench";

type Fields = Record<string, string>;

/** What 100 sockets may ask for, and a payload of type `t`. */
const CASES: Record<string, { filter(socket: number, i: number): Fields; payload: Fields }> = {
  "each socket its own": {
    filter: (socket, i) => ({ type: "t", lang: "en", quest: `${socket}-${i}` }),
    payload: { lang: "en", quest: "7-7" },
  },
  "all sockets the same": {
    filter: (_, i) => ({ type: "t", lang: "en", quest: `${i}` }),
    payload: { lang: "en", quest: "7" },
  },
  "50 000 keys": {
    filter: (socket, i) => ({ type: "t", [`k${socket}-${i}`]: "v" }),
    payload: { "k7-7": "v", other: "w" },
  },
};

function key(filter: Fields): FilterKey {
  return parseFilter(filter) as FilterKey;
}

/** CPU of one match in ms, by index and by a scan of all filters. */
function matchAlone(name: string): { name: string; indexMs: number; scanMs: number } {
  const { filter, payload } = CASES[name] as (typeof CASES)[string];
  const index = new FilterIndex<number>();
  const all: { socket: number; filter: Fields }[] = [];
  for (let socket = 0; socket < SOCKETS; socket++) {
    for (let i = 0; i < FILTERS; i++) {
      const one = filter(socket, i);
      index.add(key(one), socket);
      all.push({ socket, filter: one });
    }
  }
  const scan = () => {
    const found = new Set<number>();
    for (const { socket, filter } of all) {
      const matches = Object.entries(filter).every(([field, wanted]) =>
        field === "type" ? wanted === "t" : payload[field] === wanted,
      );
      if (matches) found.add(socket);
    }
    return found;
  };
  if (scan().size !== index.match("t", payload).size) throw new Error(`${name}: index and scan`);
  return {
    name,
    indexMs: cpuOf(() => index.match("t", payload), 5_000),
    scanMs: cpuOf(scan, 20),
  };
}

function cpuOf(task: () => unknown, times: number): number {
  const before = process.cpuUsage();
  for (let i = 0; i < times; i++) task();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000 / times;
}

interface Subscriber {
  socket: WebSocket;
  /** The numbers of the envelopes that arrived. */
  received: number[];
}

async function connect(url: string, filters: readonly Fields[]): Promise<Subscriber> {
  const received: number[] = [];
  const subscribed = Promise.withResolvers<void>();
  const socket = await openSocket(url, "none", (data) => {
    const text = String(data);
    if (text === "pong") return subscribed.resolve();
    // An envelope of an earlier measurement has no number.
    const n: unknown = JSON.parse(text).payload?.n;
    if (typeof n === "number") received.push(n);
  });
  for (let i = 0; i < filters.length; i += PER_FRAME) {
    socket.send(JSON.stringify({ type: "subscribe", filters: filters.slice(i, i + PER_FRAME) }));
  }
  socket.send("PING");
  await subscribed.promise;
  return { socket, received };
}

export default async function publish(rounds: number): Promise<Result> {
  const alone = Object.keys(CASES).map((name) => ({
    name,
    rounds: Array.from({ length: rounds }, () => matchAlone(name)),
  }));
  const bindings = { ENVIRONMENT: "production", JWT_SECRET: SECRET };
  const server = await startWorker("src/server/worker.ts", { FANOUT: "FanoutRoom" }, bindings);
  const clients: Subscriber[] = [];
  const token = await signUser(SECRET, USER);
  const post = async (path: string, body: object): Promise<{ clientCount: number }> => {
    const response = await fetch(server.url.replace("ws", "http") + path, {
      method: "POST",
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
    return (await response.json()) as { clientCount: number };
  };

  const began = cpuMs(server.pid);
  for (let socket = 0; socket < SOCKETS; socket++) {
    const own = Array.from({ length: FILTERS - 1 }, (_, i) => ({
      type: "t",
      lang: "en",
      quest: `${socket}-${i}`,
    }));
    clients.push(await connect(`${server.url}/?token=${token}`, [...own, { type: "all" }]));
  }
  const setUpMs = cpuMs(server.pid) - began;

  const one = { userId: USER, type: "t", payload: { lang: "en", quest: "7-7" }, ackTimeoutMs: 0 };
  const nobody = { userId: "nobody", type: "t", payload: one.payload, ackTimeoutMs: 0 };
  const cost = async (body: object, expected: number): Promise<number> => {
    const before = cpuMs(server.pid);
    for (let i = 0; i < PUBLISHES; i++) {
      const { clientCount } = await post("/publish", body);
      if (clientCount !== expected) throw new Error(`${clientCount} instead of ${expected}`);
    }
    return (cpuMs(server.pid) - before) / PUBLISHES;
  };
  await cost(one, 1);
  const costs: { none: number; one: number }[] = [];
  for (let i = 0; i < rounds; i++) {
    costs.push({ none: await cost(nobody, 0), one: await cost(one, 1) });
  }

  for (const { received } of clients) received.length = 0;
  const messages = Array.from({ length: IN_A_ROW }, (_, n) => ({
    userId: USER,
    type: "all",
    payload: { n },
    ackTimeoutMs: 0,
  }));
  const before = cpuMs(server.pid);
  const sentAt = performance.now();
  await post("/publish/batch", { messages });
  while (clients.some(({ received }) => received.length < IN_A_ROW)) {
    if (performance.now() - sentAt > 20_000) break;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  const rowMs = performance.now() - sentAt;
  const rowCpuMs = cpuMs(server.pid) - before;
  const disordered = clients.filter(
    ({ received }) => received.length !== IN_A_ROW || received.some((n, i) => n !== i),
  );
  const row = `${IN_A_ROW} envelopes to ${SOCKETS} sockets`;
  const perDeliveryUs = (rowCpuMs * 1000) / IN_A_ROW / SOCKETS;
  return {
    title: "Finding the subscribers of a publish",
    setup: `One user with ${SOCKETS} sockets of ${FILTERS} filters each, in three kinds of filters. A scan reads each of the ${SOCKETS * FILTERS}. A whole publish is from the request to the sockets, without acks.`,
    quantities: [
      ...alone.map(({ name, rounds }) =>
        less(`match, ${name}`, "CPU µs", 1, {
          [OURS]: rounds.map(({ indexMs }) => indexMs * 1000),
          "a scan": rounds.map(({ scanMs }) => scanMs * 1000),
        }),
      ),
      less("a publish to nobody", "CPU ms", 2, pick({ [OURS]: costs }, "none")),
      less(`a publish to 1 of ${SOCKETS} sockets`, "CPU ms", 2, pick({ [OURS]: costs }, "one")),
      less(`${row}, all arrived`, "ms", 0, { [OURS]: [rowMs] }),
      less(`${row}, a delivery`, "CPU µs", 1, { [OURS]: [perDeliveryUs] }),
      less(`${SOCKETS} sockets subscribe to ${FILTERS} filters each`, "CPU ms", 0, {
        [OURS]: [setUpMs],
      }),
    ],
    bounds: [
      {
        what: "matching, the slowest kind",
        value: Math.max(...alone.map(({ rounds }) => median(rounds.map(({ indexMs }) => indexMs)))),
        unit: "CPU ms",
        atMost: BOUND_MS,
      },
      {
        what: "a whole publish",
        value: median(costs.map(({ one }) => one)),
        unit: "CPU ms",
        atMost: BOUND_MS,
      },
      {
        what: `sockets that did not get ${IN_A_ROW} envelopes in order`,
        value: disordered.length,
        unit: "",
        atMost: 0,
      },
    ],
  };
}
