/** From counters of a day to what a month costs. */
import { DAYS_PER_MONTH, WORKER_CPU_MS } from "./model.ts";
import { ACTOR_GB, BASE, MESSAGES_PER_REQUEST, PRICES } from "./prices.ts";

/** What was counted in a day. */
export interface Counters {
  workerRequests: number;
  /** RPC calls of, and fetches by, Workers and other actors; upgrades are fetches. */
  actorCalls: number;
  /** Incoming messages that ran code of an actor. */
  messages: number;
  /** Messages that the runtime answered without the actor: free. */
  pings: number;
  /** Alarms that rang. */
  alarms: number;
  /** Starts of an instance. */
  wakeUps: number;
  /** Time that actors ran, or were idle but could not hibernate: what is billed. */
  awakeSeconds: number;
  /** The same if the 10 s until an idle actor hibernates were billed too. They are not. */
  residentSeconds: number;
  /** Of storage in actors; alarms that were set are rows written. */
  rowsRead: number;
  rowsWritten: number;
  kvReads: number;
  kvWrites: number;
  d1RowsRead: number;
  d1RowsWritten: number;
}

export interface Bill {
  /** US dollars a month, the plan's base included. */
  total: number;
  /** What it is made of, dearest first; without what costs nothing. */
  lines: { name: string; dollars: number }[];
}

export function scaled(counters: Counters, factor: number): Counters {
  const entries = Object.entries(counters).map(([name, count]) => [name, count * factor]);
  return Object.fromEntries(entries) as unknown as Counters;
}

export function added(a: Counters, b: Counters): Counters {
  const entries = Object.entries(a).map(([name, count]) => [
    name,
    count + b[name as keyof Counters],
  ]);
  return Object.fromEntries(entries) as unknown as Counters;
}

/** Requests to actors as they are billed: calls, alarms, and messages in at a fraction of one. */
export function actorRequests({ actorCalls, alarms, messages }: Counters): number {
  return actorCalls + alarms + messages / MESSAGES_PER_REQUEST;
}

/** What a month of such days costs, on an account of its own: allowances and the plan's base count. */
export function monthOf(day: Counters): Bill {
  const used: Record<keyof typeof PRICES, number> = {
    workerRequests: day.workerRequests,
    workerCpuMs: day.workerRequests * WORKER_CPU_MS,
    actorRequests: actorRequests(day),
    gbSeconds: day.awakeSeconds * ACTOR_GB,
    rowsRead: day.rowsRead,
    rowsWritten: day.rowsWritten,
    d1RowsRead: day.d1RowsRead,
    d1RowsWritten: day.d1RowsWritten,
    kvReads: day.kvReads,
    kvWrites: day.kvWrites,
  };
  const lines = Object.entries(PRICES).map(([key, { name, included, perMillion }]) => {
    const billed = Math.max(0, used[key as keyof typeof PRICES] * DAYS_PER_MONTH - included);
    return { name, dollars: (billed / 1e6) * perMillion };
  });
  const dear = lines.filter(({ dollars }) => dollars > 0).sort((a, b) => b.dollars - a.dollars);
  return { total: dear.reduce((sum, { dollars }) => sum + dollars, BASE), lines: dear };
}
