/** Clients of the Worker under test: `rollcall/testing` with the Worker as a target, and more patience. */
import { exports } from "cloudflare:workers";
import {
  type Fetching,
  freshName,
  openSocket,
  TestClient as TestSocket,
  upgrade as upgradeAt,
} from "../../testing/client.ts";

export { freshName, TestSocket };

/** Machines that run tests may stall for seconds. */
const TIMEOUT_MS = 8_000;

const targetOf = (target: Fetching | null) => target ?? (exports.default as Fetching);

/** Requests an upgrade of an actor (`target`), or of the Worker (null). */
export function upgrade(
  target: Fetching | null,
  path: string,
  headers: Record<string, string> = {},
): Promise<Response> {
  return upgradeAt(targetOf(target), path, headers);
}

/** A client of an actor (`target`), or of the Worker (null). */
export async function connect(
  target: Fetching | null,
  path: string,
  headers: Record<string, string> = {},
): Promise<TestSocket> {
  const ws = await openSocket(targetOf(target), path, headers);
  return new TestSocket(ws, { timeoutMs: TIMEOUT_MS });
}
