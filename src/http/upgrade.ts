import { RollcallError } from "../wire/errors.ts";
import { translateRefusal } from "../wire/refusal.ts";

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
 * Passes an upgrade on to an actor.
 *
 * @param url where the actor expects it; default the request's own
 */
export async function forwardUpgrade(
  stub: { fetch(request: Request): Promise<Response> },
  request: Request,
  url: string | URL = request.url,
): Promise<Response> {
  return translateRefusal(request, await stub.fetch(new Request(url, request)));
}
