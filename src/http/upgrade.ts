import { RollcallError } from "../wire/errors.ts";

/** Whether a request asks for a WebSocket. */
export function isUpgrade(request: Request): boolean {
  return request.headers.get("Upgrade")?.toLowerCase() === "websocket";
}

/** @throws RollcallError `upgrade_required` (426) when the request does not ask for a WebSocket */
export function requireUpgrade(request: Request): void {
  if (isUpgrade(request)) return;
  const { pathname } = new URL(request.url);
  throw new RollcallError("upgrade_required", `${pathname} takes WebSockets only`);
}
