/**
 * `npm run cost [-- --publish] [system …]`: plays a day of each system and of the designs that it
 * replaces, counts, and says what a month costs. `--publish` writes the tables of docs/cost.md, and
 * docs/plots/cost.json and cost.svg.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { type BarChart, bars } from "../bench/plot.ts";
import { type Bill, type Counters, monthOf, scaled } from "./bill.ts";
import { MODEL, type System, USERS } from "./model.ts";
import { playAll } from "./play.ts";
import { ACTOR_GB, BASE, MESSAGES_PER_REQUEST, PRICES_DATE, SOURCES } from "./prices.ts";

type Users = (typeof USERS)[number];
interface Design {
  name: string;
  /** Replaced by ours, or one of ours. */
  isOurs: boolean;
  /** The day's name, where it depends on how many there are. */
  day: string | Record<Users, string>;
}

const PINGED = "sockets pinged every 5 s, no hibernation";
const WOKEN = "hibernating sockets whose pings wake it every 5 s";
const moods = (by: string): Record<Users, string> => ({
  1000: `moods/${by}-1000`,
  100000: `moods/${by}-100000`,
  1000000: `moods/${by}-100000`,
});

/** Ours first: it is what the others are compared with. */
const DESIGNS: Record<System, Design[]> = {
  presence: [
    { name: "Rollcall", isOurs: true, day: "presence/rollcall" },
    { name: PINGED, isOurs: false, day: "presence/pinged" },
    { name: WOKEN, isOurs: false, day: "presence/woken" },
  ],
  devices: [
    { name: "Rollcall, by socket", isOurs: true, day: "devices/socket" },
    { name: "Rollcall, over HTTP", isOurs: true, day: "devices/rollcall" },
    { name: "a KV value rewritten per heartbeat", isOurs: false, day: "devices/kv" },
    { name: "SSE held open in the actor", isOurs: false, day: "devices/sse" },
  ],
  fanout: [
    { name: "Rollcall", isOurs: true, day: "fanout/rollcall" },
    { name: PINGED, isOurs: false, day: "fanout/pinged" },
    { name: WOKEN, isOurs: false, day: "fanout/woken" },
  ],
  moods: [
    { name: "Rollcall, by socket", isOurs: true, day: moods("socket") },
    { name: "Rollcall, by polling", isOurs: true, day: moods("polling") },
    { name: "a KV value rewritten per heartbeat", isOurs: false, day: "moods/kv" },
  ],
  workspace: [
    { name: "Rollcall, events in D1", isOurs: true, day: "workspace/d1" },
    { name: "Rollcall, events in the actor", isOurs: true, day: "workspace/do" },
    { name: PINGED, isOurs: false, day: "workspace/pinged" },
    { name: WOKEN, isOurs: false, day: "workspace/woken" },
  ],
};

interface Result extends Design {
  months: { users: Users; perUserDay: Counters; bill: Bill }[];
}

const dayOf = ({ day }: Design, users: Users): string =>
  typeof day === "string" ? day : day[users];

// ── Tables ──────────────────────────────────────────────────────────────────────────────────────

const PLAIN = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const dollars = (amount: number): string =>
  `$${amount.toLocaleString("en", amount < 100 ? { maximumFractionDigits: 2, minimumFractionDigits: 2 } : { maximumFractionDigits: 0 })}`;
const row = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [row(head), row(head.map((_, i) => (i === 0 ? "---" : "--:"))), ...rows.map(row)].join("\n");

/** What a bill is mostly made of. */
function mostly({ total, lines }: Bill): string {
  const shares = lines.slice(0, 3).map(({ name, dollars }) => ({ name, share: dollars / total }));
  const large = shares.filter(({ share }) => share >= 0.05);
  if (large.length === 0) return "the plan itself";
  return large.map(({ name, share }) => `${name} ${Math.round(share * 100)} %`).join(", ");
}

function monthsTable(results: readonly Result[]): string {
  const [ours] = results;
  const head = [
    "a month for",
    ...USERS.map((users) => `${users.toLocaleString("en")} users`),
    "against ours",
    "a million users pay for",
  ];
  const rows = results.map(({ name, months }) => {
    const last = months.at(-1);
    const ratio = (last?.bill.total ?? 0) / (ours?.months.at(-1)?.bill.total ?? 1);
    return [
      name,
      ...months.map(({ bill }) => dollars(bill.total)),
      `${PLAIN.format(ratio)} ×`,
      last ? mostly(last.bill) : "",
    ];
  });
  return table(head, rows);
}

function countersTable(results: readonly Result[]): string {
  const columns: [string, (day: Counters) => number][] = [
    ["Worker requests", (day) => day.workerRequests],
    ["calls of actors", (day) => day.actorCalls],
    ["messages in", (day) => day.messages],
    ["answered by the runtime", (day) => day.pings],
    ["alarms", (day) => day.alarms],
    ["wake-ups", (day) => day.wakeUps],
    ["s awake", (day) => day.awakeSeconds],
    ["GB-s", (day) => day.awakeSeconds * ACTOR_GB],
    ["s in memory", (day) => day.residentSeconds],
    ["rows read", (day) => day.rowsRead + day.d1RowsRead],
    ["rows written", (day) => day.rowsWritten + day.d1RowsWritten],
    ["KV reads", (day) => day.kvReads],
    ["KV writes", (day) => day.kvWrites],
  ];
  const days = results.flatMap(({ name, day, months }) => {
    const shown = typeof day === "string" ? months.slice(-1) : months.slice(0, 2);
    return shown.map(({ users, perUserDay }) => ({
      name: typeof day === "string" ? name : `${name}, ${users.toLocaleString("en")} users`,
      perUserDay,
    }));
  });
  const used = columns.filter(([, of]) => days.some(({ perUserDay }) => of(perUserDay) > 0));
  return table(
    ["a user's day", ...used.map(([name]) => name)],
    days.map(({ name, perUserDay }) => [
      name,
      ...used.map(([, of]) => PLAIN.format(of(perUserDay))),
    ]),
  );
}

function section(system: System, results: readonly Result[]): string {
  const says = MODEL[system].says;
  return [
    `### ${system[0]?.toUpperCase()}${system.slice(1)}`,
    `The day: ${says}.`,
    monthsTable(results),
    countersTable(results),
  ].join("\n\n");
}

// ── Publishing ──────────────────────────────────────────────────────────────────────────────────

const DOCS = fileURLToPath(new URL("../../docs/", import.meta.url));
const [BEGIN, END] = [
  "<!-- npm run cost -- --publish: from here",
  "<!-- npm run cost: to here -->",
];

/** A group for each of our designs; the first of a system has those that are replaced beside it. */
function chart(all: ReadonlyMap<System, readonly Result[]>): BarChart {
  const bar = (series: string, { months }: Result) => ({
    series,
    value: months.at(-1)?.bill.total ?? BASE,
  });
  const groups = [...all].flatMap(([system, results]) => {
    const replaced = results.filter(({ isOurs }) => !isOurs).map((one) => bar(one.name, one));
    const ours = results.filter(({ isOurs }) => isOurs);
    return ours.map((one, i) => ({
      name: one.name.replace("Rollcall", system),
      bars: [bar("Rollcall", one), ...(i === 0 ? replaced : [])],
      format: dollars,
    }));
  });
  return {
    title: "A month for a million users, in US dollars",
    subtitle: `Counted on a simulated day, at Cloudflare's prices of ${PRICES_DATE}`,
    label: "US dollars a month, on a logarithmic scale from $5, the plan itself",
    groups,
    logFrom: BASE,
  };
}

/** Six digits: more is chance. */
function rounded(_: string, value: unknown): unknown {
  return typeof value === "number" ? Number(value.toPrecision(6)) : value;
}

function publish(all: ReadonlyMap<System, readonly Result[]>, text: string): void {
  const page = readFileSync(`${DOCS}cost.md`, "utf8");
  const [from, to] = [page.indexOf(BEGIN), page.indexOf(END)];
  if (from < 0 || to < from) throw new Error("docs/cost.md lacks the marks between which to write");
  const begin = page.slice(from, page.indexOf("\n", from) + 1);
  writeFileSync(`${DOCS}cost.md`, `${page.slice(0, from)}${begin}\n${text}\n\n${page.slice(to)}`);
  mkdirSync(`${DOCS}plots`, { recursive: true });
  const figures = { pricesOf: PRICES_DATE, sources: SOURCES, systems: Object.fromEntries(all) };
  writeFileSync(`${DOCS}plots/cost.json`, `${JSON.stringify(figures, rounded, 2)}\n`);
  writeFileSync(`${DOCS}plots/cost.svg`, bars(chart(all)));
}

// ── All ─────────────────────────────────────────────────────────────────────────────────────────

const { values, positionals } = parseArgs({
  options: { publish: { type: "boolean", default: false } },
  allowPositionals: true,
});
const known = Object.keys(DESIGNS) as System[];
const unknown = positionals.filter((name) => !known.includes(name as System));
if (unknown.length > 0 || (values.publish && positionals.length > 0)) {
  console.error(`There are ${known.join(", ")}; --publish takes them all`);
  process.exit(2);
}

const systems = positionals.length > 0 ? (positionals as System[]) : known;
const played = await playAll(
  systems.flatMap((system) => DESIGNS[system].flatMap((one) => USERS.map((n) => dayOf(one, n)))),
);
const all = new Map<System, Result[]>();
for (const system of systems) {
  const results = DESIGNS[system].map((design) => ({
    ...design,
    months: USERS.map((users) => {
      const perUserDay = played.get(dayOf(design, users)) as Counters;
      return { users, perUserDay, bill: monthOf(scaled(perUserDay, users)) };
    }),
  }));
  all.set(system, results);
}
const text = [
  `Prices of ${PRICES_DATE}. Each system on an account of its own, the $5 of the plan and its allowances included; ${MESSAGES_PER_REQUEST} messages in are one request.`,
  ...[...all].map(([system, results]) => section(system, results)),
].join("\n\n");
console.log(text);
if (values.publish) publish(all, text);
