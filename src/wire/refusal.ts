import { cutReason } from "./close.ts";
import { closeOf, ERRORS, type ErrorCode, type RollcallError } from "./errors.ts";
import { selectedSubprotocol } from "./subprotocol.ts";

/**
 * Whether the client that sent an upgrade has to learn why it is refused by a close code. A page cannot
 * see the status of an upgrade; clients say with `v=3` that they expect the code instead.
 */
export function expectsClose(request: Request): boolean {
  if (request.headers.get("Upgrade")?.toLowerCase() !== "websocket") return false;
  return Number(new URL(request.url).searchParams.get("v") ?? 1) >= 3;
}

const codes = new WeakMap<Response, number>();

/** What a socket that {@link closeAtOnce} accepted was closed with; undefined for any other answer. */
export function closeCodeOf(answer: Response): number | undefined {
  return codes.get(answer);
}

/** Accepts the socket of a client and closes it at once. */
export function closeAtOnce(request: Request, code: number, reason: string): Response {
  const { 0: client, 1: server } = new WebSocketPair();
  server.accept();
  server.close(code, cutReason(reason));
  const headers = selectedSubprotocol(request);
  const answer = new Response(null, { status: 101, webSocket: client, headers });
  codes.set(answer, code);
  return answer;
}

/** A refused upgrade, for a client that {@link expectsClose}. */
export function closeFor(request: Request, error: RollcallError): Response {
  return closeAtOnce(request, error.closeCode, error.message);
}

/**
 * The answer of an actor to an upgrade, for the client. An actor of an earlier release, or a room that
 * answers itself, refuses with a status.
 */
export async function translateRefusal(request: Request, answer: Response): Promise<Response> {
  if (answer.webSocket || answer.status < 400 || !expectsClose(request)) return answer;
  const { status } = answer;
  const body = (await answer.json().catch(() => ({}))) as { error?: unknown; details?: unknown };
  const known = typeof body.error === "string" && Object.hasOwn(ERRORS, body.error);
  const code = known ? ERRORS[body.error as ErrorCode].close : closeOf(status);
  return closeAtOnce(request, code, typeof body.details === "string" ? body.details : "Refused");
}
