/**
 * A join storm: 1000 users join one presence room at once, through the Worker as it is deployed.
 * It ends when every client knows all of them.
 */
import type { Storm, Task } from "./join.clients.ts";
import { type BenchServer, Clients, cpuMs, median, startWorker } from "./server.ts";

const USERS = 1_000;
const ROUNDS = 5;
/** Verani 0.5's own presence room under the same storm, measured on a machine of this kind. */
const VERANI = { elapsedMs: 16_500, messages: 500_500, megabytes: 113, cpuMs: 16_000 };
const BOUNDS = { messages: 1 / 30, cpu: 1 / 20 };

interface Figures extends Storm {
  cpuMs: number;
}

export default async function join(): Promise<string[]> {
  const ours = await startWorker(
    "test/bench/join.worker.ts",
    { PRESENCE: "PresenceRoom" },
    { ENVIRONMENT: "development" },
  );
  const bare = await startWorker("test/bench/peers/presence.worker.ts", { ROOM: "Room" });
  const clients = new Clients(new URL("join.clients.ts", import.meta.url));

  async function storm(server: BenchServer, query: string): Promise<Figures> {
    const before = cpuMs(server.pid);
    const task: Task = { do: "storm", url: server.url, query, users: USERS };
    const result = await clients.ask<Storm>(task);
    const used = cpuMs(server.pid) - before;
    await clients.ask({ do: "leave" } satisfies Task);
    return { ...result, cpuMs: used };
  }

  try {
    const rounds: Figures[] = [];
    for (let i = 0; i <= ROUNDS; i++) {
      const figures = await storm(ours, `/ws/presence?v=2&room=storm-${i}&token=user:`);
      if (i > 0) rounds.push(figures);
    }
    const peer = await storm(bare, "/ws?user=");
    const messages = median(rounds.map((round) => round.messages));
    const cpu = median(rounds.map((round) => round.cpuMs));

    const bounds: [string, number, number][] = [
      ["messages, of Verani's", messages / VERANI.messages, BOUNDS.messages],
      ["server CPU, of Verani's", cpu / VERANI.cpuMs, BOUNDS.cpu],
    ];
    for (const [what, value, most] of bounds) {
      console.log(
        `${what.padEnd(32)} 1/${(1 / value).toFixed(1).padEnd(6)} (at most 1/${1 / most})`,
      );
    }
    console.log(
      `${"messages, of a bare room's".padEnd(32)} 1/${(peer.messages / messages).toFixed(1)}`,
    );
    console.log(`${"server CPU, of a bare room's".padEnd(32)} 1/${(peer.cpuMs / cpu).toFixed(1)}`);
    console.log(
      `\n${USERS} users; ours: median (least to most) of ${ROUNDS} rounds after a first one`,
    );
    console.table({
      rollcall: row(rounds),
      "bare room": row([peer]),
      "Verani 0.5": row([{ ...VERANI, bytes: VERANI.megabytes * 1e6 }]),
    });
    return bounds
      .filter(([, value, most]) => !(value <= most))
      .map(([what, value, most]) => `${what}: 1/${(1 / value).toFixed(1)}, at most 1/${1 / most}`);
  } finally {
    await clients.stop();
    await Promise.all([ours, bare].map((server) => server.stop()));
  }
}

function row(rounds: Figures[]): Record<string, string> {
  const cell = (of: (figures: Figures) => number, digits = 0) => {
    const values = rounds.map(of);
    const middle = median(values).toFixed(digits);
    if (values.length === 1) return middle;
    return `${middle} (${Math.min(...values).toFixed(digits)} to ${Math.max(...values).toFixed(digits)})`;
  };
  return {
    "time s": cell(({ elapsedMs }) => elapsedMs / 1000, 2),
    messages: cell(({ messages }) => messages),
    MB: cell(({ bytes }) => bytes / 1e6, 1),
    "server CPU s": cell(({ cpuMs }) => cpuMs / 1000, 2),
  };
}
