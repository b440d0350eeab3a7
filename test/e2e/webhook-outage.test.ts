// @module-tag slow
import { expect, test } from "vitest";
import { playWebhooks, SHORT } from "../chaos/hooks.ts";

const ROUNDS = 3;

test("a webhook consumer that fails in every way, while the server is killed three times, has applied each change once and in order and equals the roster in the end", {
  timeout: 300_000,
}, async () => {
  const seed = Date.now() % 1_000_000_000;
  const lines = [`npm run chaos:webhooks -- --seed ${seed} --rounds ${ROUNDS} --short`];
  const print = (line: string) => lines.push(line);
  const { violations, figures } = await playWebhooks({ seed, rounds: ROUNDS, print, ...SHORT });
  lines.push(JSON.stringify(figures));
  process.stdout.write(`${lines.join("\n")}\n`);
  expect(violations).toEqual([]);
});
