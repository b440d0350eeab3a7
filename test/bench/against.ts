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
import { PROJECT } from "../kit/workers.ts";
import { measureFanout, startRoom } from "./fanout.bench.ts";
import { PORTIONS, startService } from "./heartbeat.bench.ts";
import { measureStorm } from "./join.bench.ts";
import { OURS, pick, type Quantity, type Result, takeTurns } from "./report.ts";
import type { BenchServer } from "./server.ts";

/** No worse, as far as such a run can measure. */
const NO_WORSE = 0.97;
const FANOUT_TURNS_PER_ROUND = 8;
const STORMS_PER_ROUND = 2;
const HEARTBEAT_TURNS_PER_ROUND = 20;

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

/** Quantities of both checkouts in which this one may not be worse. */
function compare<F>(
  figures: Figures<F>,
  before: Checkout,
  quantities: readonly (Omit<Quantity, "rounds"> & { of(figure: F): number })[],
): Quantity[] {
  const atLeast = { [before.name]: NO_WORSE };
  return quantities
    .map(({ of, ...quantity }) => ({ ...quantity, rounds: pick(figures, of), atLeast }))
    .filter(({ rounds }) => Object.values(rounds).some((values) => values.some(Boolean)));
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
  const compared = async (inFlight: number): Promise<Quantity[]> => {
    const figures = await restartAndMeasure(
      before,
      rounds,
      ({ root }) => startRoom(root),
      (servers) => measureFanout(servers, () => OURS, inFlight, FANOUT_TURNS_PER_ROUND),
    );
    const what = `${inFlight} in flight:`;
    return compare(figures, before, [
      { name: `${what} deliveries`, unit: "a second", better: "more", of: ({ rate }) => rate },
      {
        ...{ name: `${what} server CPU a delivery`, unit: "µs", better: "less", digits: 2 },
        of: ({ cpuUs }) => cpuUs,
      },
    ]);
  };
  return {
    title: "Fan-out",
    setup: `As in the fan-out benchmark: ${rounds} starts of both servers, ${FANOUT_TURNS_PER_ROUND} turns each.`,
    quantities: [...(await compared(100)), ...(await compared(1))],
  };
}

async function join(before: Checkout, rounds: number): Promise<Result> {
  const roots: Record<string, string> = { [OURS]: HERE.root, [before.name]: before.root };
  const storms = rounds * STORMS_PER_ROUND;
  const figures = await takeTurns(Object.keys(roots), storms, (name) =>
    measureStorm(OURS, roots[name]),
  );
  const less = { better: "less", digits: 2 } as const;
  return {
    title: "Join storm",
    setup: `As in the join benchmark: ${storms} storms for each checkout, each on a server of its own.`,
    quantities: compare(figures, before, [
      { name: "server CPU", unit: "s", ...less, of: ({ cpuMs }) => cpuMs / 1000 },
      { name: "time until all know all", unit: "s", ...less, of: (one) => one.elapsedMs / 1000 },
      { name: "messages", unit: "in all", ...less, of: ({ messages }) => messages },
      { name: "payload", unit: "MB", ...less, of: ({ bytes }) => bytes / 1e6 },
    ]),
  };
}

async function heartbeat(before: Checkout, rounds: number): Promise<Result> {
  const quantities: Quantity[] = [];
  for (const [what, sendPortion] of Object.entries(PORTIONS)) {
    const figures = await restartAndMeasure(
      before,
      rounds,
      ({ entry, root }) => startService(entry, root),
      async (servers) => {
        const names = Object.keys(servers);
        const measure = (name: string) => sendPortion(servers[name] as BenchServer);
        try {
          await takeTurns(names, HEARTBEAT_TURNS_PER_ROUND / 4, measure); // Warms up.
          return await takeTurns(names, HEARTBEAT_TURNS_PER_ROUND, measure);
        } finally {
          await Promise.all(Object.values(servers).map((server) => server.stop()));
        }
      },
    );
    quantities.push(
      ...compare(figures, before, [
        { name: `${what}: heartbeats`, unit: "a second", better: "more", of: ({ rate }) => rate },
        {
          ...{ name: `${what}: server CPU each`, unit: "µs", better: "less", digits: 1 },
          of: ({ cpuUs }) => cpuUs,
        },
      ]),
    );
  }
  return {
    title: "Heartbeat ingest",
    setup: `As in the heartbeat benchmark: ${rounds} starts of both Workers, ${HEARTBEAT_TURNS_PER_ROUND} turns with a fixed number of heartbeats each.`,
    quantities,
  };
}

const A_MILLION = 1_000_000;

async function cost(before: Checkout): Promise<Result> {
  const here = await playAll(OUR_DAYS, HERE.root);
  const there = await playAll(OUR_DAYS, before.root);
  const count = (what: string, of: (day: Counters) => number) => ({
    ...({ name: what, unit: "a user's day", better: "less", digits: 3 } as const),
    of,
  });
  const counted = [
    count("requests to the Worker", ({ workerRequests }) => workerRequests),
    count("requests to actors", actorRequests),
    count("rows written", ({ rowsWritten, d1RowsWritten }) => rowsWritten + d1RowsWritten),
    count("rows read", ({ rowsRead, d1RowsRead }) => rowsRead + d1RowsRead),
    count("time awake, s", ({ awakeSeconds }) => awakeSeconds),
    {
      ...({ name: "a month for a million users", unit: "$", better: "less" } as const),
      of: (day: Counters) => monthOf(scaled(day, A_MILLION)).total,
    },
  ];
  return {
    title: "Cost",
    setup: "Counters of a user's simulated day in each system, and the bill of a month.",
    quantities: OUR_DAYS.flatMap((day) =>
      compare(
        { [OURS]: [here.get(day) as Counters], [before.name]: [there.get(day) as Counters] },
        before,
        counted.map((one) => ({ ...one, name: `${day}: ${one.name}` })),
      ),
    ),
  };
}

/** What `npm run bench -- --against` compares, in this order. */
export const COMPARISONS: Record<string, (before: Checkout, rounds: number) => Promise<Result>> = {
  cost,
  fanout,
  heartbeat,
  join,
};
