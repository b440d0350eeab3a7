/**
 * A clock that is moved by hand, in place of the isolate's own: what Workers and actors do all day is
 * done in seconds. To be imported before anything that asks for the time.
 */
import { AsyncLocalStorage } from "node:async_hooks";

/** Midnight of the simulated day, ms since the epoch. */
export const MIDNIGHT_MS = Date.UTC(2027, 0, 4);

/** Whose code runs; timers belong to it. */
export interface Owner {
  /** Tasks of its own that come next, at this very time. */
  instant: number;
  timerSet(timer: Timer): void;
  timerGone(timer: Timer): void;
  /** Runs a timer of this owner where its code may run. */
  ring(timer: Timer): Promise<void>;
}

export interface Timer {
  readonly id: number;
  readonly owner: Owner | undefined;
  readonly everyMs: number | undefined;
  readonly run: () => void;
  atMs: number;
}

const running = new AsyncLocalStorage<Owner>();

/** Runs `task` as code of `owner`, with all that it sets off. */
export function runAs<T>(owner: Owner, task: () => T): T {
  return running.run(owner, task);
}

export function currentOwner(): Owner | undefined {
  return running.getStore();
}

let now = MIDNIGHT_MS;
let ids = 1e9;
const timers = new Map<number, Timer>();

export const clock = {
  get now(): number {
    return now;
  },
  set now(ms: number) {
    now = Math.max(now, ms);
  },
  /** Back to midnight, without a timer: for the next day. */
  reset(): void {
    now = MIDNIGHT_MS;
    timers.clear();
  },
  nextTimer(): Timer | undefined {
    let next: Timer | undefined;
    for (const timer of timers.values()) if (!next || timer.atMs < next.atMs) next = timer;
    return next;
  },
  async ring(timer: Timer): Promise<void> {
    if (timer.everyMs === undefined) drop(timer);
    else timer.atMs += timer.everyMs;
    if (timer.owner) await timer.owner.ring(timer);
    else timer.run();
  },
};

function drop(timer: Timer): void {
  if (timers.delete(timer.id)) timer.owner?.timerGone(timer);
}

const realSetTimeout = globalThis.setTimeout;
const realClearTimeout = globalThis.clearTimeout;

/** Lets all go on that waits for no clock. */
export function breathe(): Promise<void> {
  return new Promise((resolve) => {
    realSetTimeout(resolve, 0);
  });
}

/** What is to happen at once does, whatever the clock says. */
function setInstant(task: (...args: never[]) => void, args: never[]) {
  const owner = currentOwner();
  if (!owner) return realSetTimeout(task, 0, ...args);
  owner.instant += 1;
  const id = realSetTimeout(() => {
    instants.delete(id);
    owner.instant -= 1;
    task(...args);
  }, 0);
  instants.set(id, owner);
  return id;
}
const instants = new Map<unknown, Owner>();

function set(task: (...args: never[]) => void, ms: number, args: never[], repeats: boolean) {
  const owner = currentOwner();
  const snapshot = owner && AsyncLocalStorage.snapshot();
  ids += 1;
  const timer: Timer = {
    id: ids,
    owner,
    everyMs: repeats ? Math.max(ms, 1) : undefined,
    run: () => (snapshot ? snapshot(() => task(...args)) : task(...args)),
    atMs: now + Math.max(ms, 1),
  };
  timers.set(timer.id, timer);
  timer.owner?.timerSet(timer);
  return timer.id;
}

function clear(id: unknown): void {
  const timer = timers.get(id as number);
  if (timer) drop(timer);
  const owner = instants.get(id);
  if (owner && instants.delete(id)) owner.instant -= 1;
  realClearTimeout(id as number);
}

const RealDate = Date;
class MovedDate extends RealDate {
  constructor(...args: unknown[]) {
    super(...((args.length === 0 ? [now] : args) as []));
  }
  static override now(): number {
    return now;
  }
}

Object.assign(globalThis, {
  Date: MovedDate,
  setTimeout: (task: (...args: never[]) => void, ms = 0, ...args: never[]) =>
    ms > 0 ? set(task, ms, args, false) : setInstant(task, args),
  setInterval: (task: (...args: never[]) => void, ms = 0, ...args: never[]) =>
    set(task, ms, args, true),
  clearTimeout: clear,
  clearInterval: clear,
});
