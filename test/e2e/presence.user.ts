/**
 * One user in a process of its own: `presence.user.ts <ws url> <room> <name>`. Prints each presence
 * event as a line of JSON; takes `<status>` or `leave` as lines.
 */
import { createInterface } from "node:readline";
import { VeraniClient } from "../../client/client.ts";

const [url = "", room = "", name = ""] = process.argv.slice(2);
const client = new VeraniClient(`${url}/ws/presence?room=${room}`, {
  token: `user:${name}`,
  reconnection: { initialDelay: 100, maxDelay: 500 },
});
for (const event of ["sync", "online", "update", "offline", "status"]) {
  client.on(`presence.${event}`, (data) => {
    process.stdout.write(`${JSON.stringify({ event, ...data })}\n`);
  });
}
createInterface({ input: process.stdin }).on("line", (line) => {
  if (line === "leave") {
    client.close();
    process.stdin.destroy();
  } else client.emit("presence.status", { status: line });
});
