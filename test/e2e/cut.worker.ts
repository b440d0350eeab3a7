/** A Worker with one room that counts how often each emit is executed. */
import { createActorHandler, defineRoom } from "../../src/index.ts";
import type { CounterEvents } from "./cut.events.ts";

interface Env {
  COUNTERS: DurableObjectNamespace;
}

const counter = defineRoom<never, Env, CounterEvents>({ name: "counter", websocketPath: "/ws" });
const PREFIX = "count:";

counter.on("count", ({ actor }, { key }) => {
  const { kv } = actor.getStorage();
  const times = (kv.get<number>(PREFIX + key) ?? 0) + 1;
  kv.put(PREFIX + key, times);
  return { times };
});
counter.on("counts", ({ actor }) => {
  const rows = actor.getStorage().kv.list<number>({ prefix: PREFIX });
  return Object.fromEntries([...rows].map(([key, times]) => [key.slice(PREFIX.length), times]));
});

export const Counter = createActorHandler<never, Env>(counter);

export default {
  fetch: (request: Request, env: Env) => env.COUNTERS.getByName("one").fetch(request),
};
