/**
 * A consumer of webhooks, for tests in the runtime: requests that Workers send to `consumer.test` come
 * here, in Node. It checks signatures with the package of Standard Webhooks.
 */
import { Webhook } from "standardwebhooks";
import { type Answer, CONSUMER, type Delivered } from "../room/consumer.ts";

const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

interface Log {
  plan: Answer[];
  delivered: Delivered[];
}

const logs = new Map<string, Log>();

function logOf(room: string): Log {
  const log = logs.get(room) ?? { plan: [], delivered: [] };
  logs.set(room, log);
  return log;
}

/** Longer than any test waits. The runner would not end before a stream that has no end. */
function endless(): ReadableStream {
  const untilMs = Date.now() + 15_000;
  return new ReadableStream({
    async pull(controller) {
      await wait(10);
      if (Date.now() > untilMs) controller.close();
      else controller.enqueue(new Uint8Array(1_024));
    },
  });
}

async function answerWith<R>(
  answer: Answer,
  Reply: new (body?: never, init?: object) => R,
): Promise<R> {
  const reply = (body: unknown, init: object) => new Reply(body as never, init);
  if (answer === "hang") await wait(12_000);
  if (answer === "redirect")
    return reply(null, { status: 302, headers: { Location: `${CONSUMER}/moved` } });
  if (answer === "endless") return reply(endless(), { status: 200 });
  if (answer === "break") throw new Error("The line broke");
  return reply(null, { status: typeof answer === "number" ? answer : 204 });
}

/**
 * Answers what Workers send out.
 *
 * @param secret of the webhooks
 * @param Reply the class of responses
 */
export async function serveConsumer<R>(
  request: {
    url: string;
    method: string;
    headers: { get(name: string): string | null };
    text(): Promise<string>;
  },
  secret: string,
  Reply: new (body?: never, init?: object) => R,
): Promise<R> {
  const url = new URL(request.url);
  const json = (value: unknown) => new Reply(JSON.stringify(value) as never, { status: 200 });
  const room = url.searchParams.get("room");
  if (room !== null && request.method === "PUT") {
    logOf(room).plan = JSON.parse(await request.text());
    return json(null);
  }
  if (room !== null) return json(logOf(room).delivered);
  const body = await request.text();
  const header = (name: string) => request.headers.get(name) ?? "";
  const [first] = JSON.parse(body) as { room: string }[];
  const log = logOf(first?.room ?? "");
  const answer = log.plan.shift() ?? 204;
  let isSigned = true;
  try {
    new Webhook(secret).verify(body, {
      "webhook-id": header("webhook-id"),
      "webhook-timestamp": header("webhook-timestamp"),
      "webhook-signature": header("webhook-signature"),
    });
  } catch {
    isSigned = false;
  }
  log.delivered.push({ id: header("webhook-id"), isSigned, body, path: url.pathname, answer });
  return answerWith(answer, Reply);
}
