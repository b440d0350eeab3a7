/**
 * A join storm: 1000 users join one presence room at once, through the Worker as it is deployed.
 * It ends when every client knows all of them.
 */
import { Clients, cpuMs, stopAll } from "../kit/processes.ts";
import type { Storm, Task } from "./join.clients.ts";
import { less, OURS, pick, type Result, takeTurns } from "./report.ts";
import { type BenchServer, startNode, startWorker } from "./server.ts";

const USERS = 1_000;
const WARM_UP_USERS = 100;
/** Verani 0.5's own presence room under the same storm, measured on a machine of this kind. */
const VERANI = { elapsedMs: 16_500, messages: 500_500, bytes: 113e6, cpuMs: 16_000 };

interface Figures extends Storm {
  cpuMs: number;
}

interface PresenceServer {
  start(root?: string): Promise<BenchServer>;
  /** Path and query of the upgrade into a room, up to the user's name. */
  query(room: string): string;
}

/** Presence, ours and as each peer has it. */
export const PRESENCE: Record<string, PresenceServer> = {
  [OURS]: {
    start: (root) =>
      startWorker(
        "test/bench/join.worker.ts",
        { PRESENCE: "PresenceRoom" },
        { ENVIRONMENT: "development" },
        { root },
      ),
    query: (room) => `/ws/presence?v=2&room=${room}&token=user:`,
  },
  "bare Durable Object": {
    start: () => startWorker("test/bench/peers/presence.worker.ts", { ROOM: "Room" }),
    query: (room) => `/ws?room=${room}&user=`,
  },
  PartyServer: {
    start: () => startWorker("test/bench/peers/partyserver.worker.ts", { PRESENCE: "Presence" }),
    query: (room) => `/parties/presence/${room}?user=`,
  },
  "socket.io": {
    start: () => startNode(new URL("peers/socketio.ts", import.meta.url)),
    query: (room) => `/socket.io/?EIO=4&transport=websocket&room=${room}&user=`,
  },
};

/**
 * One join storm. Server and clients start anew each time: leaving costs the peers as much as joining.
 *
 * @param root of the checkout whose server is meant; default: this one
 */
export async function measureStorm(name: string, root?: string): Promise<Figures> {
  const { start, query } = PRESENCE[name] as PresenceServer;
  const server = await start(root);
  const clients = new Clients(new URL("join.clients.ts", import.meta.url));
  const { url, pid } = server;
  const run = (room: string, users: number) =>
    clients.ask<Storm>({ url, query: query(room), users, pings: name === OURS } satisfies Task);
  await run("warm-up", WARM_UP_USERS);
  const before = cpuMs(pid);
  const result = await run("storm", USERS);
  const figures = { ...result, cpuMs: cpuMs(pid) - before };
  await stopAll();
  return figures;
}

export default async function join(rounds: number): Promise<Result> {
  const figures = await takeTurns(Object.keys(PRESENCE), rounds, (name) => measureStorm(name));
  const all = { ...figures, "Verani 0.5": [VERANI] };
  const quantities = [
    less("time until all know all", "s", 2, pick(all, "elapsedMs", 1e-3)),
    less("messages", "in all", 0, pick(all, "messages"), { "Verani 0.5": 30 }),
    less("payload", "MB", 1, pick(all, "bytes", 1e-6)),
    less("server CPU", "s", 2, pick(all, "cpuMs", 1e-3), { "Verani 0.5": 20 }),
  ];
  return {
    title: "Join storm",
    setup: `${USERS} users join one room at once, 100 upgrades at a time, until every client knows all ${USERS}. Verani's figures are of an earlier measurement of its own presence room.`,
    quantities,
  };
}
