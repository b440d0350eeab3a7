/**
 * Who is there, in a terminal:
 *
 *   npm run demo -- --name alice [--url ws://localhost:8787] [--room lobby] [--crowd 50]
 */
import { createInterface } from "node:readline";
import { styleText } from "node:util";
import {
  type PresenceEvents,
  type RosterEntry,
  type Status,
  VeraniClient,
} from "../../client/client.ts";
import { STATUSES } from "../../rooms/presence/roster.ts";
import { UsageError, withOptions } from "../../scripts/options.ts";
import { startCrowd } from "./crowd.ts";

const MAX_CROWD = 500;
const USAGE = `usage: npm run demo -- [options]

  --name NAME     your name; default that of your account
  --url URL       default ws://localhost:8787, where npm start listens
  --room ROOM     default lobby
  --crowd N       people that come and go beside you, 0 (default) to ${MAX_CROWD}

In the demo, type online, away, busy, say WORDS, list or quit.
`;
/** A screen is drawn at most this often. */
const FRAME_MS = 80;
const NEWS_SHOWN = 6;
/** How long sockets may take to close before we end anyway. */
const LEAVE_MS = 1_500;
/** How long what somebody says is shown, in ms. */
const SAID_MS = 30_000;

const COLORS = { online: "green", away: "yellow", busy: "red" } as const;

const OPTIONS = {
  name: { type: "string", default: process.env.USER || "guest" },
  url: { type: "string", default: "ws://localhost:8787" },
  room: { type: "string", default: "lobby" },
  crowd: { type: "string", default: "0" },
} as const;

const options = await withOptions(USAGE, OPTIONS, (values) => {
  const crowd = Number(values.crowd);
  if (!Number.isInteger(crowd) || crowd < 0 || crowd > MAX_CROWD) {
    throw new UsageError(`--crowd takes 0 to ${MAX_CROWD}, not "${values.crowd}"`);
  }
  if (!URL.canParse(values.url)) throw new UsageError(`--url takes a URL, not "${values.url}"`);
  const url = new URL("/ws/presence", values.url);
  url.searchParams.set("room", values.room);
  return { ...values, crowd, url: url.href, server: values.url };
});
const isScreen = Boolean(process.stdout.isTTY);
const leaving = new AbortController();

function join(name: string): VeraniClient<PresenceEvents> {
  // Names of development: an app would fetch a fresh JWT here.
  return new VeraniClient<PresenceEvents>(options.url, { token: `user:${name}` });
}

// What others call themselves may hold escape sequences.
const shown = (name: string): string => name.replace(/\p{C}/gu, "").slice(0, 24);
const count = (n: number, one: string, many: string): string => `${n} ${n === 1 ? one : many}`;

const news: string[] = [];

/** Something happened: a line on the screen, or in the output. */
function print(text: string): void {
  const time = new Date().toTimeString().slice(0, 8);
  if (!isScreen) {
    console.log(`${time} ${text}`);
    return;
  }
  news.push(`${styleText("dim", time)} ${text}`);
  if (news.length > NEWS_SHOWN) news.shift();
  draw();
}

function everyone(): RosterEntry[] {
  const rank = ({ userId }: RosterEntry): number => (userId === options.name ? 0 : 1);
  return [...me.roster.values()].sort(
    (a, b) => rank(a) - rank(b) || a.username.localeCompare(b.username),
  );
}

function summary(): string {
  const people = everyone();
  const devices = people.reduce((sum, person) => sum + person.devices, 0);
  return `${count(people.length, "person", "people")} on ${count(devices, "device", "devices")}`;
}

function list(): void {
  if (isScreen) {
    draw();
    return;
  }
  const people = everyone().map(({ username, status, devices }) => {
    return `${shown(username)} (${status}${devices === 1 ? "" : `, ${devices} devices`})`;
  });
  print(`${summary()}: ${people.join(", ")}`);
}

function row({ userId, username, status, devices }: RosterEntry): string {
  const name = shown(username) + (userId === options.name ? " (you)" : "");
  const says = [...me.others.values(), ...(me.me ? [me.me] : [])]
    .filter((one) => one.userId === userId && typeof one.state?.says === "string")
    .map(({ state }) => `“${shown(state?.says)}”`);
  const more = [...says, ...(devices === 1 ? [] : [styleText("dim", `${devices} devices`)])].join(
    "  ",
  );
  return `  ${styleText(COLORS[status], "●")} ${name.padEnd(31)} ${status.padEnd(8)} ${more}`;
}

let drawing: ReturnType<typeof setTimeout> | undefined;

/** Draws the screen anew, soon: a crowd that comes at once costs one drawing. */
function draw(): void {
  if (!isScreen || drawing || leaving.signal.aborted) return;
  drawing = setTimeout(() => {
    drawing = undefined;
    const state = me.getState();
    const people = everyone();
    const room = Math.max(3, (process.stdout.rows ?? 24) - NEWS_SHOWN - 8);
    const rows = people.slice(0, people.length > room ? room - 1 : room).map(row);
    if (rows.length < people.length) {
      rows.push(styleText("dim", `    and ${people.length - rows.length} more`));
    }
    const lines = [
      `${styleText("bold", `Rollcall · ${options.room}`)}   ${styleText(
        state === "connected" ? "green" : "yellow",
        state,
      )}`,
      styleText("dim", summary()),
      "",
      ...rows,
      "",
      ...news,
      "",
      styleText("dim", `${STATUSES.join(" · ")} · say <words> · list · quit`),
    ];
    process.stdout.write(`\x1b[2J\x1b[H${lines.join("\n")}\n`);
    input.prompt(true);
  }, FRAME_MS);
}

const input = createInterface({
  input: process.stdin,
  ...(isScreen && { output: process.stdout }),
  prompt: "› ",
});
const me = join(options.name);

/** What each connection said last. */
const heard = new Map<string, unknown>();

let isLost = false;
me.onStateChange((state) => {
  if (state === "connected") isLost = false;
  // Once for all attempts of one outage.
  if (state === "reconnecting" && !isLost) {
    isLost = true;
    print(`No connection to ${options.server} (is npm start running?): trying again`);
  }
  draw();
});
me.onClose(({ code, reason }) => code >= 4400 && print(`Closed: ${code} ${reason}`));
me.on("error", ({ message }) => print(message));
me.on("presence.sync", list);
me.on("presence.online", ({ username }) => print(`${shown(username)} came`));
me.on("presence.offline", ({ username, reason = "left" }) =>
  print(`${shown(username)} left${reason === "left" ? "" : ` (${reason})`}`),
);
me.on("others", (others) => {
  for (const { session, username, state } of others.values()) {
    const said = state?.says;
    if (typeof said === "string" && heard.get(session) !== said) {
      print(`${shown(username)} says ${shown(said)}`);
    }
    heard.set(session, said);
  }
  draw();
});
me.on("presence.status", ({ username, status }) => print(`${shown(username)} is ${status}`));
me.on("presence.update", ({ username, devices }) =>
  print(`${shown(username)} is on ${count(devices, "device", "devices")}`),
);

startCrowd(options.crowd, join, leaving.signal);

const isStatus = (word: string): word is Status => (STATUSES as readonly string[]).includes(word);

input.on("line", (line) => {
  const word = line.trim().toLowerCase();
  if (isStatus(word)) me.emit("presence.status", { status: word });
  else if (word === "list") me.emit("presence.list", {});
  else if (word === "quit") leave();
  else if (word.startsWith("say ")) me.setState({ says: line.trim().slice(4) }, { ttlMs: SAID_MS });
  else if (word !== "") print(`Try ${STATUSES.join(", ")}, say <words>, list or quit`);
  draw();
});
input.on("SIGINT", leave);
// Ctrl-D; where commands are piped in, their end is not ours.
input.on("close", () => process.stdin.isTTY && leave());
process.on("SIGINT", leave);
process.on("SIGTERM", leave);
// `npm run demo | head`: nobody reads on.
process.stdout.on("error", leave);

function leave(): void {
  if (leaving.signal.aborted) return;
  leaving.abort();
  clearTimeout(drawing);
  me.close();
  input.close();
  if (isScreen) process.stdout.write("\n");
  setTimeout(() => process.exit(), LEAVE_MS).unref();
}

draw();
