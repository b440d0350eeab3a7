/**
 * `npm run soak [-- --minutes 60 --clients 2000 --out DIR --seed N]`: clients join and leave for an
 * hour, and nothing may be lost, late or left behind. See README.md.
 */
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { lines } from "../bench/plot.ts";
import { addUp, type Counts, type Summary, summarize } from "../kit/latency.ts";
import { LOST_MS, SETTLE_MS } from "../kit/ledger.ts";
import { Clients, cpuMs, type Memory, machineMs, memoryOf } from "../kit/processes.ts";
import { seedOf } from "../kit/random.ts";
import {
  failuresIn,
  print,
  printRow,
  runtimesOf,
  saveLog,
  startStage,
  wasReloaded,
} from "../kit/stage.ts";
import type { SoakStage } from "./cast.ts";
import type { Censuses, Report, System, Task } from "./crowd.ts";
import { FROM_MINUTE, judgeFlatness } from "./memory.ts";
import type { Stalls } from "./stalls.ts";

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "60" },
    clients: { type: "string", default: "2000" },
    out: { type: "string" },
    seed: { type: "string" },
  },
});
const minutes = Number(values.minutes);
const clients = Number(values.clients);
const seed = seedOf(values.seed);
const out = values.out ? resolve(values.out) : mkdtempSync(join(tmpdir(), "rollcall-soak-"));

/** The share of each system in the clients. */
const SHARES: Record<System, number> = { presence: 0.7, fanout: 0.15, devices: 0.1, moods: 0.05 };
/** Systems that share a process: presence receives most. */
const CROWDS: readonly (readonly System[])[] = [["presence"], ["fanout", "devices", "moods"]];
/** Kinds of delivery that must stay below {@link P99_MS}. */
const JUDGED = ["publish", "status", "heartbeat", "batched"];
const P99_MS = 100;
/** A minute is stalled when the bare echo, or a process of clients, waited longer than this, in ms … */
const STALL_MS = 200;
/** … or the hypervisor kept back more than this of the processors' time. */
const STOLEN_PERCENT = 1;
const SAMPLE_MS = 10_000;
const MINUTE_MS = 60_000;
const RAMP_MS = 60_000;
/** The keep-alives of a stream notice within this time that its reader is gone. */
const GONE_MS = 25_000;

const startedAt = new Date();
print(`soak: ${clients} clients for ${minutes} minutes, seed ${seed}`);

const { server, stage } = await startStage({
  // Wrangler's own record of every request and socket message, kept by a Worker in the same thread.
  env: { X_LOCAL_OBSERVABILITY: "false" },
});
const wrangler = server.processes().find(({ command }) => /wrangler-dist\/cli\.js/.test(command));
if (!wrangler) throw new Error("the process of wrangler is not to be found");
const pids: Record<string, number> = { ...runtimesOf(server), wrangler: wrangler.pid };

const soakStage: SoakStage = { ...stage, seed, rampMs: RAMP_MS };
const stallMeter = new Clients(new URL("./stalls.ts", import.meta.url));
const crowds = CROWDS.map(() => new Clients(new URL("./crowd.ts", import.meta.url)));
const askAll = <T>(task: Task): Promise<T[]> =>
  Promise.all(crowds.map((crowd) => crowd.ask<T>(task)));

interface Sample {
  minute: number;
  held: Record<string, Memory>;
}
interface Minute {
  minute: number;
  latencies: Record<string, Summary>;
  /** The longest waits of the bare echo and of the clients' processes, in ms. */
  echoMaxMs: number;
  lagMaxMs: number;
  stalled: boolean;
  /** In % of all cores: the server's processes, the clients', everything, and what was stolen. */
  cpu: { server: number; clients: number; machine: number; steal: number };
  connections: Censuses;
  faults: number;
}
const samples: Sample[] = [];
const history: Minute[] = [];
const all: Record<string, Counts[]> = {};
const calm: Record<string, Counts[]> = {};
const violations: string[] = [];
let figures: Record<string, Record<string, number>> = {};
let firstFaults: string[] = [];
let faultCount = 0;

const startMs = performance.now();
const minuteNow = (): number => (performance.now() - startMs) / MINUTE_MS;

function sample(): void {
  const held = Object.entries(pids).map(([name, pid]): [string, Memory] => [name, memoryOf(pid)]);
  samples.push({ minute: minuteNow(), held: Object.fromEntries(held) });
}

let used = { atMs: performance.now(), server: 0, clients: 0, busy: 0, steal: 0 };
function cpuSince(): Minute["cpu"] {
  const { busy, steal } = machineMs();
  const sum = (all: readonly number[]) => all.reduce((total, pid) => total + cpuMs(pid), 0);
  const now = {
    atMs: performance.now(),
    server: sum(Object.values(pids)),
    clients: sum(crowds.map(({ pid }) => pid)),
    busy,
    steal,
  };
  const wholeMs = (now.atMs - used.atMs) * cpus().length;
  const percent = (key: "server" | "clients" | "busy" | "steal") =>
    ((now[key] - used[key]) / wholeMs) * 100;
  const since = {
    server: percent("server"),
    clients: percent("clients"),
    machine: percent("busy"),
    steal: percent("steal"),
  };
  used = now;
  return since;
}

async function closeMinute(minute: number): Promise<void> {
  const reports = await askAll<Report>({ do: "report" });
  const { counts } = await stallMeter.ask<Stalls>({});
  const cpu = cpuSince();
  const censuses = await askAll<Censuses>({ do: "census" });
  const echoMaxMs = summarize(counts).maxMs;
  const lagMaxMs = Math.max(...reports.map((report) => report.lagMaxMs));
  const stalled = Math.max(echoMaxMs, lagMaxMs) > STALL_MS || cpu.steal > STOLEN_PERCENT;
  const latencies = Object.assign({}, ...reports.map((report) => report.latencies)) as Record<
    string,
    Counts
  >;
  for (const [kind, counts] of Object.entries(latencies)) {
    for (const into of stalled ? [all] : [all, calm]) {
      into[kind] = [addUp([...(into[kind] ?? []), counts])];
    }
  }
  take(reports);
  const summaries = Object.entries(latencies).map(([kind, counts]) => [kind, summarize(counts)]);
  history.push({
    minute,
    latencies: Object.fromEntries(summaries),
    echoMaxMs,
    lagMaxMs,
    stalled,
    cpu,
    connections: Object.assign({}, ...censuses),
    faults: faultCount,
  });
  printMinute(history.at(-1) as Minute);
}

function take(reports: readonly Report[]): void {
  figures = Object.assign({}, ...reports.map((report) => report.figures));
  const first = reports.flatMap(({ faults }) => faults.first);
  for (const fault of first) if (!firstFaults.includes(fault)) print(`     ${fault}`);
  firstFaults = first;
  faultCount = reports.reduce((sum, { faults }) => sum + faults.count, 0);
}

const ms = (value: number): string =>
  Number.isNaN(value) ? "–" : value < 100 ? value.toFixed(1) : value.toFixed(0);

function printMinute({ minute, latencies, cpu, connections, ...rest }: Minute): void {
  const held = samples.at(-1)?.held ?? {};
  const connected = Object.values(connections).reduce((sum, { counted }) => sum + counted, 0);
  const cells = [
    minute,
    connected,
    ...JUDGED.map((kind) => {
      const { p50Ms, p99Ms, maxMs } = latencies[kind] ?? summarize([]);
      return `${ms(p50Ms)}/${ms(p99Ms)}/${ms(maxMs)}`;
    }),
    Object.keys(pids)
      .map((name) => (held[name]?.rss ?? 0).toFixed(0))
      .join("/"),
    [cpu.server, cpu.clients, cpu.machine, cpu.steal].map((share) => share.toFixed(0)).join("/"),
    `${ms(rest.echoMaxMs)}/${ms(rest.lagMaxMs)}${rest.stalled ? " stall" : ""}`,
    rest.faults,
  ];
  printRow(WIDTHS, cells);
}
const WIDTHS = [5, 7, ...JUDGED.map(() => 22), 15, 19, 18, 6];
const HEAD = [
  "min",
  "conns",
  ...JUDGED.map((kind) => `${kind} p50/99/max`),
  "RSS w/p/n MiB",
  "CPU % s/c/all/stl",
  "echo/lag max ms",
  "faults",
];

cpuSince();
for (const [i, crowd] of crowds.entries()) {
  const shares = (CROWDS[i] ?? []).map((name) => [name, Math.round(clients * SHARES[name])]);
  await crowd.ask({
    do: "start",
    stage: soakStage,
    clients: Object.fromEntries(shares),
  } satisfies Task);
}
printRow(WIDTHS, HEAD);
sample();
const perMinute = MINUTE_MS / SAMPLE_MS;
let closing: Promise<void> = Promise.resolve();
for (let tick = 1; tick <= minutes * perMinute; tick++) {
  await sleep(Math.max(startMs + tick * SAMPLE_MS - performance.now(), 0));
  sample();
  // Counting takes its time, and the clock goes on.
  if (tick % perMinute === 0) closing = closing.then(() => closeMinute(tick / perMinute));
}
await closing;

// Nobody joins or leaves any more: now the counts must be equal.
await askAll({ do: "hold" });
await sleep(LOST_MS + SETTLE_MS);
await askAll({ do: "check" });
const last: Censuses = Object.assign({}, ...(await askAll<Censuses>({ do: "census" })));
for (const [name, { live, counted }] of Object.entries(last)) {
  if (live !== counted) violations.push(`${name}: ${live} are here, the server counts ${counted}`);
}
take(await askAll<Report>({ do: "report" }));
const lastFigures = figures;
await askAll({ do: "leave" });
await sleep(GONE_MS);
const empty: Censuses = Object.assign({}, ...(await askAll<Censuses>({ do: "census" })));
for (const [name, { counted }] of Object.entries(empty)) {
  if (counted !== 0) violations.push(`${name}: all have left, the server counts ${counted}`);
}
sample();
take(await askAll<Report>({ do: "report" }));
if (faultCount > 0) violations.push(`${faultCount} faults, the first of them:`, ...firstFaults);

for (const crowd of [...crowds, stallMeter]) await crowd.stop();
await server.stop();

for (const [event, lines] of failuresIn(server.logs)) {
  violations.push(`the server's log: ${lines.length} × ${event}`);
}
const wrong = server.logs.split("\n").filter((line) => / 5\d\d |\[ERROR\]/.test(line));
if (wrong.length > 0) violations.push(`the server's log: ${wrong.length} × ${wrong[0]}`);
if (wasReloaded(server)) {
  violations.push("a source file changed meanwhile, and wrangler restarted the runtime");
}

const calmMinutes = history.filter(({ stalled }) => !stalled).length;
const kinds = Object.keys(all);
const totals = Object.fromEntries(kinds.map((kind) => [kind, summarize(addUp(all[kind] ?? []))]));
const calmTotals = Object.fromEntries(
  kinds.map((kind) => [kind, summarize(addUp(calm[kind] ?? []))]),
);
const columns = [12, 12, 22];
print();
printRow(columns, ["delivery", "count", "p50/p99/max ms", `in ${calmMinutes} calm minutes`]);
for (const kind of kinds) {
  const [whole, rest] = [totals[kind], calmTotals[kind]].map(
    (summary = summarize([])) => `${ms(summary.p50Ms)}/${ms(summary.p99Ms)}/${ms(summary.maxMs)}`,
  );
  printRow(columns, [kind, totals[kind]?.count, whole, rest]);
}
for (const kind of JUDGED) {
  const p99Ms = calmTotals[kind]?.p99Ms ?? Number.NaN;
  if (!(p99Ms < P99_MS)) violations.push(`p99 of ${kind} in calm minutes: ${ms(p99Ms)} ms`);
}
const late = history.filter(({ latencies }) =>
  JUDGED.some((kind) => (latencies[kind]?.p99Ms ?? 0) >= P99_MS),
);
print(
  `${late.length} minutes with a p99 of ${P99_MS} ms or more, ${late.filter(({ stalled }) => !stalled).length} of them calm`,
);

const during = samples.slice(0, -1);
const memory = Object.fromEntries(
  Object.keys(pids).map((name) => {
    const points = during.map(({ minute, held }): [number, number] => [
      minute,
      held[name]?.rss ?? 0,
    ]);
    return [name, judgeFlatness(points)];
  }),
);
print();
printRow(columns, ["RSS", "slope %/h", "peak growth %", "flat"]);
for (const [name, flatness] of Object.entries(memory)) {
  const { slopePercentPerHour = Number.NaN, peakGrowthPercent = Number.NaN } = flatness ?? {};
  const isFlat = flatness ? (flatness.isFlat ? "yes" : "NO") : "too short to judge";
  printRow(columns, [name, slopePercentPerHour.toFixed(1), peakGrowthPercent.toFixed(1), isFlat]);
}
// The other two are wrangler's own: they are shown and not judged.
if (memory.workerd && !memory.workerd.isFlat) {
  violations.push(`workerd's memory is not flat after ${FROM_MINUTE} minutes`);
}
print("\nat the end");
for (const [name, { live, counted }] of Object.entries(last)) {
  const more = Object.entries(lastFigures[name] ?? {}).map(([key, value]) => `${key} ${value}`);
  printRow(columns, [name, `${live} here, ${counted} counted; ${more.join(", ")}`]);
}
print(`\n${violations.length} violations`);
for (const violation of violations) print(`  ${violation}`);

mkdirSync(out, { recursive: true });
const result = {
  startedAt: startedAt.toISOString(),
  minutes,
  clients,
  seed,
  cores: cpus().length,
  cpu: cpus()[0]?.model,
  calmMinutes,
  totals,
  calmTotals,
  memory,
  figures: lastFigures,
  counted: last,
  empty,
  violations,
  history,
  samples,
};
writeFileSync(join(out, "soak.json"), `${JSON.stringify(result, rounded)}\n`);
writeFileSync(join(out, "soak.svg"), plot());
print(`${join(out, "soak.json")}, ${join(out, "soak.svg")}`);
if (violations.length > 0) {
  print(`The server's log: ${saveLog("soak", seed, server)}`);
}
process.exit(violations.length === 0 ? 0 : 1);

function rounded(_: string, value: unknown): unknown {
  return typeof value === "number" ? Math.round(value * 100) / 100 : value;
}

function plot(): string {
  const names: Record<string, string> = {
    workerd: "workerd that runs Rollcall",
    proxy: "workerd of wrangler's proxy",
    wrangler: "wrangler (Node)",
  };
  const middle = (minute: number) => minute - 0.5;
  return lines({
    title: `Soak: ${clients} clients come and go for ${minutes} minutes`,
    subtitle: `${startedAt.toISOString().slice(0, 10)}, wrangler dev and all clients on ${cpus().length} cores; seed ${seed}`,
    label: "minutes",
    shades: {
      name: `the machine stalled: an echo or a client waited over ${STALL_MS} ms, or over ${STOLEN_PERCENT} % of CPU was stolen`,
      spans: history.filter(({ stalled }) => stalled).map(({ minute }) => [minute - 1, minute]),
    },
    panels: [
      {
        label: "Memory: resident set in MiB",
        series: Object.keys(pids).map((name) => ({
          name: names[name] ?? name,
          points: during.map(({ minute, held }) => [minute, held[name]?.rss ?? 0]),
        })),
      },
      {
        label: "Delivery: p99 of each minute in ms, from send to receive",
        bound: { y: P99_MS, name: `${P99_MS} ms` },
        ceiling: 1.6 * P99_MS,
        series: JUDGED.map((kind) => ({
          name: { status: "presence status", batched: "heartbeat of a batch" }[kind] ?? kind,
          points: history.map(({ minute, latencies }) => [
            middle(minute),
            latencies[kind]?.p99Ms ?? 0,
          ]),
        })),
      },
      {
        label: "Connections that the server counts",
        height: 100,
        series: Object.keys(last).map((name) => ({
          name,
          points: history.map(({ minute, connections }) => [
            minute,
            connections[name]?.counted ?? 0,
          ]),
        })),
      },
    ],
  });
}
