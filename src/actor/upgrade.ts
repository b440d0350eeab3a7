import { log } from "../log.ts";
import { CLOSE } from "../wire/close.ts";
import { RollcallError } from "../wire/errors.ts";
import { encodeFrame, type Hello } from "../wire/frames.ts";
import { negotiateProtocol } from "../wire/version.ts";
import type { Connections } from "./connections.ts";
import type { Sweeper } from "./liveness.ts";
import { type ConnectionMeta, checkMeta } from "./meta.ts";
import type { RoomDefinition } from "./room.ts";
import { Session } from "./session.ts";

/** What upgrades to the sockets of a room need. */
interface UpgradeOptions<M extends ConnectionMeta, E> {
  room: Pick<RoomDefinition<M, E>, "extractMeta">;
  env: E;
  websocketPath: string;
  /** Names the room in the log. */
  label: string;
  /** Made anew with each instance of the actor; a client sees it in `hello`. */
  epoch: string;
  connections: Connections<M>;
  sweeper: Sweeper;
  /** A session has been added: its deadline (ms) counts, and `onConnect` is due. */
  onAccept(session: Session<M>, deadlineMs: number): Promise<void>;
}

/** Accepts a client's WebSocket, or answers with the reason why not. */
export async function answerUpgrade<M extends ConnectionMeta, E>(
  request: Request,
  options: UpgradeOptions<M, E>,
): Promise<Response> {
  try {
    return await upgrade(request, options);
  } catch (thrown) {
    if (thrown instanceof RollcallError) return refusal(thrown);
    log("upgrade_failed", { room: options.label, error: thrown });
    return refusal(new RollcallError("internal", "Internal error"));
  }
}

function refusal(error: RollcallError): Response {
  return Response.json({ error: error.code, details: error.message }, { status: error.status });
}

async function upgrade<M extends ConnectionMeta, E>(
  request: Request,
  options: UpgradeOptions<M, E>,
): Promise<Response> {
  const { websocketPath, connections, sweeper } = options;
  const { state, codec, liveness } = connections;
  const { pathname, searchParams } = new URL(request.url);
  if (pathname !== websocketPath) {
    throw new RollcallError("not_found", `WebSocket endpoint is ${websocketPath}`);
  }
  if (request.headers.get("Upgrade")?.toLowerCase() !== "websocket") {
    throw new RollcallError("upgrade_required", `${websocketPath} takes WebSockets only`);
  }
  const meta = await metaOf(request, options);
  sweeper.sweepBeforeJoin();
  connections.checkLimits(meta.userId);

  const { 0: client, 1: server } = new WebSocketPair();
  state.acceptWebSocket(server);
  const protocol = negotiateProtocol(searchParams, codec.protocol2 ? 2 : 1);
  const probes = liveness.probeMs > 0 && protocol === 2 && searchParams.get("probe") === "1";
  let session: Session<M>;
  try {
    session = Session.accept(connections, server, meta, protocol, probes);
  } catch (thrown) {
    server.close(CLOSE.internal, "Internal error");
    throw thrown;
  }
  connections.add(session);
  if (protocol === 2) {
    const hello: Hello = {
      protocol,
      session: session.id,
      epoch: options.epoch,
      seq: 0,
      pingMs: liveness.pingMs,
      ...(probes && { lookMs: liveness.probeMs }),
    };
    session.enqueue(encodeFrame({ type: "hello", data: hello }));
  }
  await options.onAccept(session, sweeper.deadlineOf(session));
  return new Response(null, { status: 101, webSocket: client });
}

async function metaOf<M extends ConnectionMeta, E>(
  request: Request,
  { room, env, label }: UpgradeOptions<M, E>,
): Promise<M> {
  let meta: M;
  try {
    meta = room.extractMeta ? await room.extractMeta(request, env) : (defaultMeta(request) as M);
  } catch (thrown) {
    if (thrown instanceof RollcallError) throw thrown;
    // Verani's rooms refuse with a plain Error; and a bug here must not let anybody in either.
    log("refused", { room: label, error: thrown });
    throw new RollcallError("unauthorized", "Connection refused");
  }
  return checkMeta(meta);
}

function defaultMeta(request: Request): ConnectionMeta {
  const userId = new URL(request.url).searchParams.get("userId") ?? "anonymous";
  return { userId, clientId: crypto.randomUUID(), channels: ["default"] };
}
