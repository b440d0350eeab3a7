import { DurableObject } from "cloudflare:workers";
import { readBody } from "../../src/http/body.ts";
import { inSpan } from "../../src/http/trace.ts";
import { log } from "../../src/log.ts";
import { CLOSE } from "../../src/wire/close.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import {
  authorizeMember,
  type MembershipEnv,
  parseMember,
  reauthorizeMember,
  refusalResponse,
  SyncRefusal,
  serializeMember,
} from "./access.ts";
import type { Member } from "./contract.ts";
import { guardMessage, MESSAGE_BYTES, parseMessage, type RelayMessage } from "./frames.ts";
import { attachmentOf, Relay, type RelayEnv } from "./relay.ts";

/** What the actor of a workspace reads of its Worker's env. */
export interface WorkspaceRoomEnv extends MembershipEnv, RelayEnv {}

/** Pulls that one socket may have open: each is in its attachment and receives every push. */
const OPEN_PULLS = 32;

/** Members that could not be checked are checked again after so long, in ms. */
const RETRY_MS = 60_000;

/**
 * One workspace: LiveStore's relay behind a membership check. The URL authorizes a client; its
 * membership is stored with the socket; every message is checked before the relay receives it.
 */
export class WorkspaceRoom extends DurableObject<WorkspaceRoomEnv> {
  /** Absent after the workspace was deleted, until the next request. */
  #relay: Promise<Relay> | undefined;
  readonly #storeId: string;

  constructor(ctx: DurableObjectState, env: WorkspaceRoomEnv) {
    super(ctx, env);
    const { name } = ctx.id;
    if (name === undefined) throw new Error("Reach a workspace's actor by its name: getByName");
    this.#storeId = name;
    void this.#opened();
  }

  #opened(): Promise<Relay> {
    this.#relay ??= this.ctx.blockConcurrencyWhile(async () => {
      const relay = new Relay({
        ctx: this.ctx,
        env: this.env,
        storeId: this.#storeId,
        authorizePush: (member) => this.#authorizePush(member),
      });
      await relay.open();
      return relay;
    });
    return this.#relay;
  }

  /** Takes the upgrades and requests that the Worker has authorised. */
  override async fetch(request: Request): Promise<Response> {
    try {
      const url = new URL(request.url);
      const member = await inSpan("sync.auth", () => authorizeMember(request, this.env));
      if (member.storeId !== this.#storeId) throw new Error("The request is another actor's");
      const sender = serializeMember(member);
      const relay = await this.#opened();
      if (url.searchParams.get("transport") === "http") {
        return await relay.post(await this.#readMessages(request), sender);
      }
      await this.#closeBy(member.admittedUntilMs);
      return await relay.connect(sender);
    } catch (thrown) {
      return refusalResponse(thrown);
    }
  }

  /** Takes a frame of LiveStore's protocol. */
  override async webSocketMessage(socket: WebSocket, frame: string | ArrayBuffer): Promise<void> {
    let message: RelayMessage;
    try {
      message = this.#guardFrame(socket, frame);
    } catch (thrown) {
      closeSocket(socket, thrown);
      return;
    }
    if (message._tag === "Request" && message.tag.endsWith(".Pull")) {
      try {
        await this.#authorizePull(socket);
      } catch (thrown) {
        closeSocket(socket, thrown);
        return;
      }
    }
    await (await this.#opened()).receive(socket, message);
  }

  /** A socket outlives a grace period and a claims version: a pull would read the whole log. */
  async #authorizePull(socket: WebSocket): Promise<void> {
    await reauthorizeMember(parseMember(attachmentOf(socket)?.headers.member ?? ""), this.env);
  }

  /** Forgets a member whose connection has ended. */
  override async webSocketClose(
    socket: WebSocket,
    code: number,
    reason: string,
    wasClean: boolean,
  ): Promise<void> {
    await (await this.#relay)?.disconnect(socket, code, reason, wasClean);
  }

  // ── Members ─────────────────────────────────────────────────────────────────────────────────

  /** A socket that outlives its grace period is closed then, also if nobody writes. */
  async #closeBy(atMs: number | undefined): Promise<void> {
    if (atMs === undefined) return;
    const { storage } = this.ctx;
    const alarmMs = await storage.getAlarm();
    if (alarmMs === null || atMs < alarmMs) await storage.setAlarm(atMs + 1);
  }

  /** Closes connections whose token has expired. */
  override async alarm(): Promise<void> {
    const ends = [...this.#members()].map(async (text) => {
      try {
        return (await this.#reauthorize(text)).admittedUntilMs ?? Number.POSITIVE_INFINITY;
      } catch (thrown) {
        const isUnsure = thrown instanceof SyncRefusal && thrown.code === "AUTH_SERVICE_ERROR";
        return isUnsure ? Date.now() + RETRY_MS : Number.POSITIVE_INFINITY;
      }
    });
    const nextMs = Math.min(Number.POSITIVE_INFINITY, ...(await Promise.all(ends)));
    if (Number.isFinite(nextMs)) await this.#closeBy(nextMs);
  }

  /** Those with a socket, as they are stored with it. */
  #members(): Set<string> {
    const texts = this.ctx
      .getWebSockets()
      .flatMap((one) => attachmentOf(one)?.headers.member ?? []);
    return new Set(texts);
  }

  /**
   * Checks that a member may still sync; otherwise closes the member's sockets.
   *
   * @throws SyncRefusal the refusal
   */
  async #reauthorize(text: string): Promise<Member> {
    try {
      const member = parseMember(text);
      await reauthorizeMember(member, this.env);
      return member;
    } catch (thrown) {
      // A failure to read KV does not end what was authorized before.
      const isRemoved = thrown instanceof SyncRefusal && thrown.code !== "AUTH_SERVICE_ERROR";
      if (isRemoved) this.#closeMember(text, thrown);
      throw thrown;
    }
  }

  /** Deletes what is stored, and closes all sockets. Only the Worker calls it, for a server of yours. */
  async deleteWorkspace(): Promise<void> {
    const relay = await this.#opened();
    this.#relay = undefined;
    for (const socket of this.ctx.getWebSockets()) socket.close(CLOSE.goingAway, "deleted");
    await this.ctx.storage.deleteAlarm();
    // Nothing may open the store anew in between.
    await this.ctx.blockConcurrencyWhile(() => relay.delete());
  }

  async #readMessages(request: Request): Promise<RelayMessage | RelayMessage[]> {
    const body = await readBody(request, MESSAGE_BYTES);
    if (body === null) throw new RollcallError("too_large", "The body is too long");
    const guard = (message: unknown) => guardMessage(message, this.#storeId, "http");
    const messages = parseMessage(body);
    return Array.isArray(messages) ? messages.map(guard) : guard(messages);
  }

  #guardFrame(socket: WebSocket, frame: string | ArrayBuffer): RelayMessage {
    if (typeof frame !== "string") {
      throw new RollcallError("bad_frame", "Frames are text, not binary");
    }
    const attachment = attachmentOf(socket);
    if (!attachment) throw new Error("A socket without an attachment");
    if (attachment.pullRequestIds.length > OPEN_PULLS) {
      throw new RollcallError("rate_limited", `A socket has at most ${OPEN_PULLS} pulls`);
    }
    return guardMessage(parseMessage(frame), this.#storeId, "ws");
  }

  /**
   * Before a push, checks that its sender is still a member, and so are all others with a socket: who
   * was removed receives nothing more.
   */
  async #authorizePush(sender: string | undefined): Promise<void> {
    if (sender === undefined) throw new Error("A push without a sender");
    const others = this.#members();
    others.delete(sender);
    const checks = [...others].map((text) => this.#reauthorize(text));
    const [own] = await Promise.allSettled([this.#reauthorize(sender), ...checks]);
    if (own?.status === "rejected") throw own.reason;
    // It stays connected: it may read.
    if (own?.value.readsOnly) throw new SyncRefusal("FORBIDDEN", "A viewer only reads");
  }

  #closeMember(member: string, refusal: SyncRefusal): void {
    for (const socket of this.ctx.getWebSockets()) {
      if (attachmentOf(socket)?.headers.member === member) closeSocket(socket, refusal);
    }
  }
}

/** Closes a socket with the code of what its frame made us throw. */
function closeSocket(socket: WebSocket, thrown: unknown): void {
  if (thrown instanceof SyncRefusal || thrown instanceof RollcallError) {
    socket.close(thrown.closeCode, thrown.code);
  } else {
    log("workspace_frame_failed", { error: thrown });
    socket.close(1011, "internal");
  }
}
