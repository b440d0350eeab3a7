/**
 * This checkout beside an earlier one of the same repository, in one run: speed of fan-out, joins and
 * heartbeats, and what the simulated days of test/cost count.
 *
 * Each checkout's Workers are bundled from its own tree, and the same clients drive both, by turns.
 * A server that has just started keeps small advantages (where its memory lies, what the runtime
 * compiled first) as long as it runs. So there are many short turns and several starts.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { actorRequests, type Counters, monthOf, scaled } from "../cost/bill.ts";
import { OUR_DAYS, playAll } from "../cost/play.ts";
import { stopAll } from "../kit/processes.ts";
import { PROJECT } from "../kit/workers.ts";
import { measureFanout, startRoom } from "./fanout.bench.ts";
import { PORTIONS, publishPortion, startService } from "./heartbeat.bench.ts";
import { measureStorm } from "./join.bench.ts";
import { less, more, OURS, pick, type Quantity, type Result, takeTurns } from "./report.ts";
import type { BenchServer } from "./server.ts";

/** No worse, as far as such a run can measure. */
const NO_WORSE = 0.97;
const FANOUT_TURNS_PER_ROUND = 8;
const STORMS_PER_ROUND = 2;
const PORTIONS_PER_ROUND = 20;

/** An earlier state of this repository, with its packages installed. */
export interface Checkout {
  root: string;
  /** As reports name it: its commit. */
  name: string;
  /** The service's main Worker, from the root. */
  entry: string;
}

/** @throws Error when `folder` holds no checkout of this repository with its packages */
export function openCheckout(folder: string): Checkout {
  const root = resolve(folder);
  const config = resolve(root, "wrangler.toml");
  if (!existsSync(config) || !existsSync(resolve(root, "node_modules"))) {
    throw new Error(`${root} is no checkout with wrangler.toml and node_modules`);
  }
  const entry = /^main = "(.+)"$/m.exec(readFileSync(config, "utf8"))?.[1];
  if (entry === undefined) throw new Error(`${config} names no main Worker`);
  const commit = execFileSync("git", ["rev-parse", "--short", "HEAD"], {
    cwd: root,
    encoding: "utf8",
  });
  return { root, name: `commit ${commit.trim()}`, entry };
}

const HERE: Checkout = { ...openCheckout(PROJECT), name: OURS };

type Figures<F> = Record<string, F[]>;

/** The quantities, with the bound that this checkout is no worse. One that is always 0 is left out. */
function compared(before: Checkout, quantities: readonly Quantity[]): Quantity[] {
  return quantities
    .filter(({ rounds }) => Object.values(rounds).some((values) => values.some(Boolean)))
    .map((quantity) => ({ ...quantity, atLeast: { [before.name]: NO_WORSE } }));
}

/** Starts the servers of both anew in each round, and measures them. */
async function restartAndMeasure<F>(
  before: Checkout,
  rounds: number,
  start: (checkout: Checkout) => Promise<BenchServer>,
  measure: (servers: Record<string, BenchServer>) => Promise<Figures<F>>,
): Promise<Figures<F>> {
  const all: Figures<F> = {};
  const checkouts = [HERE, before];
  for (let round = 0; round < rounds; round++) {
    const servers: Record<string, BenchServer> = {};
    for (const checkout of checkouts) servers[checkout.name] = await start(checkout);
    for (const [name, figures] of Object.entries(await measure(servers))) {
      all[name] = [...(all[name] ?? []), ...figures];
    }
    // The order of the processes is no advantage of either.
    checkouts.reverse();
  }
  return all;
}

async function fanout(before: Checkout, rounds: number): Promise<Result> {
  const quantities: Quantity[] = [];
  for (const inFlight of [100, 1]) {
    const figures = await restartAndMeasure(
      before,
      rounds,
      ({ root }) => startRoom(root),
      (servers) => measureFanout(servers, () => OURS, inFlight, FANOUT_TURNS_PER_ROUND),
    );
    quantities.push(
      more(`${inFlight} in flight: deliveries`, "a second", 0, pick(figures, "rate")),
      less(`${inFlight} in flight: server CPU a delivery`, "µs", 2, pick(figures, "cpuUs")),
    );
  }
  return {
    title: "Fan-out",
    setup: `As in the fan-out benchmark: ${rounds} starts of both servers, ${FANOUT_TURNS_PER_ROUND} turns each.`,
    quantities: compared(before, quantities),
  };
}

async function join(before: Checkout, rounds: number): Promise<Result> {
  const roots: Record<string, string> = { [OURS]: HERE.root, [before.name]: before.root };
  const storms = rounds * STORMS_PER_ROUND;
  const figures = await takeTurns(Object.keys(roots), storms, (name) =>
    measureStorm(OURS, roots[name]),
  );
  return {
    title: "Join storm",
    setup: `As in the join benchmark: ${storms} storms for each checkout, each on a server of its own.`,
    quantities: compared(before, [
      less("server CPU", "s", 2, pick(figures, "cpuMs", 1e-3)),
      less("time until all know all", "s", 2, pick(figures, "elapsedMs", 1e-3)),
      less("messages", "in all", 2, pick(figures, "messages")),
      less("payload", "MB", 2, pick(figures, "bytes", 1e-6)),
    ]),
  };
}

/** Sends portions to the services of both, by turns. */
function measurePortions<F>(
  before: Checkout,
  rounds: number,
  send: (server: BenchServer) => Promise<F>,
): Promise<Figures<F>> {
  return restartAndMeasure(
    before,
    rounds,
    ({ entry, root }) => startService(entry, root),
    async (servers) => {
      const names = Object.keys(servers);
      const measure = (name: string) => send(servers[name] as BenchServer);
      await takeTurns(names, PORTIONS_PER_ROUND / 4, measure); // Warms up.
      const figures = await takeTurns(names, PORTIONS_PER_ROUND, measure);
      await stopAll();
      return figures;
    },
  );
}

async function publish(before: Checkout, rounds: number): Promise<Result> {
  const figures = await measurePortions(before, rounds, publishPortion);
  return {
    title: "Publish",
    setup: `Publishes to 200 users without subscribers: ${rounds} starts of both Workers, ${PORTIONS_PER_ROUND} turns with a fixed number each.`,
    quantities: compared(before, [
      more("publishes", "a second", 0, pick(figures, "rate")),
      less("server CPU each", "µs", 1, pick(figures, "cpuUs")),
    ]),
  };
}

async function heartbeat(before: Checkout, rounds: number): Promise<Result> {
  const quantities: Quantity[] = [];
  for (const [what, send] of Object.entries(PORTIONS)) {
    const figures = await measurePortions(before, rounds, send);
    quantities.push(
      more(`${what}: heartbeats`, "a second", 0, pick(figures, "rate")),
      less(`${what}: server CPU each`, "µs", 1, pick(figures, "cpuUs")),
    );
  }
  return {
    title: "Heartbeat ingest",
    setup: `As in the heartbeat benchmark: ${rounds} starts of both Workers, ${PORTIONS_PER_ROUND} turns with a fixed number of heartbeats each.`,
    quantities: compared(before, quantities),
  };
}

const A_MILLION = 1_000_000;

async function cost(before: Checkout): Promise<Result> {
  const here = await playAll(OUR_DAYS, HERE.root);
  const there = await playAll(OUR_DAYS, before.root);
  const counted = (day: Counters) => ({
    "requests to the Worker": day.workerRequests,
    "requests to actors": actorRequests(day),
    "rows written": day.rowsWritten + day.d1RowsWritten,
    "rows read": day.rowsRead + day.d1RowsRead,
    "time awake, s": day.awakeSeconds,
    "a month for a million users, $": monthOf(scaled(day, A_MILLION)).total,
  });
  const quantities = OUR_DAYS.flatMap((day) => {
    const figures = {
      [OURS]: [counted(here.get(day) as Counters)],
      [before.name]: [counted(there.get(day) as Counters)],
    };
    const names = Object.keys(counted(here.get(day) as Counters)) as (keyof ReturnType<
      typeof counted
    >)[];
    return names.map((name) => less(`${day}: ${name}`, "a user's day", 3, pick(figures, name)));
  });
  return {
    title: "Cost",
    setup: "Counters of a user's simulated day in each system, and the bill of a month.",
    quantities: compared(before, quantities),
  };
}

/** What `npm run bench -- --against` compares, in this order. */
export const COMPARISONS: Record<string, (before: Checkout, rounds: number) => Promise<Result>> = {
  cost,
  fanout,
  heartbeat,
  join,
  publish,
};
