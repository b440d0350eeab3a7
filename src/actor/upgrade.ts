import { log } from "../log.ts";
import { CLOSE } from "../wire/close.ts";
import { RollcallError } from "../wire/errors.ts";
import { encodeFrame, type Hello, numberOf, type ResumeRefusal } from "../wire/frames.ts";
import { closeFor, expectsClose } from "../wire/refusal.ts";
import { selectedSubprotocol } from "../wire/subprotocol.ts";
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
  mayReadHistory(meta: M): boolean;
  env: E;
  websocketPath: string;
  /** Names the room in the log. */
  label: string;
  /** Made anew with each instance of the actor; a client sees it in `hello`. */
  epoch: string;
  connections: Connections<M>;
  sweeper: Sweeper;
  /** @throws RollcallError `unavailable` for a user who belongs to another actor */
  admit(userId: string): void;
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

/** A refused upgrade. */
export function refusal(request: Request, error: RollcallError): Response {
  if (expectsClose(request)) return closeFor(request, error);
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
  options.admit(meta.userId);
  sweeper.sweepBeforeJoin();
  const protocol = negotiateProtocol(searchParams, codec.protocol2 ? 3 : 1);
  const wanted = protocol === 3 ? parseResume(searchParams.get("resume")) : undefined;
  const found = wanted && connections.continuity.find(wanted, meta);
  // A session whose grace is over counts again.
  if (!found?.session || found.session.loss?.gone) connections.checkLimits(meta.userId);

  const { 0: client, 1: server } = new WebSocketPair();
  state.acceptWebSocket(server);
  const probes = liveness.probeMs > 0 && protocol >= 2 && searchParams.get("probe") === "1";
  if (found) connections.counters.add("resumes", found.reason ?? "resumed");
  if (found?.session) {
    resume(found, server, meta, wanted?.seq, searchParams, options);
  } else {
    let session: Session<M>;
    try {
      const path = pathOf(request, meta);
      session = Session.accept(connections, server, meta, protocol, probes, path);
    } catch (thrown) {
      server.close(CLOSE.internal, "Internal error");
      throw thrown;
    }
    connections.add(session);
    greet(session, searchParams, options, found?.reason);
    await options.onAccept(session, sweeper.deadlineOf(session), false);
    // The client's new session is there: the old one can end without a flicker.
    found?.superseded?.supersede();
  }
  const headers = selectedSubprotocol(request);
  return new Response(null, { status: 101, webSocket: client, headers });
}

/** Sends `hello` to a new session, or to that of a new page, and the events that it asks for. */
function greet<M extends ConnectionMeta, E>(
  session: Session<M>,
  query: URLSearchParams,
  options: UpgradeOptions<M, E>,
  reason: ResumeRefusal | undefined,
): void {
  if (session.protocol < 2) return;
  const { connections } = options;
  const { log, continuity } = connections;
  const since = query.get("since");
  const rewind = Math.min(Number(query.get("rewind")) || 0, continuity.options.log.events);
  const isWanted = since !== null || rewind > 0;
  const mayRead = options.mayReadHistory(session.meta);
  if (!isWanted || !mayRead || !session.reader || !continuity.options.log.durable) {
    session.enqueue(helloOf(session, options, { reason }));
    return;
  }
  const startSeq = continuity.log.seq;
  // Made when `onConnect` is done: no event is missed in between, and a client that it refuses reads none.
  session.hold((frames) => {
    const { channels } = session.meta;
    const later = since === null ? undefined : log.channelEventsAfter(since, channels);
    const isKnown = typeof later === "object";
    const events = isKnown ? later : log.lastChannelEvents(channels, rewind);
    const seq = Math.min(startSeq, events[0] ? events[0].seq - 1 : startSeq);
    const hello = helloOf(session, options, {
      reason: reason ?? (isKnown ? undefined : later),
      range: { seq, replayed: events.length },
    });
    return [hello, ...inOrder([...events.map(({ text }) => text), ...frames])];
  });
}

/** Frames by their numbers; one without a number stays behind the one before it. */
function inOrder(frames: readonly string[]): string[] {
  let last = 0;
  const numbered = frames.map((text) => {
    const seq = numberOf(text);
    if (seq >= 0) last = seq;
    return { seq: last, text };
  });
  return numbered.sort((a, b) => a.seq - b.seq).map(({ text }) => text);
}

/** The client takes up its session again, with the socket `server`. */
function resume<M extends ConnectionMeta, E>(
  found: Extract<Found<M>, { session: Session<M> }>,
  server: WebSocket,
  meta: M,
  cursor: number | undefined,
  query: URLSearchParams,
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
    greet(session, query, options, reason);
    void options.onAccept(session, deadlineMs, true);
    return;
  }
  const replayed = frames.length;
  const resumed = { seq: cursor ?? 0, replayed };
  session.enqueue(helloOf(session, options, { resumed }));
  for (const frame of frames) session.enqueue(frame);
  options.onResume(session, deadlineMs, { replayed, missedSnapshot, wasGone });
}

/** The first frame of a client of protocol 2 or 3. */
function helloOf<M extends ConnectionMeta, E>(
  { id, protocol, probes, reader, meta }: Session<M>,
  { connections, epoch }: UpgradeOptions<M, E>,
  about: {
    reason?: ResumeRefusal | undefined;
    resumed?: { seq: number; replayed: number };
    range?: { seq: number; replayed: number };
  },
): string {
  const { liveness, continuity } = connections;
  const limits = announce(connections.limits);
  const lookMs = probes ? { lookMs: liveness.probeMs } : {};
  const { pingMs } = liveness;
  if (protocol !== 3 || !reader) {
    const hello: Hello = { protocol: 2, session: id, epoch, seq: 0, limits, pingMs, ...lookMs };
    return encodeFrame({ type: "hello", data: hello });
  }
  const { reason, resumed, range = resumed } = about;
  const { durable } = continuity.options.log;
  const hello: Hello = {
    protocol,
    session: id,
    epoch: reader.epoch,
    seq: range?.seq ?? continuity.log.seq,
    resumed: resumed !== undefined,
    ...(reason && { reason }),
    replayed: range?.replayed ?? 0,
    ...(durable && { logEpoch: continuity.logEpoch }),
    nowMs: Date.now(),
    limits,
    pingMs,
    graceMs: continuity.options.graceMs,
    ...lookMs,
    ...(meta.expiresAtMs !== undefined && { expiresAtMs: meta.expiresAtMs }),
  };
  return encodeFrame({ type: "hello", data: hello });
}

/** Characters of the longest URL that is kept: an attachment holds other things, too. */
const PATH_LENGTH = 4_096;

/** What of its URL a session keeps, whose client may refresh its token. */
function pathOf({ url }: Request, { expiresAtMs }: ConnectionMeta): string | undefined {
  if (expiresAtMs === undefined) return undefined;
  const { pathname, searchParams } = new URL(url);
  for (const name of ["token", "resume", "since", "rewind", "probe"]) searchParams.delete(name);
  const path = `${pathname}?${searchParams}`;
  return path.length <= PATH_LENGTH ? path : undefined;
}

/**
 * The meta of a session whose client shows a new token.
 *
 * @throws RollcallError the refusals of `extractMeta`; `conflict` where it has to connect anew
 */
export function metaWith<M extends ConnectionMeta, E>(
  path: string | undefined,
  token: string,
  options: Pick<UpgradeOptions<M, E>, "room" | "env" | "label">,
): Promise<M> {
  if (path === undefined) {
    throw new RollcallError("conflict", "It does not expire, or its URL is too long to be kept");
  }
  // No host is known, and no other header: only what the path and the token say counts.
  const url = new URL(path, "https://rollcall.invalid");
  const headers = { Upgrade: "websocket", Authorization: `Bearer ${token}` };
  return metaOf(new Request(url, { headers }), options);
}

/**
 * The meta of a client that connects.
 *
 * @throws RollcallError why it may not
 */
export async function metaOf<M extends ConnectionMeta, E>(
  request: Request,
  { room, env, label }: Pick<UpgradeOptions<M, E>, "room" | "env" | "label">,
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
