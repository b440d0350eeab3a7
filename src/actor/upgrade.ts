import { log } from "../log.ts";
import { CLOSE } from "../wire/close.ts";
import { RollcallError } from "../wire/errors.ts";
import { encodeFrame, type Hello, type ResumeRefusal } from "../wire/frames.ts";
import { closeFor, expectsClose } from "../wire/refusal.ts";
import { negotiateProtocol } from "../wire/version.ts";
import type { Connections } from "./connections.ts";
import type { Found } from "./continuity.ts";
import { announce } from "./limits.ts";
import type { Sweeper } from "./liveness.ts";
import { type ConnectionMeta, checkMeta } from "./meta.ts";
import { parseResume } from "./resume.ts";
import type { ResumeInfo, RoomDefinition } from "./room.ts";
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
  onAccept(session: Session<M>, deadlineMs: number, isReload: boolean): Promise<void>;
  /** A client has resumed its session: its deadline (ms) counts, and `onResume` is due. */
  onResume(session: Session<M>, deadlineMs: number, info: ResumeInfo): void;
}

/** Accepts a client's WebSocket, or answers with the reason why not. */
export async function answerUpgrade<M extends ConnectionMeta, E>(
  request: Request,
  options: UpgradeOptions<M, E>,
): Promise<Response> {
  try {
    return await upgrade(request, options);
  } catch (thrown) {
    if (thrown instanceof RollcallError) return refusal(request, thrown);
    log("upgrade_failed", { room: options.label, error: thrown });
    return refusal(request, new RollcallError("internal", "Internal error"));
  }
}

function refusal(request: Request, error: RollcallError): Response {
  if (expectsClose(request)) return closeFor(error);
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
  const protocol = negotiateProtocol(searchParams, codec.protocol2 ? 3 : 1);
  const wanted = protocol === 3 ? parseResume(searchParams.get("resume")) : undefined;
  const found = wanted && connections.continuity.find(wanted, meta.userId);
  // A session whose grace is over counts again.
  if (!found?.session || found.session.loss?.gone) connections.checkLimits(meta.userId);

  const { 0: client, 1: server } = new WebSocketPair();
  state.acceptWebSocket(server);
  const probes = liveness.probeMs > 0 && protocol >= 2 && searchParams.get("probe") === "1";
  if (found?.session) {
    resume(found, server, meta, wanted?.seq, options);
  } else {
    let session: Session<M>;
    try {
      session = Session.accept(connections, server, meta, protocol, probes);
    } catch (thrown) {
      server.close(CLOSE.internal, "Internal error");
      throw thrown;
    }
    connections.add(session);
    if (protocol >= 2) session.enqueue(helloOf(session, options, { reason: found?.reason }));
    await options.onAccept(session, sweeper.deadlineOf(session), false);
    // The client's new session is there: the old one can end without a flicker.
    found?.superseded?.supersede();
  }
  return new Response(null, { status: 101, webSocket: client });
}

/** The client takes up its session again, with the socket `server`. */
function resume<M extends ConnectionMeta, E>(
  found: Extract<Found<M>, { session: Session<M> }>,
  server: WebSocket,
  meta: M,
  cursor: number | undefined,
  options: UpgradeOptions<M, E>,
): void {
  const { connections, sweeper } = options;
  const { session, frames, reason } = found;
  const wasGone = session.loss?.gone === true;
  const missedSnapshot = (session.reader?.snapshotSeq ?? 0) > (cursor ?? 0);
  connections.resume(session, server, meta);
  const deadlineMs = sweeper.deadlineOf(session);
  if (reason === "reloaded") {
    session.reload();
    session.enqueue(helloOf(session, options, { reason }));
    void options.onAccept(session, deadlineMs, true);
    return;
  }
  const replayed = frames.length;
  session.enqueue(helloOf(session, options, { seq: cursor, replayed }));
  for (const frame of frames) session.enqueue(frame);
  options.onResume(session, deadlineMs, { replayed, missedSnapshot, wasGone });
}

/** The first frame of a client of protocol 2 or 3. */
function helloOf<M extends ConnectionMeta, E>(
  { id, protocol, probes, reader, meta }: Session<M>,
  { connections, epoch }: UpgradeOptions<M, E>,
  resumed: { reason?: ResumeRefusal | undefined; seq?: number | undefined; replayed?: number },
): string {
  const { liveness, continuity } = connections;
  const limits = announce(connections.limits);
  const lookMs = probes ? { lookMs: liveness.probeMs } : {};
  const { pingMs } = liveness;
  if (protocol !== 3 || !reader) {
    const hello: Hello = { protocol: 2, session: id, epoch, seq: 0, limits, pingMs, ...lookMs };
    return encodeFrame({ type: "hello", data: hello });
  }
  const { reason, replayed = 0 } = resumed;
  const hello: Hello = {
    protocol,
    session: id,
    epoch: reader.epoch,
    seq: resumed.seq ?? continuity.log.seq,
    resumed: resumed.seq !== undefined,
    ...(reason && { reason }),
    replayed,
    nowMs: Date.now(),
    limits,
    pingMs,
    graceMs: continuity.options.graceMs,
    ...lookMs,
    ...(meta.expiresAtMs !== undefined && { expiresAtMs: meta.expiresAtMs }),
  };
  return encodeFrame({ type: "hello", data: hello });
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
