import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { vi } from "vitest";
import { moods } from "../../rooms/moods/index.ts";
import { type Mood, type MoodState, shardName, totalName } from "../../rooms/moods/tally.ts";
import { createActorHandler } from "../../src/actor/actor.ts";
import worker from "../../src/server/worker.ts";
import { TestSocket } from "./socket.ts";

const room = moods<Env>();

type Namespace = "MOODS" | "MOODS4" | "MOODS8";

/** The environment of a deployment with so many shards. */
function withShards(real: Cloudflare.Env, shards: number, namespace: Namespace): Env {
  return { ...real, MOOD_SHARDS: `${shards}`, MOODS: real[namespace] } as unknown as Env;
}

export class FourMoodShards extends createActorHandler(room) {
  constructor(state: DurableObjectState, real: Cloudflare.Env) {
    super(state, withShards(real, 4, "MOODS4"));
  }
}
export class EightMoodShards extends createActorHandler(room) {
  constructor(state: DurableObjectState, real: Cloudflare.Env) {
    super(state, withShards(real, 8, "MOODS8"));
  }
}

/** A mood count with every option. */
export const focus = moods({
  name: "focus",
  websocketPath: "/focus/socket",
  binding: "FOCUS",
  moods: ["deep", "light"],
  defaultMood: "light",
  ttlMs: 5_000,
});
export class Focus extends createActorHandler(focus) {}

/** Generous: test machines stall for seconds now and then. */
const DEADLINE_MS = 8_000;

/** One deployment: its routes and its actors, whose clock a test may stop. */
export class Deployment {
  readonly env: Env;
  readonly names: string[];
  readonly #app = worker;

  constructor(shards: 1 | 4 | 8) {
    const namespace: Namespace = shards === 1 ? "MOODS" : shards === 4 ? "MOODS4" : "MOODS8";
    this.env = withShards(env, shards, namespace);
    const counting = Array.from({ length: shards }, (_, i) => shardName(i));
    this.names = [...new Set([...counting, totalName(shards)])];
  }

  request(path: string, init: RequestInit = {}): Promise<Response> {
    return Promise.resolve(this.#app.request(`https://rollcall.test${path}`, init, this.env));
  }

  post(path: string, body: unknown): Promise<Response> {
    return this.request(path, { method: "POST", body: JSON.stringify(body) });
  }

  async heartbeat(sessionId: string, mood?: Mood): Promise<MoodState> {
    const answer = await this.post("/api/heartbeat", { sessionId, mood });
    if (answer.status !== 200) throw new Error(`${answer.status} ${await answer.text()}`);
    return answer.json();
  }

  async leave(sessionId: string): Promise<void> {
    const answer = await this.post("/api/leave", { sessionId });
    if (answer.status !== 200) throw new Error(`${answer.status} ${await answer.text()}`);
    await answer.body?.cancel();
  }

  async state(): Promise<MoodState> {
    return (await this.request("/api/presence")).json();
  }

  /** Reads the state until it `holds`: with several shards it may be a second old. */
  async stateWhen(holds: (state: MoodState) => boolean): Promise<MoodState> {
    const giveUpAt = performance.now() + DEADLINE_MS;
    for (;;) {
      const state = await this.state();
      if (holds(state)) return state;
      if (performance.now() > giveUpAt) throw new Error(`it stays at ${JSON.stringify(state)}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  async connect(sessionId: string, mood?: Mood): Promise<TestSocket> {
    const query = new URLSearchParams({ sessionId, v: "2", ...(mood && { mood }) });
    const answer = await this.request(`/ws/moods?${query}`, { headers: { Upgrade: "websocket" } });
    if (!answer.webSocket) throw new Error(`${answer.status} ${await answer.text()}`);
    return new TestSocket(answer.webSocket);
  }

  async watch(): Promise<Watcher> {
    const leaving = new AbortController();
    const answer = await this.request("/api/presence/stream", { signal: leaving.signal });
    return new Watcher(answer, leaving);
  }

  stub(name: string): DurableObjectStub<InstanceType<typeof FourMoodShards>> {
    return this.env.MOODS.getByName(name) as DurableObjectStub<FourMoodShards>;
  }

  /** Makes actors sleep, with their sockets, or crash without. */
  async evict(names: readonly string[], webSockets: "hibernate" | "close"): Promise<void> {
    for (const name of names) {
      try {
        await evictDurableObject(this.stub(name), { webSockets });
      } catch (error) {
        if (!/not.*running/i.test(String(error))) throw error;
      }
    }
  }

  /** Lets time pass on a stopped clock, and runs the alarms that fall into it. */
  async pass(ms: number): Promise<void> {
    const end = Date.now() + ms;
    for (let alarms = 0; ; alarms++) {
      if (alarms > 300) throw new Error("The alarms never end");
      const pending = await Promise.all(
        this.names.map(async (name) => ({ name, at: await this.alarmAt(name) })),
      );
      const [next] = pending.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at);
      if (!next) break;
      vi.setSystemTime(Math.max(next.at, Date.now()));
      await runDurableObjectAlarm(this.stub(next.name));
    }
    vi.setSystemTime(end);
  }

  async alarmAt(name: string): Promise<number> {
    const at = await runInDurableObject(this.stub(name), (_, state) => state.storage.getAlarm());
    return at ?? Number.POSITIVE_INFINITY;
  }
}

/** Stops the clock that actors and tests share. The runtime itself goes on by the real one. */
export function stopClock(): void {
  vi.useFakeTimers({ toFake: ["Date"] });
}

/** A reader of the stream: the states it received, with their times by the real clock. */
export class Watcher {
  readonly states: (MoodState & { cameAtMs: number })[] = [];
  readonly headers: Headers;
  readonly #leaving: AbortController;
  #wake: () => void = () => {};

  constructor(answer: Response, leaving: AbortController) {
    if (answer.status !== 200 || !answer.body) throw new Error(`no stream: ${answer.status}`);
    this.headers = answer.headers;
    this.#leaving = leaving;
    this.#read(answer.body.pipeThrough(new TextDecoderStream())).catch(() => {});
  }

  async #read(body: ReadableStream<string>): Promise<void> {
    let text = "";
    for await (const chunk of body) {
      text += chunk;
      const blocks = text.split("\n\n");
      text = blocks.pop() ?? "";
      for (const block of blocks) {
        if (!block.startsWith("data: ")) continue;
        this.states.push({ ...JSON.parse(block.slice(6)), cameAtMs: performance.now() });
        this.#wake();
      }
    }
  }

  get last(): MoodState | undefined {
    return this.states.at(-1);
  }

  async until(holds: (state: MoodState) => boolean): Promise<MoodState> {
    const deadline = AbortSignal.timeout(DEADLINE_MS);
    while (!this.last || !holds(this.last)) {
      if (deadline.aborted) throw new Error(`the stream stays at ${JSON.stringify(this.last)}`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        deadline.addEventListener("abort", () => resolve(), { once: true });
      });
    }
    return this.last;
  }

  leave(): void {
    this.#leaving.abort();
  }
}
