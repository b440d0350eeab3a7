/**
 * `npm run chaos:webhooks [-- --seed N --rounds 25 --short]`: a consumer of webhooks is down for minutes,
 * fails, hangs and receives repeats while the server is killed. `--short` is what `npm run test:slow`
 * plays. See README.md.
 */
import { parseArgs } from "node:util";
import { seedOf } from "../kit/random.ts";
import { print, saveLog, wasReloaded } from "../kit/stage.ts";
import { LONG, playWebhooks, SHORT } from "./hooks.ts";

const { values } = parseArgs({
  options: {
    seed: { type: "string" },
    rounds: { type: "string", default: "25" },
    short: { type: "boolean", default: false },
  },
});
const { short } = values;
const seed = seedOf(values.seed);
const rounds = Number(values.rounds);
print(`chaos of webhooks: seed ${seed}, ${rounds} rounds`);
const repeat = `npm run chaos:webhooks -- --seed ${seed} --rounds ${rounds}${short ? " --short" : ""}`;
print(`repeat with: ${repeat}\n`);
const { violations, figures, logs } = await playWebhooks({
  ...{ seed, rounds, print },
  ...(short ? SHORT : LONG),
});
print();
for (const [name, figure] of Object.entries(figures)) print(`${name}: ${figure}`);
if (wasReloaded({ logs })) {
  print("A source file changed meanwhile: wrangler restarted the runtime more often than we did.");
}
print(`${violations.length} violations`);
for (const violation of violations.slice(0, 30)) print(`  ${violation}`);
if (violations.length > 0) {
  print(`The server's log: ${saveLog("webhooks", seed, { logs })}`);
  print(`Repeat with: ${repeat}`);
}
process.exit(violations.length === 0 ? 0 : 1);
