/**
 * One room of 500 sockets: an event to all of them, on our framework, in a bare Durable Object that
 * loops `send`, and with socket.io. All stand side by side and take turns; figures are medians of
 * the rounds, ratios medians of the ratios within a round.
 */
import type { Dialect, Round, Task } from "./fanout.clients.ts";
import { type BenchServer, Clients, cpuMs, median, startNode, startWorker } from "./server.ts";

const SOCKETS = 500;
const ROUNDS = 9;
const DURATION_MS = 900;
const WARM_UP_MS = 500;

interface Figures extends Round {
  /** Deliveries per second. */
  rate: number;
  /** CPU of the server per delivery, in µs. */
  cpuUs: number;
}

export default async function fanout(): Promise<string[]> {
  const servers: Record<Dialect, BenchServer> = {
    rollcall: await startWorker("test/bench/fanout.worker.ts", { ROOM: "Room" }),
    bare: await startWorker("test/bench/peers/bare.worker.ts", { ROOM: "Room" }),
    socketio: await startNode(new URL("peers/socketio.ts", import.meta.url)),
  };
  const dialects = Object.keys(servers) as Dialect[];
  const clients = new Clients(new URL("fanout.clients.ts", import.meta.url));

  async function measure(dialect: Dialect, inFlight: number, durationMs: number): Promise<Figures> {
    const { pid } = servers[dialect];
    const before = cpuMs(pid);
    const task: Task = { do: "round", dialect, inFlight, durationMs };
    const round = await clients.ask<Round>(task);
    const cpu = cpuMs(pid) - before;
    const rate = (round.deliveries / round.elapsedMs) * 1000;
    return { ...round, rate, cpuUs: (cpu * 1000) / round.deliveries };
  }

  async function rounds(inFlight: number): Promise<Record<Dialect, Figures[]>> {
    const figures: Record<Dialect, Figures[]> = { rollcall: [], bare: [], socketio: [] };
    for (const dialect of dialects) await measure(dialect, inFlight, WARM_UP_MS);
    for (let i = 0; i < ROUNDS; i++) {
      for (const turn of dialects.keys()) {
        const dialect = dialects[(i + turn) % dialects.length] as Dialect;
        figures[dialect].push(await measure(dialect, inFlight, DURATION_MS));
      }
    }
    return figures;
  }

  try {
    for (const dialect of dialects) {
      const { url } = servers[dialect];
      await clients.ask({ do: "connect", dialect, url, sockets: SOCKETS } satisfies Task);
    }
    const many = await rounds(100);
    const one = await rounds(1);

    const bounds: [string, number, number][] = [
      ["100 in flight, rate against the bare loop", ratio(many, "bare", rateOf), 25],
      ["100 in flight, rate against socket.io", ratio(many, "socketio", rateOf), 6],
      ["100 in flight, p99 of the bare loop against ours", 1 / ratio(many, "bare", p99Of), 1],
      ["100 in flight, p99 of socket.io against ours", 1 / ratio(many, "socketio", p99Of), 1],
      ["one in flight, rate against the bare loop", ratio(one, "bare", rateOf), 0.9],
    ];
    for (const [what, value, least] of bounds) {
      console.log(`${what.padEnd(50)} ${value.toFixed(2).padStart(7)}   (at least ${least})`);
    }
    const free: [string, number][] = [
      ["one in flight, rate against socket.io", ratio(one, "socketio", rateOf)],
      ["one in flight, p99 of socket.io against ours", 1 / ratio(one, "socketio", p99Of)],
      ["100 in flight, CPU of the bare loop against ours", 1 / ratio(many, "bare", cpuOf)],
      ["100 in flight, CPU of socket.io against ours", 1 / ratio(many, "socketio", cpuOf)],
      ["one in flight, CPU of the bare loop against ours", 1 / ratio(one, "bare", cpuOf)],
    ];
    for (const [what, value] of free) {
      console.log(`${what.padEnd(50)} ${value.toFixed(2).padStart(7)}`);
    }
    for (const [title, figures] of [
      ["100 in flight", many],
      ["one in flight", one],
    ] as const) {
      console.log(`\n${title}: median (least to most) of ${ROUNDS} rounds`);
      console.table(Object.fromEntries(dialects.map((name) => [name, row(figures[name])])));
    }
    return bounds
      .filter(([, value, least]) => !(value >= least))
      .map(([what, value, least]) => `${what}: ${value.toFixed(2)}, at least ${least}`);
  } finally {
    await clients.stop();
    await Promise.all(Object.values(servers).map((server) => server.stop()));
  }
}

const rateOf = ({ rate }: Figures) => rate;
const p99Of = ({ p99Ms }: Figures) => p99Ms;
const cpuOf = ({ cpuUs }: Figures) => cpuUs;

/** Ours over the peer's. */
function ratio(
  figures: Record<Dialect, Figures[]>,
  peer: Dialect,
  of: (figures: Figures) => number,
): number {
  return median(figures.rollcall.map((ours, i) => of(ours) / of(figures[peer][i] as Figures)));
}

function row(figures: Figures[]): Record<string, string> {
  const cell = (of: (figures: Figures) => number, digits: number) => {
    const values = figures.map(of);
    const [least, most] = [Math.min(...values), Math.max(...values)];
    return `${median(values).toFixed(digits)} (${least.toFixed(digits)} to ${most.toFixed(digits)})`;
  };
  return {
    "deliveries/s": cell(rateOf, 0),
    "CPU µs/delivery": cell(cpuOf, 2),
    "p50 ms": cell(({ p50Ms }) => p50Ms, 1),
    "p99 ms": cell(p99Of, 1),
  };
}
