// @module-tag slow
/** Webhooks of the real server, to a consumer on this machine. */
import { randomBytes, randomUUID } from "node:crypto";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Webhook } from "standardwebhooks";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Change } from "../../src/server/backend.ts";
import { type Server, startServer } from "./server.ts";

const SECRET = `whsec_${randomBytes(32).toString("base64")}`;
/** Who knows this part of the url can send to the consumer. */
const PATH = `hook-${randomBytes(16).toString("hex")}`;

interface Delivered {
  path: string;
  id: string;
  body: string;
  isSigned: boolean;
}

const delivered: Delivered[] = [];
/** What the consumer does with the next requests. Without one it answers 204. */
const plan: ((response: ServerResponse) => void)[] = [];

function isSigned(body: string, headers: Record<string, string>): boolean {
  try {
    new Webhook(SECRET).verify(body, headers);
    return true;
  } catch {
    return false;
  }
}

const consumer = createServer(async (request, response) => {
  let body = "";
  for await (const chunk of request.setEncoding("utf8")) body += chunk;
  const headers = request.headers as Record<string, string>;
  const id = headers["webhook-id"] ?? "";
  delivered.push({ path: request.url ?? "", id, body, isSigned: isSigned(body, headers) });
  const answer = plan.shift() ?? (() => response.writeHead(204).end());
  answer(response);
});

let server: Server;

beforeAll(async () => {
  await new Promise<void>((resolve) => consumer.listen(0, "127.0.0.1", resolve));
  const { port } = consumer.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}/${PATH}?key=${PATH}`;
  server = await startServer({
    vars: {
      ENVIRONMENT: "development",
      WEBHOOKS: JSON.stringify([{ url, rooms: "team-*" }]),
      WEBHOOK_SECRET: SECRET,
    },
  });
});
afterAll(async () => {
  await server?.stop();
  consumer.closeAllConnections();
  consumer.close();
});

async function enter(room: string, user: string): Promise<WebSocket> {
  const ws = new WebSocket(`${server.wsUrl}/ws/presence?room=${room}&token=user:${user}`);
  await new Promise((resolve, reject) => {
    ws.addEventListener("open", resolve);
    ws.addEventListener("error", reject);
  });
  return ws;
}

const changesOf = (room: string): Change[] =>
  delivered
    .flatMap(({ body }) => JSON.parse(body) as Change[])
    .filter((change) => change.room === room);

test("a consumer that fails gets the same batch again, and the log holds neither its url nor the secret", async () => {
  const room = `team-${randomUUID()}`;
  plan.push(
    (response) => response.writeHead(500).end(`The secret is ${SECRET}`),
    (response) => response.destroy(),
    (response) => response.writeHead(302, { Location: `/moved-${PATH}` }).end(),
  );
  const ann = await enter(room, "ann");
  // After 1, 2 and 4 s, a quarter more or less.
  await expect.poll(() => delivered.length, { timeout: 20_000, interval: 100 }).toBe(4);
  const attempts = new Set(delivered.map(({ id, body }) => `${id} ${body}`));
  expect(attempts.size).toBe(1);
  expect(delivered.every(({ isSigned, path }) => isSigned && path === `/${PATH}?key=${PATH}`)).toBe(
    true,
  );
  ann.close(1000);
  const types = () => [...new Set(changesOf(room).map(({ offset, type }) => `${offset} ${type}`))];
  await expect
    .poll(types, { timeout: 20_000 })
    .toEqual(["1 room.occupied", "2 user.joined", "3 user.left", "4 room.vacated"]);
  // npm shows the command line, which has the secret in tests only.
  const logs = server.logs.replaceAll(/^> .*$/gm, "");
  expect(logs.match(/"event":"webhook_failed"/g)).toHaveLength(3);
  for (const hidden of [PATH, SECRET, SECRET.slice("whsec_".length)]) {
    expect(logs).not.toContain(hidden);
  }
});
