import { RollcallError } from "../wire/errors.ts";
import { closeCodeOf, translateRefusal } from "../wire/refusal.ts";
import { selectedSubprotocol, subprotocolToken } from "../wire/subprotocol.ts";

/** Whether a request asks for a WebSocket. One with another method than GET does not (RFC 6455, 4.1). */
export function isUpgrade(request: Request): boolean {
  return request.method === "GET" && request.headers.get("Upgrade")?.toLowerCase() === "websocket";
}

/** @throws RollcallError `upgrade_required` (426) when the request does not ask for a WebSocket */
export function requireUpgrade(request: Request): void {
  if (isUpgrade(request)) return;
  const { pathname } = new URL(request.url);
  throw new RollcallError("upgrade_required", `${pathname} takes WebSockets only`);
}

/**
 * Passes an upgrade on to an actor. A token among the subprotocols goes as a header, and the answer
 * selects the subprotocol: while a release rolls out, the actor may be of the one before, which knows
 * neither.
 *
 * @param url where the actor expects it; default the request's own
 */
export async function forwardUpgrade(
  stub: { fetch(request: Request): Promise<Response> },
  request: Request,
  url: string | URL = request.url,
): Promise<Response> {
  const forwarded = new Request(url, request);
  const token = subprotocolToken(request);
  if (token !== null && !/^bearer\b/i.test(request.headers.get("Authorization") ?? "")) {
    forwarded.headers.set("Authorization", `Bearer ${token}`);
  }
  const answer = await translateRefusal(request, await stub.fetch(forwarded));
  const selected = Object.entries(selectedSubprotocol(request));
  if (answer.status !== 101 || closeCodeOf(answer) !== undefined || selected.length === 0) {
    return answer;
  }
  const headers = new Headers(answer.headers);
  for (const [name, value] of selected) headers.set(name, value);
  return new Response(null, { status: 101, webSocket: answer.webSocket, headers });
}
